"""The service at a glance: what everybody may ask every second, found out once."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from common.artefacts.library import Library
from common.errors import NoSuchJob, NoSuchModel
from common.records import HubRecord, JobRecord, WorkerRecord
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.overview import HourRecord, OverviewStore
from common.store.stages import StageStore
from common.vocabulary import JobState, Pool

T = TypeVar("T")

_FRESH_S = 1.0
_HISTORY_S = 15.0
_VOLUME_S = 10.0


class VolumeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The volume with the models."""

    total_bytes: int
    free_bytes: int
    models: int
    models_bytes: int


class OverviewSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The service at one moment."""

    counts: dict[JobState, int]
    volume: VolumeSeen
    hours: list[HourRecord]
    failures: list[JobRecord]
    queues: dict[Pool, int]
    workers: list[WorkerRecord]
    hubs: list[HubRecord]


class _Remembered(Generic[T]):
    """A value that is found out again when it is older than `for_s`; by one thread, for all that ask."""

    def __init__(self, find: Callable[[], T], for_s: float) -> None:
        self._find = find
        self._for_s = for_s
        self._lock = threading.Lock()
        self._known: tuple[float, T] | None = None

    def value(self) -> T:
        with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > self._for_s:
                self._known = (time.monotonic(), self._find())
            return self._known[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Looks at everything, at most once a second however many ask."""

    store: OverviewStore
    jobs: JobStore
    stages: StageStore
    limits: LimitStore
    library: Library
    alive_within_s: float
    _now: _Remembered[OverviewSeen] = field(init=False)
    _hours: _Remembered[list[HourRecord]] = field(init=False)
    _volume: _Remembered[VolumeSeen] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_now", _Remembered(self._look, _FRESH_S))
        # Both take longer the more there is, and say little that is new after a second.
        object.__setattr__(self, "_hours", _Remembered(self.store.hours, _HISTORY_S))
        object.__setattr__(self, "_volume", _Remembered(self._look_at_volume, _VOLUME_S))

    def seen(self) -> OverviewSeen:
        """The service as it was no more than a moment ago. Raises ServiceUnavailable."""
        return self._now.value()

    def workers(self) -> list[WorkerRecord]:
        """The workers that have shown a sign of life lately. Raises ServiceUnavailable."""
        return self.jobs.workers(self.alive_within_s)

    def _look(self) -> OverviewSeen:
        return OverviewSeen(
            counts=self.jobs.counts(),
            volume=self._volume.value(),
            hours=self._hours.value(),
            failures=self._failures(),
            queues={pool: self.stages.claimable(pool) for pool in Pool},
            workers=self.workers(),
            hubs=self.limits.hubs(),
        )

    def _failures(self) -> list[JobRecord]:
        found = []
        for job_id in self.store.failures():
            try:
                found.append(self.jobs.job(job_id))
            except NoSuchJob:
                # Somebody has had it forgotten in this moment.
                continue
        return found

    def _look_at_volume(self) -> VolumeSeen:
        models = self.library.models()
        sizes = 0
        count = 0
        for model in models:
            try:
                sizes += self.library.standing(model).bytes
            except NoSuchModel:
                continue
            count += 1
        disk = shutil.disk_usage(self.library.volume.root)
        return VolumeSeen(total_bytes=disk.total, free_bytes=disk.free, models=count, models_bytes=sizes)
