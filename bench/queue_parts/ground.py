"""What all measurements stand on: the processes, the databases with their rows, and the ceiling of bare Celery."""

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.queue_parts.processes import Process, Processes
from bench.queue_parts.rows import Rows
from tests.databases import postgres_url, sqlite_url

DATABASES = ("sqlite", "postgres")
_THREADS = 8
_DRAIN_S = 120.0
_RATE = r'\{"per_s": [\d.]+\}'

Figures = dict[str, float]
"""Name -> value; the name tells the database, the size and the unit."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    tasks: int = 4000
    stages: int = 2000
    children: int = 300
    tables: tuple[int, ...] = (1_000, 10_000, 100_000)
    backlog: int = 10_000
    workers: tuple[int, ...] = (1, 2, 4)
    rounds: int = 3
    posting_s: float = 6.0
    polling_s: float = 10.0
    paging_s: float = 2.0
    clients: int = 16
    pollers: int = 100
    ceiling_once: bool = False
    """Whether one measurement of Celery must do for all."""


QUICK = Size(
    tasks=200, stages=60, children=10, tables=(50, 200), backlog=100, workers=(1,), rounds=1,
    posting_s=0.5, polling_s=0.5, paging_s=0.2, clients=4, pollers=10,
    ceiling_once=True,
)  # fmt: skip


class Ground:
    """One run's processes and databases; all of it ends with `opened`."""

    def __init__(self, folder: Path, size: Size, databases: Sequence[str], opened: ExitStack) -> None:
        self.size = size
        self.databases = databases
        self.processes = opened.enter_context(Processes(folder))
        self.ceiling = Ceiling(self.processes, size)
        self._folder = folder
        self._opened = opened
        self._tables: dict[tuple[str, int], Rows] = {}

    def table(self, database: str, ended: int) -> Rows:
        """A database of its own with so many ended jobs, made when it is first wanted."""
        if (database, ended) not in self._tables:
            folder = self._folder / f"{database}-{ended}"
            folder.mkdir()
            url = self._opened.enter_context(sqlite_url(folder) if database == "sqlite" else postgres_url())
            rows = Rows(url)
            self._opened.callback(rows.close)
            rows.add(rows.ended, ended)
            self._tables[database, ended] = rows
        return self._tables[database, ended]


@dataclass
class Ceiling:
    """What bare Celery does on the same Redis: how many tasks a second it sends and how many it drains."""

    processes: Processes
    size: Size
    sent: list[float] = field(default_factory=list)
    drained: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Once more: call it before and after whatever is to be compared."""
        if self.sent and self.size.ceiling_once:
            return
        self.sent.append(self._send())
        self.drained.append(self._drain("events"))

    def of_sending(self, per_s: float) -> float:
        """The share of the ceiling, taken from the measurements before and after."""
        return per_s / statistics.mean(self.sent[-2:])

    def of_draining(self, per_s: float) -> float:
        """The share of the ceiling, taken from the measurements before and after."""
        return per_s / statistics.mean(self.drained[-2:])

    def figures(self) -> Figures:
        """All that was measured of Celery, and its drain without the events, which our settings have on."""
        self._send()
        silent = self._drain("silent")
        return {
            **_spread("apply_async_per_s", self.sent),
            **_spread("drain_per_s", self.drained),
            "drain_without_events_per_s": silent,
        }

    def _send(self) -> float:
        self.processes.redis.flushall()
        return _rate(self._start("send"))

    def _drain(self, events: str) -> float:
        worker = self._start("drain", _THREADS, events)
        rate = _rate(worker)
        worker.kill()
        return rate

    def _start(self, role: str, *arguments: object) -> Process:
        return self.processes.start_module("bench.queue_parts.celery_alone", role, self.size.tasks, *arguments)


def _rate(process: Process) -> float:
    return float(json.loads(process.await_line(_RATE, _DRAIN_S)[0])["per_s"])


def _spread(name: str, rates: list[float]) -> Figures:
    return {name: statistics.mean(rates), f"{name}_least": min(rates), f"{name}_most": max(rates)}
