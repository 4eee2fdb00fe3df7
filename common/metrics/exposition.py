"""The metrics of a process as Prometheus reads them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class Exposition:
    """What a scrape is answered with: the process's own counts, and what the collectors find out.

    With `shared`, the folder of PROMETHEUS_MULTIPROC_DIR, the counts are those of all processes that keep theirs there:
    whichever of them answers, it tells the same.
    """

    own: CollectorRegistry
    collectors: Sequence[Collector]
    shared: str = ""

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(_Told(chain(self._counts(), *(collector.collect() for collector in self.collectors))))

    def _counts(self) -> Iterator[Metric]:
        apart = CollectorRegistry()
        if self.shared:
            MultiProcessCollector(apart, path=self.shared)  # type: ignore[no-untyped-call]  # it has no types
        else:
            # What the process itself uses; of several behind one port it would be that of any of them.
            ProcessCollector(registry=apart)
            yield from self.own.collect()
        yield from apart.collect()


class _Told(Collector):
    """Metrics without the times at which their counts began: those make every count two, and nobody reads them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
