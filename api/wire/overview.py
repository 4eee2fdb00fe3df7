"""What is seen of the service as a whole."""

from msgspec import UNSET, UnsetType

from api.wire import HubView, JobView, View
from common.vocabulary import JobState, Pool


class WorkerView(View, frozen=True):
    """A worker process."""

    id: str
    pool: Pool
    host: str
    slots: int
    state: str
    """`ready`, `starting` or `draining`."""
    started_at: str
    seen_at: str


class WorkerPage(View, frozen=True):
    """The workers that have shown a sign of life lately."""

    workers: list[WorkerView]
    flower_url: str | UnsetType = UNSET
    """Where Flower shows their tasks, if the operator has said so."""


class VolumeView(View, frozen=True):
    """The volume with the models."""

    total_bytes: int
    free_bytes: int
    models: int
    """How many are on it."""
    models_bytes: int
    """Their sizes together; what several places share counts once for each."""


class HourView(View, frozen=True):
    """What happened in one hour."""

    begins_at: str
    bytes_fetched: int
    completed: int
    failed: int


class OverviewView(View, frozen=True):
    """The service at a glance."""

    jobs: dict[JobState, int]
    volume: VolumeView
    hours: list[HourView]
    """The last 24, oldest first."""
    failures: list[JobView]
    """The newest of the last day, at most five, that nobody has tried again."""
    queues: dict[Pool, int]
    """How many stages could start now and wait for a worker."""
    workers: list[WorkerView]
    hubs: list[HubView]
