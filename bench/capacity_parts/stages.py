"""Stages: how many workers claim and settle a second, what one costs, and how long stages of a known length take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from bench.capacity_parts.ground import DATABASES, Costs, Point, Site, database_pids, each, rounded
from bench.queue_parts.processes import Process
from bench.queue_parts.rows import Rows
from common.broker import Broker
from common.store.database import Database
from common.vocabulary import Pool

SLOTS = 4
LINGER_S = 0.4
"""How long a child of `bench.noop.linger` sleeps in all."""
_WARM_UP = 40
_LOOK_S = 0.05
_MOST_S = 90.0
_PAUSE_S = 0.1
_SETTLED = (
    "SELECT count(*), min(started_at), max(ended_at), avg(ended_at - started_at) FROM stages WHERE started_at > {}"
)


def claims(site: Site) -> Iterator[Point]:
    """Stages that do nothing: by one slot, and by one and more workers."""

    def measure(database: str) -> Iterator[Point]:
        rows = site.table(database)
        yield from (_drained(site, rows, 1, slots) for slots in (1, SLOTS))
        yield from (_drained(site, rows, workers, SLOTS) for workers in site.scale.workers if workers > 1)

    return each(DATABASES, measure)


def backlog(site: Site) -> Iterator[Point]:
    """The same with many more stages waiting than are done."""

    def measure(database: str) -> Iterator[Point]:
        with site.fresh_table(database, site.scale.ended) as rows:
            waiting = 0
            for wanted in site.scale.backlogs:
                rows.add(rows.fetched, wanted - waiting)
                yield {**_drained(site, rows, 1, SLOTS, waits=True), "part": "backlog", "waiting": wanted}
                waiting = rows.unfinished()

    return each(DATABASES, measure)


def pool(site: Site) -> Iterator[Point]:
    """A burst of stages of a known length, each in a child of its own: what the slots of a pool make of them."""

    def measure(database: str) -> Iterator[Point]:
        rows = site.table(database)
        for workers in (1, 2):
            yield {**_drained(site, rows, workers, SLOTS, how="linger", stages=site.scale.burst), "part": "pool"}
        # One that does nothing shows what a child costs by itself.
        yield {**_drained(site, rows, 1, SLOTS, how="child", stages=2 * site.scale.burst), "part": "child"}

    return each(DATABASES, measure)


def _drained(
    site: Site, rows: Rows, workers: int, slots: int, *, how: str = "noop", stages: int | None = None,
    waits: bool = False,
) -> Point:  # fmt: skip
    """Offer stages to workers that were held still, and look at the table's own times.

    With `waits` the stages wait in the table already, and are only announced.
    """
    count = stages or site.scale.stages
    broker = Broker(site.processes.redis_url)
    redis = site.processes.redis
    running = [site.processes.worker(how, rows.url, slots) for _ in range(workers)]
    try:
        warm = [] if waits else _offer(rows, broker, running, _WARM_UP)
        if not waits:
            _until(lambda: rows.unfinished() == 0, "the warming up")
        began = _clock(rows)
        before = redis.info("stats")["total_commands_processed"]
        costs = Costs(worker=[one.pid for one in running], database=database_pids(rows))
        left = rows.unfinished() - count if waits else 0
        ids = _offer(rows, broker, running, 0 if waits else count, tickets=count)
        _until(lambda: rows.unfinished() <= left, f"{count} stages")
        taken = costs.so_far()
        commands = redis.info("stats")["total_commands_processed"] - before
    finally:
        for worker in running:
            worker.kill()
    settled, first, last, mean = _ask(rows, _SETTLED.format(f"{began:.6f}"))
    redis.flushall()
    rows.remove([*warm, *ids])
    return rounded(
        {
            "part": "claims",
            "workers": workers,
            "slots": slots,
            "stages": settled,
            "per_s": settled / (last - first),
            "seconds": last - first,
            "held_ms": 1000 * mean,
            "worker_cpu_ms": 1000 * taken["worker"] / settled,
            "database_cpu_ms": 1000 * taken["database"] / settled,
            "redis_commands": commands / settled,
        }
    )


def _offer(
    rows: Rows, broker: Broker, running: Sequence[Process], count: int, *, tickets: int | None = None
) -> list[str]:
    """Make stages and their tickets while the workers are held still, in no moment in which one holds a lock."""
    while True:
        for worker in running:
            worker.hold()
        time.sleep(_PAUSE_S)
        if rows.writable():
            break
        for worker in running:
            worker.let_go()
        time.sleep(_PAUSE_S)
    ids = rows.add(rows.fetched, count) if count else []
    for _ in range(tickets or count):
        broker.enqueue(Pool.DOWNLOAD)
    for worker in running:
        worker.let_go()
    return ids


def _until(true: object, what: str) -> None:
    until = time.monotonic() + _MOST_S
    while not true():  # type: ignore[operator]
        if time.monotonic() > until:
            raise SystemExit(f"not within {_MOST_S:.0f} s: {what}")
        time.sleep(_LOOK_S)


def _clock(rows: Rows) -> float:
    """Now, by the database's clock."""
    now = "(julianday('now') - 2440587.5) * 86400.0" if rows.url.startswith("sqlite") else _POSTGRES_NOW
    return float(_ask(rows, f"SELECT {now}")[0])


_POSTGRES_NOW = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def _ask(rows: Rows, query: str) -> tuple[float, ...]:
    database = Database(rows.url)
    try:
        with database.read() as connection:
            row = connection.exec_driver_sql(query).one()
    finally:
        database.dispose()
    return tuple(float(value or 0) for value in row)
