"""What the job table tells to those who watch the service: counts, ages, and nothing of any single job."""

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, case, func, select, text

from common.errors import ServiceUnavailable
from common.store.database import Database, Now, ahead
from common.store.ended import EndedJobs, JobsEnded
from common.store.jobs import IS_ACTIVE
from common.store.stages import could_start
from common.store.tables import QUEUED, RUNNING, HubRow, JobRow, StageRow, WorkerRow
from common.vocabulary import HIDDEN, Operation, Pool


class QueueSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The stages of one pool."""

    waiting: int
    """Those that a free worker would take."""
    held: int
    """Those that wait for something else than a worker: another try, a hub, a limit, or an equal one."""
    running: int
    oldest_s: float
    """For how long the oldest of those that a free worker would take has waited; 0 where there is none."""


class ServiceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The service at one moment."""

    ended: tuple[JobsEnded, ...]
    in_progress: Mapping[str, int]
    """Operation -> jobs that have not ended."""
    queues: Mapping[Pool, QueueSeen]
    workers: Mapping[tuple[Pool, str], int]
    """(pool, `ready`, `starting` or `draining`) -> workers."""
    pauses_s: Mapping[str, float]
    """Hub -> for how much longer nobody may ask it for anything."""


class CountStore:
    """Counts over the table. Every method is one transaction that only reads. It remembers what it has counted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended = EndedJobs()

    def answers(self) -> bool:
        """Whether the database answers, and has our tables."""
        try:
            with self._database.read() as connection:
                connection.execute(text("SELECT 1 FROM jobs LIMIT 1"))
        except ServiceUnavailable:
            return False
        return True

    def seen(self, alive_within_s: float) -> ServiceSeen | None:
        """The service as it is now; None while the database is away."""
        try:
            with self._database.read() as connection:
                return ServiceSeen(
                    ended=self._ended.count(connection),
                    in_progress=_in_progress(connection),
                    queues={pool: _queue(connection, pool) for pool in Pool},
                    workers=_workers(connection, alive_within_s),
                    pauses_s=_pauses(connection),
                )
        except ServiceUnavailable:
            return None


_SHOWN = JobRow.operation.not_in(sorted(HIDDEN))


def _in_progress(connection: Connection) -> dict[str, int]:
    query = select(JobRow.operation, func.count().label("jobs")).where(IS_ACTIVE, _SHOWN).group_by(JobRow.operation)
    none = dict.fromkeys((operation.value for operation in Operation if operation not in HIDDEN), 0)
    return none | {row.operation: row.jobs for row in connection.execute(query)}


def _queue(connection: Connection, pool: Pool) -> QueueSeen:
    since = case((StageRow.not_before > StageRow.created_at, StageRow.not_before), else_=StageRow.created_at)
    startable = select(func.count().label("stages"), (Now() - func.min(since)).label("oldest_s"))
    could = connection.execute(startable.where(*could_start(pool))).one()
    of_pool = select(func.count()).select_from(StageRow).where(StageRow.pool == pool.value)
    queued = connection.execute(of_pool.where(QUEUED, StageRow.cancel_at.is_(None))).scalar_one()
    running = connection.execute(of_pool.where(RUNNING)).scalar_one()
    return QueueSeen(
        waiting=could.stages,
        held=max(0, queued - could.stages),
        running=running,
        oldest_s=max(0.0, could.oldest_s or 0.0),
    )


def _workers(connection: Connection, alive_within_s: float) -> dict[tuple[Pool, str], int]:
    # One that was seen in the future was seen before the clock was put back.
    lately = WorkerRow.seen_at.between(Now() - alive_within_s, Now() + alive_within_s)
    query = select(WorkerRow.pool, WorkerRow.ready, WorkerRow.draining).where(lately)
    found = {(pool, state): 0 for pool in Pool for state in ("ready", "starting", "draining")}
    for row in connection.execute(query):
        state = "draining" if row.draining else "ready" if row.ready else "starting"
        found[Pool(row.pool), state] += 1
    return found


def _pauses(connection: Connection) -> dict[str, float]:
    query = select(HubRow.name, (HubRow.resume_at - Now()).label("left_s"))
    closed = query.where(ahead(HubRow.resume_at, HubRow.wait_s))
    return {row.name: max(0.0, row.left_s) for row in connection.execute(closed)}
