"""What of the service as a whole a client sees."""

from collections.abc import Iterable

from msgspec import UNSET

from api.overview import OverviewSeen
from api.views import Places, job_view, limit_page
from api.wire.overview import HourView, OverviewView, VolumeView, WorkerPage, WorkerView
from common.records import WorkerRecord


def overview_view(seen: OverviewSeen, places: Places) -> OverviewView:
    """The service at a glance."""
    return OverviewView(
        jobs=seen.counts,
        volume=VolumeView(
            total_bytes=seen.volume.total_bytes,
            free_bytes=seen.volume.free_bytes,
            models=seen.volume.models,
            models_bytes=seen.volume.models_bytes,
        ),
        hours=[
            HourView(
                begins_at=hour.begins_at.isoformat(),
                bytes_fetched=hour.bytes_fetched,
                completed=hour.completed,
                failed=hour.failed,
            )
            for hour in seen.hours
        ],
        failures=[job_view(record, places) for record in seen.failures],
        queues=seen.queues,
        workers=[worker_view(worker) for worker in seen.workers],
        hubs=limit_page((), seen.hubs).hubs,
    )


def worker_page(workers: Iterable[WorkerRecord], flower_url: str) -> WorkerPage:
    """The workers, and where more is told of them."""
    return WorkerPage(workers=[worker_view(worker) for worker in workers], flower_url=flower_url or UNSET)


def worker_view(worker: WorkerRecord) -> WorkerView:
    """One worker."""
    return WorkerView(
        id=worker.id,
        pool=worker.pool,
        host=worker.host,
        slots=worker.slots,
        state="draining" if worker.draining else "ready" if worker.ready else "starting",
        started_at=worker.started_at.isoformat(),
        seen_at=worker.seen_at.isoformat(),
    )
