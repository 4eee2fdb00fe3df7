"""Requests: how many one web process answers, what each costs it and its database, and what a second one brings."""

from __future__ import annotations

import itertools
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bench.capacity_parts.ground import DATABASES, Costs, Point, Site, database_pids, each, rounded
from bench.queue_parts.processes import Process
from bench.queue_parts.rows import Rows

CLIENTS = 16
POLLERS = 100
EVERY_S = 0.5
_POST = "/api/v1/models/download?download_path=bench"
_MOST_PER_S = 1500
_PATIENCE_S = 60.0

Request = tuple[str, str, str]


def submit(site: Site) -> Iterator[Point]:
    """Accepted POSTs, each of a model of its own: from one client, from many, and to two web processes."""

    def measure(database: str) -> Iterator[Point]:
        rows = site.table(database)
        for apis, clients in ((1, 1), (1, CLIENTS), (2, CLIENTS)):
            with _web(site, rows, apis) as web:
                bodies = [_posts(site.scale.load_s, clients) for _ in range(clients)]
                yield {"part": "submit", "apis": apis, **web.load(bodies, site.scale.load_s)}
            rows.remove(rows.job_ids(ended=False))

    return each(DATABASES, measure)


def poll(site: Site) -> Iterator[Point]:
    """GET /jobs/{id}: as fast as it goes, and by clients that ask twice a second."""

    def measure(database: str) -> Iterator[Point]:
        rows = site.table(database)
        asked = [[("GET", f"/api/v1/jobs/{job}", "")] for job in rows.job_ids(ended=True)[:POLLERS]]
        asked = list(itertools.islice(itertools.cycle(asked), POLLERS))
        for apis, clients, every_s in ((1, 1, None), (1, CLIENTS, None), (2, CLIENTS, None), (1, POLLERS, EVERY_S)):
            with _web(site, rows, apis) as web:
                told = web.load(asked[:clients], site.scale.load_s, every_s)
                yield {"part": "poll", "apis": apis, **told}

    return each(DATABASES, measure)


def mixed(site: Site) -> Iterator[Point]:
    """POSTs as fast as they go beside clients that ask twice a second: what one takes from the other."""

    def measure(database: str) -> Iterator[Point]:
        rows, seconds = site.table(database), site.scale.load_s
        jobs = list(itertools.islice(itertools.cycle(rows.job_ids(ended=True)), POLLERS))
        asked = [[("GET", f"/api/v1/jobs/{job}", "")] for job in jobs]
        with _web(site, rows, 1) as web:
            pollers = web.begin(web.ports[0], asked, seconds + 1, EVERY_S)
            told = web.load([_posts(seconds, CLIENTS) for _ in range(CLIENTS)], seconds)
            polled = _Told.of(pollers, seconds)
            yield {"part": "mixed", "apis": 1, "pollers": POLLERS, "polls_per_s": round(polled.per_s, 1), **told}
        rows.remove(rows.job_ids(ended=False))

    return each(DATABASES, measure)


@dataclass(frozen=True)
class _Told:
    """What a process of clients says at its end."""

    per_s: float
    answered: int
    waited_s: Sequence[float]
    cpu_s: float

    @classmethod
    def of(cls, process: Process, seconds: float) -> _Told:
        told = json.loads(process.last_line(seconds + _PATIENCE_S))
        per_s = len(told["waited_s"]) / told["seconds"]
        return cls(per_s, told["answered"], told["waited_s"], told["client_cpu"] * told["seconds"])

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.waited_s)
        return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class HasPid(Protocol):
    """A process, as far as its costs go."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...


@dataclass
class Web:
    """Web processes on one database, and what they cost."""

    site: Site
    rows: Rows
    running: Sequence[HasPid]
    ports: list[int]

    def begin(
        self, port: int, requests: Sequence[Sequence[Request]], for_s: float, every_s: float | None = None
    ) -> Process:
        """Start clients of one web process."""
        plan = self.site.processes.folder / f"plan-{uuid.uuid4().hex}.json"
        plan.write_text(json.dumps({"port": port, "requests": requests, "for_s": for_s, "every_s": every_s}))
        return self.site.processes.start_module("bench.queue_parts.load", plan)

    def load(self, requests: Sequence[Sequence[Request]], for_s: float, every_s: float | None = None) -> Point:
        """Clients, divided among the web processes: how they were answered, and what one answer costs."""
        costs = Costs(api=[process.pid for process in self.running], database=database_pids(self.rows))
        shares = [requests[number :: len(self.ports)] for number in range(len(self.ports))]
        begun = [self.begin(port, share, for_s, every_s) for port, share in zip(self.ports, shares, strict=True)]
        told = [_Told.of(process, for_s) for process in begun]
        taken = costs.so_far()
        answered = sum(one.answered for one in told)
        every = _Told(0.0, answered, [wait for one in told for wait in one.waited_s], 0.0)
        paced = {"every_s": every_s} if every_s else {}
        if not every.waited_s:
            raise SystemExit("nothing was answered in time to count")
        return rounded(
            {
                **paced,
                "clients": len(requests),
                "per_s": sum(one.per_s for one in told),
                "mean_ms": 1000 * sum(every.waited_s) / len(every.waited_s),
                "p50_ms": every.quantile_ms(0.5),
                "p99_ms": every.quantile_ms(0.99),
                "api_cpu_ms": 1000 * taken["api"] / answered,
                "database_cpu_ms": 1000 * taken["database"] / answered,
                "client_cpu_ms": 1000 * sum(one.cpu_s for one in told) / answered,
            }
        )


@contextmanager
def _web(site: Site, rows: Rows, count: int) -> Iterator[Web]:
    started = [site.processes.api(rows.url) for _ in range(count)]
    try:
        yield Web(site, rows, [process for process, _ in started], [port for _, port in started])
    finally:
        for process, _ in started:
            process.kill()


def _posts(seconds: float, clients: int) -> list[Request]:
    """Enough that none has to be sent twice: equal wishes would share their work."""
    enough = math.ceil(_MOST_PER_S * (seconds + 1) / clients)
    return [("POST", _POST, json.dumps({"models": [_model()]})) for _ in range(enough)]


def _model() -> dict[str, str]:
    return {"name": f"bench/{uuid.uuid4().hex}", "hub": "huggingface"}
