"""How a job moves along its chain of stages; used inside the transactions of the job and stage stores."""

import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS, job_state
from common.planning import StagePlan, work_key
from common.spec import JobSpec
from common.store.database import AnyRow, Now
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow
from common.vocabulary import JobState, Pool, StageKind, StageState


def record_event(
    connection: Connection,
    event: str,
    *,
    job_id: str | None = None,
    stage_id: str | None = None,
    attempt: int | None = None,
    note: str | None = None,
) -> None:
    """Append to the history of a job or a stage."""
    connection.execute(
        insert(JobEventRow).values(job_id=job_id, stage_id=stage_id, at=Now(), event=event, attempt=attempt, note=note)
    )


def join_stage(connection: Connection, plan: StagePlan, artefact: str | None) -> str:
    """The id of the active stage that does this work: the one that exists, or a new one.

    The row is locked until the transaction ends, so that it cannot end before the caller has put its job on it.
    """
    key = work_key(plan.kind, plan.work, artefact)
    make = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(StageRow)
    fresh = make.values(
        id=str(uuid.uuid4()),
        kind=plan.kind,
        pool=plan.pool,
        work_key=key,
        work=plan.work,
        input=artefact,
        state=StageState.QUEUED,
        attempt=0,
        failures=0,
        crashes=0,
        not_before=Now(),
        created_at=Now(),
    ).on_conflict_do_nothing()
    existing = (
        select(StageRow.id)
        .where(StageRow.work_key == key, StageRow.state.in_(ACTIVE_STAGES), StageRow.cancel_at.is_(None))
        .with_for_update()
    )
    while True:
        connection.execute(fresh)
        stage_id = connection.execute(existing).scalar()
        if stage_id is not None:
            return stage_id


def jobs_on(connection: Connection, stage_id: str) -> Sequence[AnyRow]:
    """The jobs that wait for this stage, oldest first, locked."""
    return connection.execute(
        select(JobRow.id, JobRow.position, JobRow.spec, JobRow.state)
        .where(JobRow.stage_id == stage_id, JobRow.ended_at.is_(None))
        .order_by(JobRow.seq)
        .with_for_update()
    ).all()


def advance(
    connection: Connection, job_id: str, position: int, artefact: str, result: dict[str, object]
) -> Pool | None:
    """Put a job on the stage after `position`, or complete it. Returns the pool that has got work."""
    following = connection.execute(
        select(JobStageRow.kind, JobStageRow.pool, JobStageRow.work).where(
            JobStageRow.job_id == job_id, JobStageRow.position == position + 1
        )
    ).one_or_none()
    if following is None:
        end_job(connection, job_id, JobState.COMPLETED, result=result)
        return None
    plan = StagePlan(kind=StageKind(following.kind), pool=Pool(following.pool), work=following.work)
    put_on_stage(connection, job_id, position + 1, join_stage(connection, plan, artefact))
    return plan.pool


def put_on_stage(connection: Connection, job_id: str, position: int, stage_id: str) -> None:
    """Make this stage the job's current one."""
    connection.execute(
        update(JobStageRow)
        .where(JobStageRow.job_id == job_id, JobStageRow.position == position)
        .values(stage_id=stage_id)
    )
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(stage_id=stage_id, position=position))
    show_state(connection, stage_id, only_job=job_id)


def show_state(connection: Connection, stage_id: str, *, only_job: str | None = None) -> None:
    """Bring the public state of the jobs on this stage up to date. For stages that have not ended."""
    stage = connection.execute(
        select(StageRow.kind, StageRow.state, StageRow.attempt).where(StageRow.id == stage_id)
    ).one()
    for job in jobs_on(connection, stage_id):
        if only_job not in {None, job.id}:
            continue
        spec = msgspec.convert(job.spec, JobSpec)
        begun = job.position > 0 or stage.attempt > 0
        state = job_state(spec.operation, StageKind(stage.kind), StageState(stage.state), last=False, begun=begun)
        if state != job.state:
            connection.execute(update(JobRow).where(JobRow.id == job.id).values(state=state))


def end_job(
    connection: Connection,
    job_id: str,
    state: JobState,
    *,
    result: dict[str, object] | None = None,
    code: str | None = None,
    detail: str | None = None,
    hint: str | None = None,
) -> None:
    """Give a job its last state. A job that has ended stays as it is."""
    ended = connection.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state.not_in(ENDED_JOBS))
        .values(state=state, ended_at=Now(), result=result or {}, error_code=code, error=detail, hint=hint)
    )
    if ended.rowcount:
        record_event(connection, f"job.{state}", job_id=job_id, note=code)


def wanted_by_others(connection: Connection, stage_id: str, job_id: str) -> bool:
    """Whether another job still waits for this stage."""
    others = select(func.count()).where(JobRow.stage_id == stage_id, JobRow.ended_at.is_(None), JobRow.id != job_id)
    return bool(connection.execute(others).scalar())
