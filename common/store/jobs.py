"""The job store: what the API may do with jobs."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.orm import aliased

from common.errors import JobEnded, NoSuchJob, NotCancellable
from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS
from common.planning import stages
from common.records import JobRecord, WorkerRecord
from common.spec import JobSpec, Progress
from common.store.chain import end_job, join_stage, put_on_stage, record_event, wanted_by_others
from common.store.database import AnyRow, AnySelect, Database, Now
from common.store.tables import JobRow, JobStageRow, StageRow, WorkerRow
from common.vocabulary import JobState, Pool, StageKind, StageState


class JobStore:
    """Jobs in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, specs: Sequence[JobSpec]) -> list[JobRecord]:
        """Accept jobs: all of them or none. They are durable when this returns."""
        with self._database.write() as connection:
            ids = [_insert_job(connection, spec) for spec in specs]
            rows = connection.execute(_select_jobs().where(JobRow.id.in_(ids)).order_by(JobRow.seq)).all()
        return [_record(row) for row in rows]

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NoSuchJob."""
        with self._database.read() as connection:
            row = connection.execute(_select_jobs().where(JobRow.id == job_id)).one_or_none()
        if row is None:
            raise NoSuchJob(f"Job {job_id} not found")
        return _record(row)

    def jobs(
        self,
        *,
        state: JobState | None = None,
        model_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JobRecord]:
        """Jobs, oldest first."""
        query = _filtered(_select_jobs(), state, model_name).order_by(JobRow.seq).offset(offset)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query if limit is None else query.limit(limit))]

    def count(self, state: JobState | None = None, model_name: str | None = None) -> int:
        """How many jobs there are."""
        with self._database.read() as connection:
            return int(connection.execute(_filtered(select(func.count(JobRow.seq)), state, model_name)).scalar_one())

    def cancel(self, job_id: str) -> JobRecord:
        """End a job now. Its stage ends too, unless another job wants it.

        Raises NoSuchJob, JobEnded, or NotCancellable when its model is being published this instant.
        """
        with self._database.write() as connection:
            job, stage = _lock(connection, job_id)
            if JobState(job.state) in ENDED_JOBS:
                raise JobEnded(job_id, job.state)
            alone = not wanted_by_others(connection, stage.id, job_id)
            running = stage.state == StageState.RUNNING
            if alone and running and stage.kind == StageKind.PUBLISH:
                raise NotCancellable(f"Job {job_id} could not be cancelled")
            end_job(connection, job_id, JobState.CANCELED)
            if alone:
                _cancel_stage(connection, stage.id, running=running)
        return self.job(job_id)

    def workers(self, seen_within_s: float) -> list[WorkerRecord]:
        """The workers that have shown a sign of life lately."""
        query = select(WorkerRow).where(WorkerRow.seen_at >= Now() - seen_within_s).order_by(WorkerRow.owner)
        with self._database.read() as connection:
            return [_worker(row) for row in connection.execute(query)]

    def ping(self) -> None:
        """Raise ServiceUnavailable unless the database answers and has our tables."""
        with self._database.read() as connection:
            connection.execute(text("SELECT 1 FROM jobs LIMIT 1"))


def _insert_job(connection: Connection, spec: JobSpec) -> str:
    job_id = str(uuid.uuid4())
    connection.execute(
        insert(JobRow).values(
            id=job_id,
            model_name=spec.source.name,
            spec=msgspec.to_builtins(spec),
            state=JobState.QUEUED,
            stage_id=None,
            position=0,
            created_at=Now(),
            result={},
        )
    )
    chain = stages(spec)
    for position, plan in enumerate(chain):
        connection.execute(
            insert(JobStageRow).values(
                job_id=job_id, position=position, kind=plan.kind, pool=plan.pool, work=plan.work, stage_id=None
            )
        )
    record_event(connection, "job.submitted", job_id=job_id)
    put_on_stage(connection, job_id, 0, join_stage(connection, chain[0], None))
    return job_id


def _lock(connection: Connection, job_id: str) -> tuple[AnyRow, AnyRow]:
    """A job and its current stage, both locked; the stage first, in the order in which workers lock them."""
    while True:
        stage_id = connection.execute(select(JobRow.stage_id).where(JobRow.id == job_id)).scalar()
        if stage_id is None:
            raise NoSuchJob(f"Job {job_id} not found")
        stage = connection.execute(
            select(StageRow.id, StageRow.kind, StageRow.state).where(StageRow.id == stage_id).with_for_update()
        ).one()
        job = connection.execute(
            select(JobRow.id, JobRow.state, JobRow.stage_id).where(JobRow.id == job_id).with_for_update()
        ).one()
        if job.stage_id == stage_id:
            return job, stage


def _cancel_stage(connection: Connection, stage_id: str, *, running: bool) -> None:
    # A running stage ends when its worker sees the mark at the next heartbeat.
    changes: dict[str, object] = {"cancel_at": Now()}
    if not running:
        changes |= {"state": StageState.CANCELED, "ended_at": Now()}
    active = StageRow.state.in_(ACTIVE_STAGES)
    connection.execute(update(StageRow).where(StageRow.id == stage_id, active).values(**changes))
    record_event(connection, "stage.cancelled" if not running else "stage.cancel_requested", stage_id=stage_id)


def _select_jobs() -> AnySelect:
    fetch_link = aliased(JobStageRow)
    fetch = aliased(StageRow)
    return (
        select(
            JobRow.id, JobRow.spec, JobRow.state, JobRow.created_at, JobRow.ended_at,
            JobRow.error_code, JobRow.error, JobRow.hint, JobRow.result,
            StageRow.kind.label("stage_kind"), StageRow.state.label("stage_state"),
            StageRow.attempt, StageRow.progress, fetch.progress.label("fetched"),
        )
        .outerjoin(StageRow, StageRow.id == JobRow.stage_id)
        .outerjoin(fetch_link, (fetch_link.job_id == JobRow.id) & (fetch_link.position == 0))
        .outerjoin(fetch, fetch.id == fetch_link.stage_id)
    )  # fmt: skip


def _filtered(query: AnySelect, state: JobState | None, model_name: str | None) -> AnySelect:
    if state is not None:
        query = query.where(JobRow.state == state)
    if model_name is not None:
        query = query.where(JobRow.model_name == model_name)
    return query


def _record(row: AnyRow) -> JobRecord:
    return JobRecord(
        id=row.id,
        spec=msgspec.convert(row.spec, JobSpec),
        state=JobState(row.state),
        created_at=_time(row.created_at),
        ended_at=None if row.ended_at is None else _time(row.ended_at),
        stage=None if row.stage_kind is None else StageKind(row.stage_kind),
        stage_state=None if row.stage_state is None else StageState(row.stage_state),
        attempt=row.attempt or 0,
        progress=_progress(row.progress),
        fetched=_progress(row.fetched),
        error_code=row.error_code,
        error=row.error,
        hint=row.hint,
        result=row.result,
    )


def _progress(raw: dict[str, Any] | None) -> Progress | None:
    return None if raw is None else msgspec.convert(raw, Progress)


def _worker(row: AnyRow) -> WorkerRecord:
    return WorkerRecord(
        id=row.owner,
        pool=Pool(row.pool),
        host=row.host,
        slots=row.slots,
        ready=row.ready,
        draining=row.draining,
        started_at=_time(row.started_at),
        seen_at=_time(row.seen_at),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
