"""Whether the service answers, and whether it could run a job."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from api import wire
from api.startup import StartupModels
from api.usecases import Readiness
from api.views import readiness_view


@get("/health", tags=["health"], summary="The web process answers")
async def health() -> wire.Health:
    return wire.Health()


@get(
    "/ready",
    sync_to_thread=True,
    tags=["health"],
    summary="A job submitted now would run, and the startup models are there",
    responses={
        HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
            data_container=wire.Readiness, description="Something is missing.", generate_examples=False
        )
    },
)
def ready(readiness: NamedDependency[Readiness], startup: NamedDependency[StartupModels]) -> Response[wire.Readiness]:
    missing = readiness.missing() | startup.missing()
    status = HTTP_503_SERVICE_UNAVAILABLE if any(missing.values()) else HTTP_200_OK
    return Response(readiness_view(missing), status_code=status)
