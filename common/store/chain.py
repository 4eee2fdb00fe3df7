"""How a job moves along its chain of stages; used inside the transactions of the job and stage stores."""

import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Float, bindparam, case, func, insert, literal_column, select, update

from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS, job_state
from common.planning import FACTS, StagePlan, stages, work_key
from common.records import LogEntry
from common.store import outbox, secrets
from common.store.database import AnyRow, Now, insert_into
from common.store.foreign import spec_of
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow
from common.store.turns import Standing, next_rank
from common.vocabulary import JobState, Operation, Pool, StageKind, StageState

# The statements of the hot paths are made once: to build one takes SQLAlchemy longer than to run it.

_EVENT = insert(JobEventRow).values(at=Now())
_LINE = insert(JobEventRow).values(at=Now() - bindparam("age_s", type_=Float), event=literal_column("'log'"))

_NEW_STAGE = {
    dialect: insert_into(StageRow, dialect)
    .values(state=StageState.QUEUED, attempt=0, failures=0, crashes=0, created_at=Now())
    .on_conflict_do_nothing()
    .returning(StageRow.id)
    for dialect in ("sqlite", "postgresql")
}

_ACTIVE_STAGE = (
    select(StageRow.id, StageRow.state, StageRow.attempt, StageRow.rank)
    .where(
        StageRow.work_key == bindparam("key"),
        StageRow.state.in_([*ACTIVE_STAGES]),
        StageRow.cancel_at.is_(None),
    )
    .with_for_update()
)

_JOB_STAGE = insert(JobStageRow)

_ON_STAGE = (
    update(JobRow)
    .where(JobRow.id == bindparam("the_job"))
    .values(stage_id=bindparam("the_stage"), position=bindparam("the_position"), state=bindparam("the_state"))
)

_JOBS_ON = (
    select(JobRow.id, JobRow.position, JobRow.tenant, JobRow.spec, JobRow.result)
    .where(JobRow.stage_id == bindparam("the_stage"), JobRow.ended_at.is_(None))
    .order_by(JobRow.seq)
    .with_for_update()
)

_SHOW = (
    update(JobRow)
    .where(JobRow.stage_id == bindparam("the_stage"), JobRow.ended_at.is_(None))
    .values(
        state=case(
            (JobRow.operation == Operation.CONVERT.value, bindparam("as_conversion")), else_=bindparam("as_download")
        )
    )
    .returning(JobRow.seq, JobRow.id, JobRow.trace, JobRow.spec)
)

_KEEP_FACTS = (
    update(JobRow)
    .where(JobRow.id == bindparam("the_job"))
    .values(result=bindparam("the_result", type_=JobRow.result.type))
)

_END_JOB = (
    update(JobRow)
    .where(JobRow.id == bindparam("the_job"), JobRow.state.not_in([*ENDED_JOBS]))
    .values(
        state=bindparam("the_state"),
        ended_at=Now(),
        result=bindparam("the_result", type_=JobRow.result.type),
        error_code=bindparam("the_code"),
        error=bindparam("the_error"),
        hint=bindparam("the_hint"),
    )
    .returning(JobRow.secret_id, outbox.somebody_listens().label("heard"))
)


Event = dict[str, object]

LOG = "log"
"""The event that is none: an attempt has said something."""
ENDED = frozenset(f"job.{state}" for state in ENDED_JOBS)
"""The last event of every job."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The stage that a job has been put on."""

    id: str
    kind: StageKind
    state: StageState
    attempt: int

    def state_of(self, operation: Operation, position: int) -> JobState:
        """The public state of a job that waits for this stage, its `position`-th."""
        return job_state(operation, self.kind, self.state, last=False, begun=position > 0 or self.attempt > 0)


def event(
    name: str,
    *,
    job_id: str | None = None,
    stage_id: str | None = None,
    attempt: int | None = None,
    code: str | None = None,
    note: str | None = None,
) -> Event:
    """A line of the history of a job or a stage, for `record`."""
    return {"event": name, "job_id": job_id, "stage_id": stage_id, "attempt": attempt, "code": code, "note": note}


def record(connection: Connection, *events: Event) -> None:
    """Append to the history."""
    if events:
        connection.execute(_EVENT, list(events))


def record_said(connection: Connection, stage_id: str, attempt: int, lines: Sequence[LogEntry]) -> None:
    """Append what an attempt has said to the history of its stage, whose row is locked."""
    if lines:
        rows = [
            {"stage_id": stage_id, "attempt": attempt, "note": line.text, "level": line.level, "fields": line.fields}
            for line in lines
        ]
        connection.execute(_LINE, [{**row, "age_s": line.age_s} for row, line in zip(rows, lines, strict=True)])


def join_stage(
    connection: Connection, plan: StagePlan, standing: Standing, *, artefact: str | None = None, source_bytes: int = 0
) -> Joined:
    """The active stage that does this work: the one that exists, or a new one.

    `source_bytes` is the size of the artefact. The row is locked until the transaction ends, so that it cannot end
    before the caller has put its job on it.
    """
    rank = next_rank(connection, plan.kind, plan.pool, standing)
    fresh = {
        "id": str(uuid.uuid4()),
        "kind": plan.kind,
        "pool": plan.pool,
        "work_key": work_key(plan.kind, plan.work, artefact),
        "work": plan.work,
        "hub": plan.hub,
        "tenant": standing.tenant,
        "rank": rank,
        "memory_bytes": plan.memory.peak_bytes(source_bytes) if plan.memory else 0,
        "input": artefact,
        "batch": artefact if plan.together else None,
    }
    while True:
        made = connection.execute(_NEW_STAGE[connection.dialect.name], fresh).scalar()
        if made is not None:
            return Joined(id=made, kind=plan.kind, state=StageState.QUEUED, attempt=0)
        known = connection.execute(_ACTIVE_STAGE, {"key": fresh["work_key"]}).one_or_none()
        if known is not None:
            if known.rank > rank:
                _bring_forward(connection, known.id, standing, rank)
            return Joined(id=known.id, kind=plan.kind, state=StageState(known.state), attempt=known.attempt)


def jobs_on(connection: Connection, stage_id: str) -> Sequence[AnyRow]:
    """The jobs that wait for this stage, oldest first, locked."""
    return connection.execute(_JOBS_ON, {"the_stage": stage_id}).all()


def advance(
    connection: Connection, job: AnyRow, *, artefact: str, source_bytes: int, result: dict[str, object]
) -> tuple[Pool | None, list[Event]]:
    """Put a job on its next stage, or complete it. Returns the pool that has got work, and what is to be recorded.

    Raises Foreign; then nothing was changed.
    """
    spec = spec_of(job.spec)
    position = job.position + 1
    chain = stages(spec, result)
    if position == len(chain):
        return None, end_job(connection, job.id, JobState.COMPLETED, result={**job.result, **result})
    if result.get(FACTS):
        connection.execute(_KEEP_FACTS, {"the_job": job.id, "the_result": {FACTS: result[FACTS]}})
    following = chain[position]
    standing = Standing(tenant=job.tenant, priority=spec.priority)
    # A fetch starts from nothing, so that those who want the source for other ends can share it.
    before = None if following.kind is StageKind.FETCH else artefact
    joined = join_stage(connection, following, standing, artefact=before, source_bytes=source_bytes)
    link(connection, job.id, position, joined)
    changed = {"the_job": job.id, "the_stage": joined.id, "the_position": position}
    connection.execute(_ON_STAGE, {**changed, "the_state": joined.state_of(spec.operation, position)})
    return Pool(following.pool), [event("job.advanced", job_id=job.id, stage_id=joined.id)]


def put_back(connection: Connection, job_id: str, position: int, stage_id: str) -> None:
    """Have a job's stage run again, for a job that has to be brought on by a newer release: that one runs it, then.

    What the stage has brought is in the content store, so it is over soon.
    """
    done = connection.execute(select(*StageRow.__table__.columns).where(StageRow.id == stage_id)).one()
    same = ("kind", "pool", "work_key", "work", "hub", "tenant", "rank", "memory_bytes", "input", "batch")
    fresh = {"id": str(uuid.uuid4()), **{name: getattr(done, name) for name in same}}
    stage = connection.execute(_NEW_STAGE[connection.dialect.name], fresh).scalar()
    if stage is None:
        stage = connection.execute(_ACTIVE_STAGE, {"key": done.work_key}).one().id
    here = (JobStageRow.job_id == job_id, JobStageRow.position == position)
    connection.execute(update(JobStageRow).where(*here).values(stage_id=stage))
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(stage_id=stage))
    show_state(connection, stage, StageKind(done.kind), StageState.QUEUED)


def link(connection: Connection, job_id: str, position: int, stage: Joined) -> None:
    """Note that the job's `position`-th stage is this one."""
    connection.execute(_JOB_STAGE, {"job_id": job_id, "position": position, "stage_id": stage.id})


def show_state(connection: Connection, stage_id: str, kind: StageKind, state: StageState) -> list[AnyRow]:
    """Bring the public state of the jobs on a stage that has been begun up to date.

    Returns their ids, traces and specs, oldest job first.
    """
    download, conversion = (
        job_state(operation, kind, state, last=False, begun=True)
        for operation in (Operation.DOWNLOAD, Operation.CONVERT)
    )
    shown = connection.execute(_SHOW, {"the_stage": stage_id, "as_download": download, "as_conversion": conversion})
    return sorted(shown, key=lambda row: row.seq)


def end_job(
    connection: Connection,
    job_id: str,
    state: JobState,
    *,
    result: dict[str, object] | None = None,
    code: str | None = None,
    detail: str | None = None,
    hint: str | None = None,
) -> list[Event]:
    """Give a job its last state; a job that has ended stays as it is. Returns what is to be recorded."""
    ended = connection.execute(
        _END_JOB,
        {
            "the_job": job_id, "the_state": state, "the_result": result or {},
            "the_code": code, "the_error": detail, "the_hint": hint,
        },
    ).one_or_none()  # fmt: skip
    if ended is None:
        return []
    secrets.drop_idle(connection, [ended.secret_id] if ended.secret_id else [])
    if ended.heard:
        outbox.announce(connection, job_id)
    return [event(f"job.{state}", job_id=job_id, code=code)]


def wanted_by_others(connection: Connection, stage_id: str, job_id: str) -> bool:
    """Whether another job still waits for this stage."""
    others = select(func.count()).where(JobRow.stage_id == stage_id, JobRow.ended_at.is_(None), JobRow.id != job_id)
    return bool(connection.execute(others).scalar())


def _bring_forward(connection: Connection, stage_id: str, standing: Standing, rank: int) -> None:
    """Somebody whose turn comes sooner wants it too: it runs on that turn."""
    connection.execute(update(StageRow).where(StageRow.id == stage_id).values(rank=rank, tenant=standing.tenant))
