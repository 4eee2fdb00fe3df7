"""Metrics at the API's own port, for those who may look; machines have a port beside it that asks for no key."""

from litestar import MediaType, Response, get
from litestar.di import NamedDependency

from common.metrics.exposition import CONTENT_TYPE, Exposition


@get(
    "/metrics",
    sync_to_thread=True,
    tags=["health"],
    summary="Counts of this process and of the service, in Prometheus' text format",
    media_type=MediaType.TEXT,
)
def metrics(exposition: NamedDependency[Exposition]) -> Response[str]:
    return Response(exposition.text().decode(), media_type=CONTENT_TYPE.removesuffix("; charset=utf-8"))
