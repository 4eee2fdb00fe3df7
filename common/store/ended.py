"""How many jobs have ever ended, and how, at a cost that does not grow with what is remembered of them."""

import threading
import time
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from common.store.database import Now
from common.store.tables import JobRow, TallyRow
from common.vocabulary import HIDDEN

_LAG_S = 30.0
"""A job may have ended by its time, and come to light later: its transaction was still under way."""
_AGAIN_S = 60.0
"""Where jobs were forgotten, all are counted again, this often at most: some may have ended since the last look."""
_SLICE = 20_000

Way = tuple[str, str, str]
"""Operation, hub and state."""
Count = tuple[int, float]
"""Jobs, and their seconds."""


class JobsEnded(NamedTuple):
    """How many jobs have ended in one way since the service began, and how many seconds they took together."""

    operation: str
    hub: str
    state: str
    jobs: int
    seconds: float


class EndedJobs:
    """Counts all once, and from then on what is new. No count that was told ever goes down. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted_at = 0.0
        self._forgotten = 0
        self._until = 0.0
        """What has ended before that moment is counted for good."""
        self._lately: dict[int, float] = {}
        """Jobs that are counted and have ended after that moment, and when."""
        self._counts: dict[Way, Count] = {}

    def count(self, connection: Connection) -> tuple[JobsEnded, ...]:
        """The counts of this moment. The first takes a second for each some ten thousand jobs in the table."""
        with self._lock:
            until = float(connection.execute(select(Now())).scalar_one()) - _LAG_S
            forgotten = int(connection.execute(select(func.sum(TallyRow.jobs))).scalar() or 0)
            due = time.monotonic() - self._counted_at > _AGAIN_S
            if not self._counted_at or (due and forgotten != self._forgotten):
                self._count_again(connection, until)
                self._forgotten = forgotten
            self._count_new(connection, until)
            return tuple(JobsEnded(*way, *counted) for way, counted in sorted(self._counts.items()))

    def _count_again(self, connection: Connection, until: float) -> None:
        counted_before = self._counts
        self._counts = _everything(connection, until)
        self._lately, self._until = {}, until
        self._count_new(connection, until)
        for way, before in counted_before.items():
            self._counts[way] = max(before, self._counts.get(way, before))
        self._counted_at = time.monotonic()

    def _count_new(self, connection: Connection, until: float) -> None:
        ended = select(JobRow.seq, *_WAY, JobRow.ended_at, _SECONDS.label("seconds")).where(_SHOWN)
        for row in connection.execute(ended.where(JobRow.ended_at > self._until)):
            if row.seq not in self._lately:
                self._lately[row.seq] = row.ended_at
                _add(self._counts, (row.operation, row.hub, row.state), (1, max(0.0, row.seconds)))
        self._until = max(self._until, until)
        self._lately = {seq: ended_at for seq, ended_at in self._lately.items() if ended_at > self._until}


_WAY = (JobRow.operation, JobRow.spec["hub"].as_string().label("hub"), JobRow.state)
_SECONDS = JobRow.ended_at - JobRow.created_at
_SHOWN = JobRow.operation.not_in(sorted(HIDDEN))


def _everything(connection: Connection, until: float) -> dict[Way, Count]:
    # The tally first: what is forgotten after that is missed until the next time, and never counted twice.
    tally = select(TallyRow.operation, TallyRow.hub, TallyRow.state, TallyRow.jobs, TallyRow.seconds)
    counts = {(row.operation, row.hub, row.state): (row.jobs, row.seconds) for row in connection.execute(tally)}
    grouped = select(*_WAY, func.count().label("jobs"), func.sum(_SECONDS).label("seconds")).where(_SHOWN)
    grouped = grouped.where(JobRow.ended_at <= until).group_by(*_WAY)
    first, last = connection.execute(select(func.min(JobRow.seq), func.max(JobRow.seq))).one()
    # In slices: no statement may take as long as all of them.
    for start in range(first or 0, (last or -1) + 1, _SLICE):
        for row in connection.execute(grouped.where(JobRow.seq.between(start, start + _SLICE - 1))):
            _add(counts, (row.operation, row.hub, row.state), (int(row.jobs), max(0.0, float(row.seconds))))
    return counts


def _add(counts: dict[Way, Count], way: Way, more: Count) -> None:
    jobs, seconds = counts.get(way, (0, 0.0))
    counts[way] = (jobs + more[0], seconds + more[1])
