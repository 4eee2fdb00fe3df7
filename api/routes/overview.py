"""The service as a whole."""

from litestar import get
from litestar.di import NamedDependency

from api.overview import Overview
from api.overview_views import overview_view, worker_page
from api.problems import documented
from api.views import Places
from api.wire.overview import OverviewView, WorkerPage


@get(
    "/overview",
    sync_to_thread=True,
    tags=["operations"],
    summary="See the service at a glance",
    responses=documented(503),
)
def get_overview(overview: NamedDependency[Overview], places: NamedDependency[Places]) -> OverviewView:
    """As it was no more than a second ago; the hours and the volume a few seconds more."""
    return overview_view(overview.seen(), places)


@get("/workers", sync_to_thread=True, tags=["operations"], summary="List workers", responses=documented(503))
def list_workers(overview: NamedDependency[Overview], flower_url: NamedDependency[str]) -> WorkerPage:
    return worker_page(overview.workers(), flower_url)
