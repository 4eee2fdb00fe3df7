"""The page of the workers: who is alive, with how many slots."""

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from api.dashboard.pages import Pages
from api.overview import Overview
from api.overview_views import worker_page
from api.wire.overview import WorkerView
from common.vocabulary import Pool

_WORDS = {Pool.DOWNLOAD: "Download workers", Pool.CONVERT: "Convert workers"}
_LACKS = {
    Pool.DOWNLOAD: "Jobs are accepted, and wait until one starts.",
    Pool.CONVERT: "Conversions are accepted, and wait until one starts. Without converters none is needed.",
}


class PoolOfWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of one kind."""

    name: Pool
    word: str
    workers: list[WorkerView]
    slots: int
    lack: str
    """What it means that there is none."""


@get("/ui/workers", sync_to_thread=True)
def workers_page(
    pages: NamedDependency[Pages],
    overview: NamedDependency[Overview],
    flower_url: NamedDependency[str],
) -> Response[str]:
    """The workers that have shown a sign of life lately, by pool."""
    page = worker_page(overview.workers(), flower_url)
    return pages.page("workers.html", active="workers", page=page, pools=[_pool(pool, page.workers) for pool in Pool])


def _pool(pool: Pool, workers: list[WorkerView]) -> PoolOfWorkers:
    own = [worker for worker in workers if worker.pool == pool]
    slots = sum(worker.slots for worker in own)
    return PoolOfWorkers(name=pool, word=_WORDS[pool], workers=own, slots=slots, lack=_LACKS[pool])
