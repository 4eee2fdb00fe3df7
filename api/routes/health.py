"""Whether the service answers, and whether it could run a job."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import QueryParams
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from api import wire
from api.compat.gates import ReadyQuery, read_gate_names
from api.gates.answers import GateAnswers
from api.live.leaving import Leaving
from api.problems import documented
from api.routes.documented import reads
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
    summary="A job submitted now would run, and the startup models and the gates that are named are there",
    operation_class=reads(query=ReadyQuery),
    responses={
        **documented(422),
        HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
            data_container=wire.Readiness, description="Something is missing.", generate_examples=False
        ),
    },
)
def ready(
    query: QueryParams,
    readiness: NamedDependency[Readiness],
    startup: NamedDependency[StartupModels],
    gate_answers: NamedDependency[GateAnswers],
    leaving: NamedDependency[Leaving],
) -> Response[wire.Readiness]:
    asked = read_gate_names(query.multi_items())
    missing = readiness.missing() | startup.missing() | {f"gate:{name}": gate_answers.lack(name) for name in asked}
    if leaving.begun:
        missing["process"] = leaving.lack()
    status = HTTP_503_SERVICE_UNAVAILABLE if any(missing.values()) else HTTP_200_OK
    return Response(readiness_view(missing), status_code=status)
