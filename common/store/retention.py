"""What the table forgets: jobs that ended long ago, or more of them than are kept, with all that belongs to them."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, select

from common.lifecycle import ACTIVE_STAGES
from common.store import audit, keys, secrets, tallies
from common.store.database import Database, Now
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow

_BATCH = 500
"""So many jobs go in one transaction: others want to write too."""
_DAY_S = 24 * 3600.0


class Retention:
    """Forgets what the operator does not want kept. `keep_days`, `keep_jobs` and `keep_audit_days` of 0 keep all."""

    def __init__(self, database: Database, *, keep_days: float, keep_jobs: int, keep_audit_days: float = 0.0) -> None:
        self._database = database
        self._keep_days = keep_days
        self._keep_jobs = keep_jobs
        self._keep_audit_days = keep_audit_days

    def prune(self) -> int:
        """Forget one batch of jobs. Returns how many; 0 means that all is done. Raises ServiceUnavailable."""
        return self._database.write_again(self._prune)

    def _prune(self, connection: Connection) -> int:
        keys.forget_old(connection)
        secrets.drop_old(connection)
        audit.forget_old(connection, self._keep_audit_days)
        ids = self._old(connection)
        forget(connection, ids)
        return len(ids)

    def _old(self, connection: Connection) -> list[str]:
        ended = JobRow.ended_at.is_not(None)
        too_old = select(JobRow.id).where(ended, JobRow.ended_at < Now() - self._keep_days * _DAY_S)
        ids = self._batch(connection, too_old) if self._keep_days else []
        if ids or not self._keep_jobs:
            return ids
        newest_first = select(JobRow.ended_at).where(ended).order_by(JobRow.ended_at.desc())
        last_kept = connection.execute(newest_first.offset(self._keep_jobs - 1).limit(1)).scalar()
        if last_kept is None:
            return []
        return self._batch(connection, select(JobRow.id).where(ended, JobRow.ended_at < last_kept))

    def _batch(self, connection: Connection, query: Select[str]) -> list[str]:
        return list(connection.execute(query.order_by(JobRow.ended_at).limit(_BATCH)).scalars())


def forget(connection: Connection, job_ids: Sequence[str]) -> None:
    """Delete jobs that have ended, their history, and the ended stages that no other job shares. They stay counted."""
    if not job_ids:
        return
    theirs = select(JobStageRow.stage_id).where(JobStageRow.job_id.in_(job_ids))
    # Locked before their jobs let go of them: of two who do so at one moment, one must see that nobody is left.
    locked = select(StageRow.id).where(StageRow.id.in_(theirs)).order_by(StageRow.id).with_for_update()
    stage_ids = list(connection.execute(locked).scalars())
    brought = select(JobRow.secret_id).where(JobRow.id.in_(job_ids), JobRow.secret_id.is_not(None))
    secret_ids = [secret_id for secret_id in connection.execute(brought).scalars() if secret_id]
    connection.execute(delete(JobEventRow).where(JobEventRow.job_id.in_(job_ids)))
    connection.execute(delete(JobStageRow).where(JobStageRow.job_id.in_(job_ids)))
    # What is counted is what this very statement deletes: two may forget the same jobs at one moment.
    gone = delete(JobRow).where(JobRow.id.in_(job_ids)).returning(*tallies.COUNTED)
    tallies.add(connection, connection.execute(gone).all())
    secrets.drop_idle(connection, secret_ids)
    forget_stages(connection, stage_ids)


def forget_stages(connection: Connection, stage_ids: Sequence[str]) -> None:
    """Delete those of these stages that have ended and that no job remembers."""
    idle = select(StageRow.id).where(StageRow.id.in_(stage_ids), StageRow.state.not_in(ACTIVE_STAGES), ~_remembered())
    unused = list(connection.execute(idle).scalars())
    if unused:
        connection.execute(delete(JobEventRow).where(JobEventRow.stage_id.in_(unused)))
        connection.execute(delete(StageRow).where(StageRow.id.in_(unused)))


def _remembered() -> ColumnElement[bool]:
    return exists().where(JobStageRow.stage_id == StageRow.id)
