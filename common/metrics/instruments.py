"""What a process counts of its own work. No label ever holds a model's name: there are too many of them."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.metrics.statuses import status_class

_MINUTE, _HOUR = 60.0, 3600.0
_GIB = 1024.0**3

STAGE_SECONDS = (
    0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE,
    _HOUR, 2 * _HOUR, 4 * _HOUR, 6 * _HOUR,
)  # fmt: skip
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MEMORY_BYTES = tuple(_GIB * size for size in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256))

STAGE_OUTCOMES = ("succeeded", "retry", "crashed", "failed", "cancelled", "released", "lease_lost", "unsettled")
DELIVERY_OUTCOMES = ("delivered", "refused", "given_up", "switched_off")


def make_registry(part: str) -> CollectorRegistry:
    """The registry of one process, which says which part of Modelferry it is, and of which version."""
    registry = CollectorRegistry()
    # A plain gauge: the library's own kind for this does not work with several processes behind one port.
    build = Gauge(
        "modelferry_build_info",
        "1; the labels say which part of Modelferry this process is, and of which version.",
        ("version", "part"),
        registry=registry,
        multiprocess_mode="max",
    )
    build.labels(version("modelferry"), part).set(1)
    return registry


class WorkerInstruments:
    """What a worker counts. Any thread may call."""

    @classmethod
    def apart(cls) -> Self:
        """Instruments that nobody reads."""
        return cls(CollectorRegistry())

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stages = Counter(
            "modelferry_stages",
            "Attempts at stages that have ended, by how. `crashed` has taken its process down.",
            ("kind", "hub", "outcome"),
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "modelferry_stage_duration_seconds",
            "How long attempts at stages took, however they ended.",
            ("kind",),
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self._downloaded = Counter(
            "modelferry_download_bytes",
            "Bytes of models that came over the network. What was there already does not count.",
            ("hub",),
            registry=registry,
        )
        self._responses = Counter(
            "modelferry_upstream_responses",
            "Answers of hubs, and of where they lead, by class of status; 429 is its own, `none` is no answer.",
            ("hub", "code"),
            registry=registry,
        )
        self._store_requests = Counter(
            "modelferry_cache_requests",
            "Fetches and conversions, by whether the content store had the result already.",
            ("result",),
            registry=registry,
        )
        self._peak_bytes = Histogram(
            "modelferry_conversion_peak_memory_bytes",
            "The most memory that an attempt at a conversion had, beyond the libraries that all share.",
            buckets=MEMORY_BYTES,
            registry=registry,
        )
        for result in ("hit", "miss"):
            self._store_requests.labels(result)

    def stage_ended(self, kind: str, hub: str, outcome: str, seconds: float) -> None:
        """An attempt has ended."""
        for known in STAGE_OUTCOMES:
            # A count that begins with its first event shows no increase when that happens.
            self._stages.labels(kind, hub, known)
        self._stages.labels(kind, hub, outcome).inc()
        self._stage_seconds.labels(kind).observe(seconds)

    def fetched(self, hub: str, size: int) -> None:
        """So many more bytes came from a hub."""
        self._downloaded.labels(hub).inc(size)

    def answered(self, hub: str, counts: Mapping[str, int]) -> None:
        """A hub has given so many more answers of each class."""
        for code, count in counts.items():
            self._responses.labels(hub, code).inc(count)

    def asked_store(self, *, had_it: bool) -> None:
        """The content store was asked for the result of a stage before the work began."""
        self._store_requests.labels("hit" if had_it else "miss").inc()

    def conversion_peaked(self, peak_bytes: int) -> None:
        """An attempt at a conversion has ended; so much memory it had at most."""
        self._peak_bytes.observe(peak_bytes)


class HttpInstruments:
    """What the web process counts. Any thread may call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "modelferry_http_requests",
            "Requests to routes of the API and pages, by operation, method and class of status.",
            ("operation", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "modelferry_http_request_duration_seconds",
            "From a request to the beginning of its answer.",
            ("operation",),
            buckets=REQUEST_SECONDS,
            registry=registry,
        )

    def answered(self, operation: str, method: str, status: int | None, seconds: float) -> None:
        """An answer has begun; None is a request whose client went before that."""
        self._requests.labels(operation, method, status_class(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def refused(self, operation: str, method: str, status: int) -> None:
        """There was no route for a request, and so nothing that could take time."""
        self._requests.labels(operation, method, status_class(status)).inc()


class ReconcilerInstruments:
    """What the reconciler counts. Any thread may call."""

    @classmethod
    def apart(cls) -> Self:
        """Instruments that nobody reads."""
        return cls(CollectorRegistry())

    def __init__(self, registry: CollectorRegistry) -> None:
        self._taken_back = Counter(
            "modelferry_stages_taken_back",
            "Stages that were taken back from workers that died or stopped answering.",
            registry=registry,
        )
        self._deliveries = Counter(
            "modelferry_webhook_deliveries",
            "Attempts to send a message to a webhook, by how they ended; `refused` is tried again.",
            ("outcome",),
            registry=registry,
        )
        for outcome in DELIVERY_OUTCOMES:
            self._deliveries.labels(outcome)

    def taken_back(self, count: int) -> None:
        """So many stages were taken back."""
        self._taken_back.inc(count)

    def delivered(self, outcome: str) -> None:
        """An attempt at a delivery has ended; `outcome` is one of DELIVERY_OUTCOMES."""
        self._deliveries.labels(outcome).inc()
