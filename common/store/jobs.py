"""The job store: what the API may do with jobs."""

import logging
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, bindparam, func, insert, literal, select, text, tuple_, update
from sqlalchemy.orm import aliased

from common.errors import JobActive, JobEnded, NoSuchJob, NotCancellable, NotRetryable, ServiceUnavailable
from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS
from common.planning import stages
from common.records import NOWHERE, AttemptRecord, JobPage, JobRecord, KeyReservation, Origin, WorkerRecord
from common.spec import JobSpec, Progress
from common.store import keys, outbox, schema, secrets
from common.store.chain import LOG, Joined, end_job, event, join_stage, link, record, wanted_by_others
from common.store.database import AnyRow, AnySelect, Database, Lock, Now, alone
from common.store.foreign import KNOWN_KINDS, Foreign, shown_progress, shown_spec, spec_of, stored
from common.store.retention import forget
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow, WorkerRow
from common.store.turns import Standing
from common.vocabulary import HIDDEN, JobState, Pool, StageKind, StageState

log = logging.getLogger(__name__)

_NEW_JOB = insert(JobRow).values(created_at=Now())
_DONE_JOB = insert(JobRow).values(created_at=Now(), ended_at=Now(), state=JobState.COMPLETED.value, position=0)
_DONE_STAGE = insert(StageRow).values(
    kind=StageKind.PUBLISH.value,
    pool=Pool.DOWNLOAD.value,
    state=StageState.SUCCEEDED.value,
    work={},
    rank=0,
    memory_bytes=0,
    created_at=Now(),
    started_at=Now(),
    ended_at=Now(),
)


class JobStore:
    """Jobs in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        specs: Sequence[JobSpec],
        *,
        tenant: str = "",
        key: KeyReservation | None = None,
        sealed: Mapping[str, bytes] | None = None,
        origin: Origin = NOWHERE,
    ) -> list[str]:
        """Accept jobs: all of them or none. They are durable when this returns their ids.

        With a key, its answer is stored too; raises KeyInFlight when somebody else has got the key meanwhile. `sealed`
        are the credentials that the specs name by their secret; they are kept until the last of these jobs has ended.
        """
        return self._stored([str(uuid.uuid4()) for _ in specs], specs, tenant, key, sealed=sealed, origin=origin)

    def add_completed(
        self,
        spec: JobSpec,
        progress: Progress,
        result: dict[str, object],
        *,
        tenant: str = "",
        origin: Origin = NOWHERE,
    ) -> str:
        """Note a job whose model is published already, and return its id.

        It has one stage, which has succeeded, so that it can be looked at, refused and forgotten as any other job.
        """
        job_id, stage_id = str(uuid.uuid4()), str(uuid.uuid4())

        def store(connection: Connection) -> None:
            done = {"id": stage_id, "work_key": f"upload-{job_id}", "hub": "", "tenant": tenant}
            connection.execute(_DONE_STAGE, {**done, "progress": msgspec.to_builtins(progress)})
            wish = {"model_name": spec.source.name, "spec": msgspec.to_builtins(spec), "operation": spec.operation}
            asked = {"tenant": tenant, "caller": origin.caller, "trace": origin.trace}
            connection.execute(_DONE_JOB, {"id": job_id, "stage_id": stage_id, "result": result, **asked, **wish})
            joined = Joined(id=stage_id, kind=StageKind.PUBLISH, state=StageState.SUCCEEDED, attempt=0)
            link(connection, job_id, 0, joined)
            submitted = event("job.submitted", job_id=job_id, stage_id=stage_id)
            record(connection, submitted, event("job.completed", job_id=job_id))
            outbox.announce(connection, job_id)

        try:
            self._database.write_again(store)
        except ServiceUnavailable:
            if not self._has([job_id]):
                raise
        return job_id

    def publishing_to(self, path: str) -> list[str]:
        """The ids of the jobs that have not ended and publish to this place, relative to MODELS_DIR, or to parts of it.

        A job that names several models has the folder above all of them for its place.
        """
        above = path.rpartition("/")[0]
        place = JobRow.spec["destination", "root"].as_string() + "/" + JobRow.spec["destination", "folder"].as_string()
        here = place.in_([path, f"/{path}"])
        among_others = place.in_([above, f"/{above}"]) & JobRow.spec["parted"].as_boolean()
        with self._database.read() as connection:
            return list(connection.execute(select(JobRow.id).where(IS_ACTIVE, _SHOWN, here | among_others)).scalars())

    def reserve(self, tenant: str, key: str, fingerprint: str) -> KeyReservation | list[str]:
        """The right to answer the first request with this Idempotency-Key, or the ids that it was answered with.

        Raises KeyInFlight while the first request is not answered, and KeyReused for another fingerprint.
        """
        with self._database.write() as connection:
            return keys.reserve(connection, tenant, key, fingerprint)

    def abandon(self, reservation: KeyReservation) -> None:
        """The first request was refused: its key may be used again."""
        with self._database.write() as connection:
            keys.abandon(connection, reservation)

    def retry(
        self, job_id: str, *, tenant: str = "", key: KeyReservation | None = None, origin: Origin = NOWHERE
    ) -> str:
        """The id of a new job that wishes the same, and was asked for by whoever wants it now.

        Raises NoSuchJob, JobActive, or NotRetryable when completed, or when it had credentials of its own.
        """
        with self._database.read() as connection:
            known = connection.execute(
                select(JobRow.state, JobRow.spec, JobRow.tenant).where(JobRow.id == job_id)
            ).one_or_none()
        if known is None:
            raise _no_such_job(job_id)
        if JobState(known.state) not in ENDED_JOBS:
            raise JobActive(f"Job {job_id} has not ended: it is {known.state}")
        if known.state == JobState.COMPLETED:
            raise NotRetryable(f"Job {job_id} is completed; submit its model again to have it published again")
        spec = spec_of(known.spec)
        if spec.secret is not None:
            raise NotRetryable(
                f"Job {job_id} ran with credentials of its request, which are not kept: "
                f"submit its model again with its credentials"
            )
        (new_id,) = self._stored(
            [str(uuid.uuid4())], [spec], tenant or known.tenant, key, retry_of=job_id, origin=origin
        )
        return new_id

    def followed(self, names: Mapping[str, str]) -> list[JobRecord]:
        """These jobs, and those that try them again, oldest first: id -> the name of its model.

        One that was forgotten is left out.
        """
        ids = list(names)
        # There is no index of what tries a job again, but one of what has its model.
        again = JobRow.model_name.in_(set(names.values())) & JobRow.retry_of.in_(ids)
        query = _select_jobs().where(JobRow.id.in_(ids) | again).order_by(JobRow.seq)
        with self._database.read() as connection:
            return _records(connection.execute(query))

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NoSuchJob."""
        with self._database.read() as connection:
            row = connection.execute(_ONE, {"the_job": job_id}).one_or_none()
        if row is None:
            raise _no_such_job(job_id)
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
        query = _filtered(_JOBS, state, model_name).order_by(JobRow.seq).offset(offset)
        with self._database.read() as connection:
            return _records(connection.execute(query if limit is None else query.limit(limit)))

    def page(
        self,
        *,
        after: int | None = None,
        limit: int,
        state: JobState | None = None,
        newest_first: bool = False,
    ) -> JobPage:
        """A page of jobs, at a cost that does not grow with their number. `after` is the `next` of the page before."""
        # A range of one index, spelt out: left to itself, Postgres may walk through all jobs to find those of a state.
        key = [JobRow.seq] if state is None else [JobRow.state, JobRow.seq]
        low, high = (_FIRST, after or _LAST) if newest_first else (after or _FIRST, _LAST)
        query = _JOBS.where(tuple_(*key) > _place(state, low), tuple_(*key) < _place(state, high))
        query = query.order_by(*[column.desc() if newest_first else column for column in key]).limit(limit + 1)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        shown = rows[:limit]
        return JobPage(records=_records(shown), next=shown[-1].seq if len(rows) > limit else None)

    def some(self, ids: Collection[str]) -> list[JobRecord]:
        """Those of these jobs that are known, the hidden ones too."""
        with self._database.read() as connection:
            return _records(connection.execute(_SOME, {"the_jobs": list(ids)}))

    def active(self) -> list[JobRecord]:
        """Every job that has not ended, oldest first."""
        with self._database.read() as connection:
            return _records(connection.execute(_ACTIVE))

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state."""
        with self._database.read() as connection:
            every = connection.execute(_EVERY).all()
            hidden = [row.state for query in (_HIDDEN_ACTIVE, _HIDDEN_ENDED) for row in connection.execute(query)]
        found = dict.fromkeys(JobState, 0)
        for row in every:
            found[JobState(row.state)] += row.jobs
        for state in hidden:
            found[JobState(state)] -= 1
        return {state: max(0, count) for state, count in found.items()}

    def count(self, state: JobState | None = None, model_name: str | None = None) -> int:
        """How many jobs there are."""
        with self._database.read() as connection:
            counted = select(func.count(JobRow.seq)).where(_SHOWN)
            return int(connection.execute(_filtered(counted, state, model_name)).scalar_one())

    def attempts(self, job_id: str) -> list[AttemptRecord]:
        """Every attempt at the job's stages, oldest first. Raises NoSuchJob."""
        query = (
            select(StageRow.kind, *JobEventRow.__table__.columns)
            .join(JobStageRow, JobStageRow.stage_id == JobEventRow.stage_id)
            .join(StageRow, StageRow.id == JobEventRow.stage_id)
            .where(JobStageRow.job_id == job_id, JobEventRow.attempt.is_not(None), JobEventRow.event != LOG)
            .order_by(JobEventRow.seq)
        )
        with self._database.read() as connection:
            if connection.execute(select(JobRow.seq).where(JobRow.id == job_id)).one_or_none() is None:
                raise _no_such_job(job_id)
            return _attempts(connection.execute(query).all())

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
            record(connection, *end_job(connection, job_id, JobState.CANCELED))
            if alone:
                _cancel_stage(connection, stage.id, running=running)
        return self.job(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended; its model stays. Raises NoSuchJob, or JobActive."""

        def delete(connection: Connection) -> None:
            job, _ = _lock(connection, job_id)
            if JobState(job.state) not in ENDED_JOBS:
                raise JobActive(f"Job {job_id} has not ended: cancel it first")
            forget(connection, [job_id])

        self._database.write_again(delete)

    def workers(self, seen_within_s: float) -> list[WorkerRecord]:
        """The workers that have shown a sign of life lately."""
        # One that was seen in the future was seen before the clock was put back.
        lately = WorkerRow.seen_at.between(Now() - seen_within_s, Now() + seen_within_s)
        query = select(WorkerRow).where(lately).order_by(WorkerRow.owner)
        with self._database.read() as connection:
            return [_worker(row) for row in connection.execute(query)]

    def _stored(
        self,
        ids: list[str],
        specs: Sequence[JobSpec],
        tenant: str,
        key: KeyReservation | None,
        *,
        retry_of: str | None = None,
        sealed: Mapping[str, bytes] | None = None,
        origin: Origin = NOWHERE,
    ) -> list[str]:
        def store(connection: Connection) -> None:
            insert_jobs(connection, ids, specs, tenant, retry_of=retry_of, sealed=sealed, origin=origin)
            if key is not None:
                keys.answer(connection, key, ids)

        try:
            self._database.write_again(store)
        except ServiceUnavailable:
            # Who loses the database while it commits does not know what has become of it. Better ask than say no.
            if not self._has(ids):
                raise
        return ids

    def _has(self, ids: Sequence[str]) -> bool:
        query = select(func.count(JobRow.seq)).where(JobRow.id.in_(ids))
        with self._database.read() as connection:
            return bool(ids) and connection.execute(query).scalar_one() == len(ids)

    def ping(self) -> None:
        """Raise ServiceUnavailable unless the database answers and has our tables, new enough for this code."""
        with self._database.read() as connection:
            connection.execute(text("SELECT 1 FROM jobs LIMIT 1"))
            schema.check(connection)


def insert_jobs(
    connection: Connection,
    ids: Sequence[str],
    specs: Sequence[JobSpec],
    tenant: str,
    *,
    retry_of: str | None = None,
    sealed: Mapping[str, bytes] | None = None,
    origin: Origin = NOWHERE,
) -> None:
    """Accept jobs under these ids, within somebody else's transaction. `sealed` are the credentials that they name."""
    secrets.keep(connection, sealed or {})
    if len(specs) > 1:
        # Two requests that name the same models in another order would wait for each other.
        alone(connection, Lock.SUBMIT)
    for job_id, spec in zip(ids, specs, strict=True):
        _insert_job(connection, job_id, spec, tenant, retry_of, origin=origin)


def _insert_job(
    connection: Connection, job_id: str, spec: JobSpec, tenant: str, retry_of: str | None, *, origin: Origin
) -> None:
    first = join_stage(connection, stages(spec)[0], Standing(tenant=tenant, priority=spec.priority))
    connection.execute(
        _NEW_JOB,
        {
            "id": job_id,
            "model_name": spec.source.name,
            "spec": stored(spec),
            "operation": spec.operation,
            "tenant": tenant,
            "retry_of": retry_of,
            "state": first.state_of(spec.operation, 0),
            "stage_id": first.id,
            "position": 0,
            "result": {},
            "secret_id": spec.secret,
            "caller": origin.caller,
            "trace": origin.trace,
        },
    )
    link(connection, job_id, 0, first)
    record(connection, event("job.submitted", job_id=job_id, stage_id=first.id, note=retry_of))


def _lock(connection: Connection, job_id: str) -> tuple[AnyRow, AnyRow]:
    """A job and its current stage, both locked; the stage first, in the order in which workers lock them."""
    while True:
        stage_id = connection.execute(select(JobRow.stage_id).where(JobRow.id == job_id)).scalar()
        if stage_id is None:
            raise _no_such_job(job_id)
        stage = connection.execute(
            select(StageRow.id, StageRow.kind, StageRow.state).where(StageRow.id == stage_id).with_for_update()
        ).one_or_none()
        job = connection.execute(
            select(JobRow.id, JobRow.state, JobRow.stage_id).where(JobRow.id == job_id).with_for_update()
        ).one_or_none()
        if stage is not None and job is not None and job.stage_id == stage_id:
            return job, stage


def _cancel_stage(connection: Connection, stage_id: str, *, running: bool) -> None:
    # A running stage ends when its worker sees the mark at the next heartbeat.
    changes: dict[str, object] = {"cancel_at": Now()}
    if not running:
        changes |= {"state": StageState.CANCELED, "ended_at": Now()}
    active = StageRow.state.in_(ACTIVE_STAGES)
    connection.execute(update(StageRow).where(StageRow.id == stage_id, active).values(**changes))
    record(connection, event("stage.cancelled" if not running else "stage.cancel_requested", stage_id=stage_id))


def _select_jobs() -> AnySelect:
    fetch = aliased(StageRow)
    fetched = (
        select(fetch.progress)
        .join(JobStageRow, JobStageRow.stage_id == fetch.id)
        .where(JobStageRow.job_id == JobRow.id, fetch.kind == StageKind.FETCH.value)
        .limit(1)
        .correlate(JobRow)
        .scalar_subquery()
    )
    return (
        select(
            JobRow.seq, JobRow.id, JobRow.spec, JobRow.state, JobRow.tenant, JobRow.retry_of, JobRow.created_at,
            JobRow.ended_at, JobRow.error_code, JobRow.error, JobRow.hint, JobRow.result,
            JobRow.caller, JobRow.trace,
            StageRow.kind.label("stage_kind"), StageRow.state.label("stage_state"), StageRow.attempt,
            StageRow.not_before, StageRow.last_code, StageRow.last_error,
            StageRow.progress, fetched.label("fetched"),
        )
        .outerjoin(StageRow, StageRow.id == JobRow.stage_id)
    )  # fmt: skip


_SHOWN = JobRow.operation.not_in(sorted(HIDDEN))
"""What clients are shown: a plan or an answer is for the one who has asked for it."""
_JOBS = _select_jobs().where(_SHOWN)
_ONE = _select_jobs().where(JobRow.id == bindparam("the_job"))
_SOME = _select_jobs().where(JobRow.id.in_(bindparam("the_jobs", expanding=True)))
IS_ACTIVE = JobRow.state.in_([state.value for state in JobState if state not in ENDED_JOBS])
_ACTIVE = _JOBS.where(IS_ACTIVE).order_by(JobRow.seq)

_LATELY_S = 120.0
_HIDE = JobRow.operation.in_(sorted(HIDDEN))
_EVERY = select(JobRow.state, func.count().label("jobs")).group_by(JobRow.state)
"""Answered by an index alone, which does not know what is hidden."""
_HIDDEN_ACTIVE = select(JobRow.state).where(IS_ACTIVE, _HIDE)
_HIDDEN_ENDED = select(JobRow.state).where(JobRow.ended_at > Now() - _LATELY_S, _HIDE)
"""What is hidden is forgotten as soon as it has been answered: there is little of it, and all of it is new."""


_FIRST, _LAST = 0, 2**63 - 1


def _place(state: JobState | None, seq: int) -> Any:
    last = literal(seq, BigInteger)
    return tuple_(last) if state is None else tuple_(literal(state.value), last)


def _filtered(query: AnySelect, state: JobState | None, model_name: str | None) -> AnySelect:
    if state is not None:
        query = query.where(JobRow.state == state)
    if model_name is not None:
        query = query.where(JobRow.model_name == model_name)
    return query


def _records(rows: Iterable[AnyRow]) -> list[JobRecord]:
    """All that can be shown. What only a newer release can read is in its lists, and not in ours."""
    return [record for row in rows if (record := _if_readable(row)) is not None]


def _if_readable(row: AnyRow) -> JobRecord | None:
    try:
        return _record(row)
    except Foreign:
        log.warning("row.not_understood", extra={"job": row.id})
        return None


def _record(row: AnyRow) -> JobRecord:
    """Raises Foreign."""
    active = row.ended_at is None
    waits = active and row.stage_state == StageState.QUEUED and row.not_before is not None
    return JobRecord(
        id=row.id,
        spec=shown_spec(row.spec),
        state=JobState(row.state),
        created_at=_time(row.created_at),
        ended_at=None if active else _time(row.ended_at),
        stage=None if row.stage_kind not in KNOWN_KINDS else StageKind(row.stage_kind),
        stage_state=None if row.stage_state is None else StageState(row.stage_state),
        attempt=row.attempt or 0,
        progress=shown_progress(row.progress),
        fetched=shown_progress(row.fetched),
        error_code=row.error_code,
        error=row.error,
        hint=row.hint,
        tenant=row.tenant,
        retry_of=row.retry_of,
        retry_at=_time(row.not_before) if waits else None,
        last_error_code=row.last_code if active else None,
        last_error=row.last_error if active else None,
        origin=Origin(caller=row.caller, trace=row.trace),
        result=row.result,
    )


_ENDS = {f"stage.{outcome}": outcome for outcome in ("succeeded", "retried", "failed", "cancelled", "released")}


def _attempts(events: Sequence[AnyRow]) -> list[AttemptRecord]:
    found: dict[tuple[str, int], AttemptRecord] = {}
    for row in events:
        known = (row.stage_id, row.attempt)
        if row.event == "stage.claimed":
            found[known] = AttemptRecord(
                stage=StageKind(row.kind), number=row.attempt, worker=row.note or "", began_at=_time(row.at)
            )
        elif row.event in _ENDS and known in found:
            found[known] = msgspec.structs.replace(
                found[known],
                ended_at=_time(row.at),
                outcome=_ENDS[row.event],
                error_code=row.code,
                error=row.note if row.code else None,
            )
    return list(found.values())


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


def _no_such_job(job_id: str) -> NoSuchJob:
    return NoSuchJob(f"Job {job_id} not found")
