"""The stage store: what workers and the reconciler may do. A claim is the only right to change a running stage."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from common.errors import WorkerLost
from common.lifecycle import before
from common.log import redact
from common.outcome import Cancelled, Failed, Outcome, Released, Retry, Succeeded
from common.records import Claim
from common.spec import Progress
from common.store.chain import advance, end_job, jobs_on, record_event, show_state
from common.store.database import AnyRow, Database, Now
from common.store.tables import StageRow, WorkerRow
from common.vocabulary import JobState, Pool, StageKind, StageState


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to try again, and when to give up. Times in seconds."""

    max_attempts: int = 5
    max_crashes: int = 3
    base_s: float = 5.0
    cap_s: float = 900.0
    jitter: Callable[[], float] = random.random


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a heartbeat. A worker that no longer holds the lease must drop its work."""

    held: bool
    cancel: bool = False


class StageStore:
    """Stages in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database, *, lease_s: float, retry: RetryPolicy) -> None:
        self._database = database
        self._lease_s = lease_s
        self._retry = retry

    def claim(self, pool: Pool, owner: str) -> Claim | None:
        """Take the stage of this pool that has waited longest. One statement decides who wins."""
        with self._database.write() as connection:
            row = connection.execute(self._claim_statement(pool, owner)).one_or_none()
            if row is None:
                return None
            show_state(connection, row.id)
            record_event(connection, "stage.claimed", stage_id=row.id, attempt=row.attempt, note=owner)
            jobs = tuple(job.id for job in jobs_on(connection, row.id))
        return Claim(
            stage_id=row.id,
            kind=StageKind(row.kind),
            pool=pool,
            attempt=row.attempt,
            owner=owner,
            work=row.work,
            input=row.input,
            job_ids=jobs,
            progress=None if row.progress is None else msgspec.convert(row.progress, Progress),
        )

    def heartbeat(self, claim: Claim, progress: Progress | None) -> Beat:
        """Prolong the lease, show progress, and learn whether the work is still wanted."""
        values: dict[str, object] = {"lease_until": Now() + self._lease_s}
        if progress is not None:
            values["progress"] = msgspec.to_builtins(progress)
        statement = update(StageRow).where(*_fence(claim)).values(**values).returning(StageRow.cancel_at)
        with self._database.write() as connection:
            row = connection.execute(statement).one_or_none()
        return Beat(held=row is not None, cancel=row is not None and row.cancel_at is not None)

    def settle(self, claim: Claim, outcome: Outcome) -> frozenset[Pool] | None:
        """Write an attempt's outcome. Returns the pools that have got work, or None if the lease was lost."""
        with self._database.write() as connection:
            return self._settle(connection, claim.stage_id, _fence(claim), claim.attempt, outcome)

    def reap(self) -> list[str]:
        """Take back the stages whose lease has run out. Returns their ids."""
        expired = (StageRow.state == StageState.RUNNING) & (StageRow.lease_until < Now())
        return self._take_back(expired, "The lease ran out: its worker stopped answering.")

    def reap_owners(self, owners: Sequence[str]) -> list[str]:
        """Take back the stages of workers that are known to be dead. Returns the stages' ids."""
        if not owners:
            return []
        orphaned = (StageRow.state == StageState.RUNNING) & StageRow.lease_owner.in_(owners)
        taken = self._take_back(orphaned, "Its worker died.")
        with self._database.write() as connection:
            connection.execute(delete(WorkerRow).where(WorkerRow.owner.in_(owners)))
        return taken

    def claimable(self, pool: Pool) -> int:
        """How many stages of this pool could start now."""
        query = select(func.count()).select_from(StageRow).where(*_claimable(pool))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def running(self) -> set[tuple[str, int]]:
        """The (stage id, attempt) pairs that hold a lease: whose workspaces are in use."""
        query = select(StageRow.id, StageRow.attempt).where(StageRow.state == StageState.RUNNING)
        with self._database.read() as connection:
            return {(row.id, row.attempt) for row in connection.execute(query)}

    def announce(self, owner: str, pool: Pool, host: str, slots: int, *, ready: bool, draining: bool) -> None:
        """Tell the table that this worker lives."""
        changing = {"ready": ready, "draining": draining, "seen_at": Now()}
        make = (sqlite if self._database.is_sqlite else postgresql).insert(WorkerRow)
        statement = make.values(owner=owner, pool=pool, host=host, slots=slots, started_at=Now(), **changing)
        with self._database.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=changing))

    def leave(self, owner: str) -> None:
        """Tell the table that this worker has ended in order."""
        with self._database.write() as connection:
            connection.execute(delete(WorkerRow).where(WorkerRow.owner == owner))

    def owners(self) -> list[str]:
        """Every worker that the table knows or that holds a lease."""
        leased = select(StageRow.lease_owner).where(
            StageRow.state == StageState.RUNNING, StageRow.lease_owner.is_not(None)
        )
        with self._database.read() as connection:
            known = connection.execute(select(WorkerRow.owner)).scalars().all()
            holding = connection.execute(leased).scalars().all()
        return sorted({*known, *(owner for owner in holding if owner)})

    def _claim_statement(self, pool: Pool, owner: str) -> Any:
        first = (
            select(StageRow.id)
            .where(*_claimable(pool))
            .order_by(StageRow.not_before, StageRow.created_at, StageRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        return (
            update(StageRow)
            .where(StageRow.id == first, StageRow.state.in_(before(StageState.RUNNING)))
            .values(
                state=StageState.RUNNING,
                attempt=StageRow.attempt + 1,
                lease_owner=owner,
                lease_until=Now() + self._lease_s,
                started_at=func.coalesce(StageRow.started_at, Now()),
            )
            .returning(StageRow.id, StageRow.kind, StageRow.attempt, StageRow.work, StageRow.input, StageRow.progress)
        )

    def _take_back(self, condition: ColumnElement[bool], reason: str) -> list[str]:
        with self._database.read() as connection:
            lost = connection.execute(select(StageRow.id, StageRow.attempt, StageRow.cancel_at).where(condition)).all()
        return [row.id for row in lost if self._take_back_one(row, condition, reason)]

    def _take_back_one(self, row: AnyRow, condition: ColumnElement[bool], reason: str) -> bool:
        outcome: Outcome = Retry(code=WorkerLost.code, detail=reason, hint=WorkerLost.hint, crashed=True)
        if row.cancel_at is not None:
            outcome = Cancelled()
        fence = (StageRow.id == row.id, StageRow.attempt == row.attempt, condition)
        with self._database.write() as connection:
            return self._settle(connection, row.id, fence, row.attempt, outcome) is not None

    def _settle(
        self,
        connection: Connection,
        stage_id: str,
        fence: tuple[ColumnElement[bool], ...],
        attempt: int,
        outcome: Outcome,
    ) -> frozenset[Pool] | None:
        stage = connection.execute(
            update(StageRow)
            .where(*fence)
            .values(lease_owner=None, lease_until=None)
            .returning(StageRow.failures, StageRow.crashes, StageRow.pool, StageRow.cancel_at)
        ).one_or_none()
        if stage is None:
            return None
        ruled = Cancelled() if stage.cancel_at is not None else self._rule(stage, outcome)
        match ruled:
            case Succeeded():
                return _succeed(connection, stage_id, attempt, ruled)
            case Failed():
                return _fail(connection, stage_id, attempt, ruled)
            case Cancelled():
                _end_stage(connection, stage_id, StageState.CANCELED)
                record_event(connection, "stage.cancelled", stage_id=stage_id, attempt=attempt)
                for job in jobs_on(connection, stage_id):
                    end_job(connection, job.id, JobState.CANCELED)
                return frozenset()
            case Released():
                _requeue(connection, stage_id, wait_s=0.0)
                record_event(connection, "stage.released", stage_id=stage_id, attempt=attempt)
                return frozenset({Pool(stage.pool)})
            case Retry():
                counter = "crashes" if ruled.crashed else "failures"
                count = getattr(stage, counter)
                _requeue(connection, stage_id, wait_s=self._wait(ruled, count), **{counter: count + 1})
                note = f"{ruled.code}: {redact(ruled.detail)[:2000]}"
                record_event(connection, "stage.retried", stage_id=stage_id, attempt=attempt, note=note)
                return frozenset({Pool(stage.pool)})

    def _rule(self, stage: AnyRow, outcome: Outcome) -> Outcome:
        """An attempt that may not be repeated any more has failed."""
        if not isinstance(outcome, Retry):
            return outcome
        if outcome.crashed and stage.crashes + 1 >= self._retry.max_crashes:
            detail = f"{outcome.detail} This happened {stage.crashes + 1} times, which is as often as is allowed."
            return Failed(code=outcome.code, detail=detail, hint=outcome.hint)
        if not outcome.crashed and stage.failures + 1 >= self._retry.max_attempts:
            return Failed(code=outcome.code, detail=outcome.detail, hint=outcome.hint)
        return outcome

    def _wait(self, retry: Retry, count: int) -> float:
        if retry.crashed:
            return 2.0 * count
        backoff = min(self._retry.base_s * 2.0**count, self._retry.cap_s) * self._retry.jitter()
        return max(backoff, retry.wait_s or 0.0)


def _claimable(pool: Pool) -> tuple[ColumnElement[bool], ...]:
    return (
        StageRow.pool == pool,
        StageRow.state == StageState.QUEUED,
        StageRow.cancel_at.is_(None),
        StageRow.not_before <= Now(),
    )


def _fence(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (
        StageRow.id == claim.stage_id,
        StageRow.attempt == claim.attempt,
        StageRow.lease_owner == claim.owner,
        StageRow.state == StageState.RUNNING,
    )


def _succeed(connection: Connection, stage_id: str, attempt: int, outcome: Succeeded) -> frozenset[Pool]:
    _end_stage(connection, stage_id, StageState.SUCCEEDED, artefact=outcome.artefact)
    record_event(connection, "stage.succeeded", stage_id=stage_id, attempt=attempt, note=outcome.artefact)
    pools = {
        advance(connection, job.id, job.position, outcome.artefact, outcome.result)
        for job in jobs_on(connection, stage_id)
    }
    return frozenset(pool for pool in pools if pool is not None)


def _fail(connection: Connection, stage_id: str, attempt: int, outcome: Failed) -> frozenset[Pool]:
    detail, hint = redact(outcome.detail), redact(outcome.hint)
    _end_stage(connection, stage_id, StageState.FAILED, error_code=outcome.code, error=detail, hint=hint)
    record_event(
        connection, "stage.failed", stage_id=stage_id, attempt=attempt, note=f"{outcome.code}: {detail[:2000]}"
    )
    for job in jobs_on(connection, stage_id):
        end_job(connection, job.id, JobState.FAILED, code=outcome.code, detail=detail, hint=hint)
    return frozenset()


def _requeue(connection: Connection, stage_id: str, *, wait_s: float, **counters: int) -> None:
    connection.execute(
        update(StageRow)
        .where(StageRow.id == stage_id)
        .values(state=StageState.QUEUED, not_before=Now() + wait_s, **counters)
    )
    show_state(connection, stage_id)


def _end_stage(connection: Connection, stage_id: str, state: StageState, **values: object) -> None:
    connection.execute(
        update(StageRow)
        .where(StageRow.id == stage_id, StageRow.state.in_(before(state)))
        .values(state=state, ended_at=Now(), **values)
    )
