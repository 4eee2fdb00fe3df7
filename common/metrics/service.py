"""What is true of the whole service, found out when somebody asks: the same whichever process tells it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from common.lifecycle import ENDED_JOBS
from common.metrics.remembered import Remembered
from common.store.counts import ServiceSeen
from common.store.ended import JobsEnded

_REACH_S = 2.0
_TABLE_S = 5.0
_SLOW_S = 30.0
"""How long what has to be looked for on a disk is as good as new."""
_KEEP_SLOW_S = 600.0


class VolumeSeen(NamedTuple):
    """The volume with the models."""

    size_bytes: int
    free_bytes: int


class Reach(Collector):
    """Whether this process reaches the database and Redis. Asked at most every two seconds."""

    def __init__(self, *, database: Callable[[], bool], redis: Callable[[], bool]) -> None:
        self._database = Remembered(database, fresh_s=_REACH_S)
        self._redis = Remembered(redis, fresh_s=_REACH_S)

    @property
    def database(self) -> bool:
        """Whether the database answers, within some seconds."""
        return bool(self._database.value())

    @property
    def redis(self) -> bool:
        """Whether Redis answers, within some seconds."""
        return bool(self._redis.value())

    def collect(self) -> Iterable[Metric]:
        """One gauge for each."""
        told = {
            "modelferry_database_up": ("1 if this process reaches the job database.", self.database),
            "modelferry_redis_up": ("1 if this process reaches Redis.", self.redis),
        }
        for name, (means, is_up) in told.items():
            yield GaugeMetricFamily(name, means, value=float(is_up))

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that is made must not ask anybody anything."""
        return ()


class ServiceCollector(Collector):
    """Tells of jobs, queues, workers, hubs, gates and the volume. What cannot be found out is left out."""

    def __init__(
        self,
        *,
        table: Callable[[], ServiceSeen | None],
        gates: Callable[[], Mapping[str, bool] | None],
        volume: Callable[[], VolumeSeen],
        store: Callable[[], Mapping[str, int]],
    ) -> None:
        self._table = Remembered(table, fresh_s=_TABLE_S)
        self._gates = Remembered(gates, fresh_s=_TABLE_S, keep_s=_SLOW_S)
        self._volume = Remembered(volume, fresh_s=_TABLE_S)
        self._store = Remembered(store, fresh_s=_SLOW_S, keep_s=_KEEP_SLOW_S)

    def collect(self) -> Iterable[Metric]:
        """Every metric of the service. Takes some seconds at most, whatever hangs."""
        seen = self._table.value()
        if seen is not None:
            yield from _jobs(seen)
            yield from _queues(seen)
            yield _workers(seen)
            yield _by_label("modelferry_upstream_backoff_seconds", _BACKOFF, "hub", seen.pauses_s)
        gates = self._gates.value()
        if gates is not None:
            yield _by_label(
                "modelferry_gate_ready", _GATES, "gate", {name: float(is_open) for name, is_open in gates.items()}
            )
        volume = self._volume.value()
        if volume is not None:
            yield GaugeMetricFamily("modelferry_volume_size_bytes", "How large the volume is.", volume.size_bytes)
            yield GaugeMetricFamily(
                "modelferry_volume_free_bytes", "How much of the volume is free.", volume.free_bytes
            )
        store = self._store.value()
        if store is not None:
            yield _by_label("modelferry_cache_bytes", _STORE, "state", store)

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that is made must not ask anybody anything."""
        return ()


_BACKOFF = "For how many more seconds a hub that has refused requests is asked for nothing."
_GATES = "1 if all models of a gate are there."
_STORE = (
    "What the content store holds: `published` is shown by models, `unpublished` by none any more, `partial` is "
    "unfinished."
)


def _jobs(seen: ServiceSeen) -> Iterable[Metric]:
    labels = ("operation", "hub", "outcome")
    jobs = CounterMetricFamily("modelferry_jobs", "Jobs that have ended, by how.", labels=labels)
    durations = SummaryMetricFamily(
        "modelferry_job_duration_seconds",
        "From the request for a job to its end, of jobs that have ended.",
        labels=labels,
    )
    for one in _with_zeros(seen.ended):
        values = (one.operation, one.hub, one.state)
        jobs.add_metric(values, one.jobs)
        durations.add_metric(values, one.jobs, one.seconds)
    yield jobs
    yield durations
    means = "Jobs that have not ended."
    yield _by_label("modelferry_jobs_in_progress", means, "operation", seen.in_progress)


def _with_zeros(ended: Iterable[JobsEnded]) -> list[JobsEnded]:
    """A count that begins with its first event shows no increase when that happens."""
    known: dict[tuple[str, str], dict[str, JobsEnded]] = defaultdict(dict)
    for one in ended:
        known[one.operation, one.hub][one.state] = one
    return [
        states.get(state, JobsEnded(operation, hub, state, 0, 0.0))
        for (operation, hub), states in sorted(known.items())
        for state in sorted(ENDED_JOBS)
    ]


def _queues(seen: ServiceSeen) -> Iterable[Metric]:
    means = "Stages by pool: `waiting` could start, `held` wait for something else than a worker, `running` run."
    depth = GaugeMetricFamily("modelferry_queue_depth", means, labels=("pool", "state"))
    for pool, queue in seen.queues.items():
        for state, stages in (("waiting", queue.waiting), ("held", queue.held), ("running", queue.running)):
            depth.add_metric((pool, state), stages)
    yield depth
    means = "For how long the oldest stage has waited that a free worker would take."
    ages = {pool.value: queue.oldest_s for pool, queue in seen.queues.items()}
    yield _by_label("modelferry_queue_oldest_age_seconds", means, "pool", ages)


def _workers(seen: ServiceSeen) -> Metric:
    means = "Workers that have shown a sign of life lately; those that are ready take work."
    workers = GaugeMetricFamily("modelferry_workers", means, labels=("pool", "state"))
    for (pool, state), count in seen.workers.items():
        workers.add_metric((pool, state), count)
    return workers


def _by_label(name: str, means: str, label: str, values: Mapping[str, float] | Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, means, labels=(label,))
    for value, amount in values.items():
        family.add_metric((value,), amount)
    return family
