"""What all parts of the measurement stand on: where they run, how long they may, and what a process has cost."""

import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.queue_parts.processes import Processes
from bench.queue_parts.rows import Rows
from tests.databases import postgres_url, sqlite_url

Point = dict[str, Any]
"""One measured point: `part`, what was given, and what came of it."""

DATABASES = ("sqlite", "postgres")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    load_s: float = 3.0
    """How long each load of requests lasts."""
    ended: int = 20_000
    """Ended jobs in the table, as a service has after some days."""
    stages: int = 1000
    workers: tuple[int, ...] = (1, 2, 4)
    backlogs: tuple[int, ...] = (10_000, 100_000)
    burst: int = 60
    """Stages of a known length that are offered at once."""
    grown: int = 10_000
    """Jobs that are added to see how much a table grows."""
    listeners: int = 300
    tickets: int = 2000
    models: tuple[int, ...] = (10, 1_000, 10_000)
    transfer_mb: int = 1024
    rounds: int = 2
    conversion: str = "0.5B"
    spin_s: float = 1.5


QUICK = Scale(
    load_s=1.0, ended=200, stages=60, workers=(1, 2), backlogs=(500,), burst=12, grown=500, listeners=20, tickets=100,
    models=(10, 100), transfer_mb=64, rounds=1, conversion="llama", spin_s=0.2,
)  # fmt: skip


@dataclass
class Site:
    """One run: its folder, its processes and its databases. All of it ends with `opened`."""

    folder: Path
    scale: Scale
    opened: ExitStack
    _tables: dict[str, Rows] = field(default_factory=dict)

    @cached_property
    def processes(self) -> Processes:
        """A Redis, and whatever is started beside it."""
        folder = self.folder / "processes"
        folder.mkdir()
        return self.opened.enter_context(Processes(folder))

    def table(self, database: str) -> Rows:
        """A database with ended jobs; one for all parts."""
        if database not in self._tables:
            self._tables[database] = self.opened.enter_context(self.fresh_table(database, self.scale.ended))
        return self._tables[database]

    @contextmanager
    def fresh_table(self, database: str, ended: int) -> Iterator[Rows]:
        """A database of its own with so many ended jobs."""
        folder = self.folder / f"{database}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        with sqlite_url(folder) if database == "sqlite" else postgres_url() as url:
            rows = Rows(url)
            try:
                rows.add(rows.ended, ended)
                yield rows
            finally:
                rows.close()


class Costs:
    """The processor time that processes take, with all that they start."""

    def __init__(self, **pids: int | Iterable[int]) -> None:
        self._pids = {name: [value] if isinstance(value, int) else list(value) for name, value in pids.items()}
        self._before = {name: _cpu_s(pids) for name, pids in self._pids.items()}
        self._began = time.monotonic()

    def so_far(self) -> dict[str, float]:
        """Seconds of processor time by name since this was made, and `wall`."""
        taken = {name: _cpu_s(pids) - self._before[name] for name, pids in self._pids.items()}
        return {**taken, "wall": time.monotonic() - self._began}


def _cpu_s(pids: Iterable[int]) -> float:
    total = 0.0
    for pid in pids:
        for process in _family(pid):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            # Children that have ended count with their parent.
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def database_pids(rows: Rows) -> list[int]:
    """The processes of the database's server; SQLite has none."""
    if rows.url.startswith("sqlite"):
        return []
    with psycopg.connect(rows.url) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        backend = psutil.Process(int(row[0]))
        postmaster = backend.parent()
        assert postmaster is not None
        return [postmaster.pid]


def memory_mb(pid: int) -> dict[str, float]:
    """What a process and its children hold: resident, and their proportional share of what they have in common."""
    held = [process.memory_full_info() for process in _family(pid)]
    return {
        "processes": len(held),
        "rss_mb": round(sum(one.rss for one in held) / 1e6, 1),
        "pss_mb": round(sum(one.pss for one in held) / 1e6, 1),
    }


def machine() -> dict[str, Any]:
    """What it was measured on. No names of hosts."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "modelferry": version("modelferry"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def each(databases: Sequence[str], measure: Callable[[str], Iterable[Point]]) -> Iterator[Point]:
    """The points of one measurement on every database."""
    for database in databases:
        for point in measure(database):
            yield {"database": database, **point}


def rounded(figures: Mapping[str, Any]) -> Point:
    """Four figures that count, so that a file can be read."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}


def spin(seconds: float, processes: int) -> float:
    """How much plain Python this many processes get done at once, each, in rounds a second."""
    code = (
        "import sys, time\nuntil = time.perf_counter() + float(sys.argv[1])\nrounds = 0\n"
        "while time.perf_counter() < until:\n    sum(range(1000))\n    rounds += 1\nprint(rounds)"
    )
    command = [sys.executable, "-c", code, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    told = [json.loads(process.communicate()[0]) for process in running]
    return sum(told) / len(told) / seconds
