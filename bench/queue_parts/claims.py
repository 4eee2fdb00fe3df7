"""How many stages a second are claimed and settled, without a child process and with one."""

import statistics
import time
from collections.abc import Sequence

from bench.queue_parts.ground import Figures, Ground
from bench.queue_parts.rows import Picture, Rows
from common.broker import Broker
from common.vocabulary import Pool

SLOTS = 4
_WARM_UP = 50
_MOST_S = 300.0
_PAUSE_S = 0.05


def claims(ground: Ground) -> Figures:
    """One worker process is compared with one of Celery; the others show what more of them bring."""
    figures: Figures = {}
    for database in ground.databases:
        figures |= _by_rows(ground, database)
        figures |= _by_workers(ground, database)
        figures |= _others(ground, database)
    return figures


def children(ground: Ground) -> Figures:
    """A process for every stage."""
    figures: Figures = {}
    for database in ground.databases:
        rows = ground.table(database, ground.size.tables[0])
        count = ground.size.children
        rates = [_Race(ground, rows, "child").run(rows.fetched, count) for _ in range(ground.size.rounds)]
        ground.ceiling.measure()
        figures[f"{database}_stages_per_s"] = statistics.median(rates)
        figures[f"{database}_vs_celery"] = ground.ceiling.of_draining(statistics.median(rates))
    return figures


def _by_rows(ground: Ground, database: str) -> Figures:
    """Sizes take turns, so that a busy moment hits all of them."""
    tables = {ended: ground.table(database, ended) for ended in ground.size.tables}
    rates: dict[int, list[float]] = {ended: [] for ended in tables}
    shares = []
    for _ in range(ground.size.rounds):
        ground.ceiling.measure()
        for ended, rows in tables.items():
            rates[ended].append(_Race(ground, rows, "noop").run(rows.fetched, ground.size.stages))
            if ended == min(tables):
                ground.ceiling.measure()
                shares.append(ground.ceiling.of_draining(rates[ended][-1]))
    growth = [most / least for least, most in zip(rates[min(tables)], rates[max(tables)], strict=True)]
    middle = {ended: statistics.median(measured) for ended, measured in rates.items()}
    return {
        **{f"{database}_{ended}_rows_stages_per_s": rate for ended, rate in middle.items()},
        f"{database}_vs_celery": statistics.median(shares),
        f"{database}_vs_celery_least": min(shares),
        f"{database}_vs_celery_most": max(shares),
        f"{database}_most_vs_least_rows": statistics.median(growth),
    }


def _by_workers(ground: Ground, database: str) -> Figures:
    rows = ground.table(database, ground.size.tables[0])
    return {
        f"{database}_{workers}_workers_stages_per_s": _Race(ground, rows, "noop", workers).run(
            rows.fetched, ground.size.stages
        )
        for workers in ground.size.workers[1:]
    }


def _others(ground: Ground, database: str) -> Figures:
    """A long queue, and whole jobs: a fetch stage that makes way for a publish stage."""
    rows, stages = ground.table(database, ground.size.tables[0]), ground.size.stages
    queued = _Race(ground, rows, "noop").run(rows.fetched, ground.size.backlog, until=stages)
    whole = _Race(ground, rows, "noop").run(rows.untouched, stages // 2)
    return {f"{database}_{ground.size.backlog}_queued_stages_per_s": queued, f"{database}_whole_jobs_per_s": whole / 2}


class _Race:
    """Workers against the clock of the database."""

    def __init__(self, ground: Ground, rows: Rows, how: str, workers: int = 1) -> None:
        self._ground = ground
        self._rows = rows
        self._broker = Broker(ground.processes.redis_url)
        self._workers = [ground.processes.worker(how, rows.url, SLOTS) for _ in range(workers)]

    def run(self, picture: Picture, jobs: int, *, until: int | None = None) -> float:
        """Stages a second, of so many waiting jobs, or of the first `until` of them."""
        warmed = self._offer(picture, _WARM_UP, _WARM_UP)
        measured = self._offer(picture, jobs, until or jobs)
        for worker in self._workers:
            worker.kill()
        self._ground.processes.redis.flushall()
        rate = self._rows.rate(measured)
        self._rows.remove([*warmed, *measured])
        return rate

    def _offer(self, picture: Picture, jobs: int, until: int) -> Sequence[str]:
        """Make jobs and their tickets while the workers are held still, and wait for enough of them."""
        self._hold()
        ids = self._rows.add(picture, jobs)
        for _ in ids:
            self._broker.enqueue(Pool.DOWNLOAD)
        for worker in self._workers:
            worker.let_go()
        self._workers[0].await_true(
            lambda: self._rows.unfinished() <= jobs - until, _MOST_S, f"{until} of {jobs} jobs are done"
        )
        return ids

    def _hold(self) -> None:
        """Stop the workers, but in no moment in which one of them would hold up everybody else."""
        while True:
            for worker in self._workers:
                worker.hold()
            # A thread in the middle of a write to the disk stops only when it comes back, perhaps with the lock.
            time.sleep(_PAUSE_S)
            if self._rows.writable():
                return
            for worker in self._workers:
                worker.let_go()
            time.sleep(_PAUSE_S)
