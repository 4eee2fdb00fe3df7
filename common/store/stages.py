"""The stage store: what workers and the reconciler may do. A claim is the only right to change a running stage."""

import logging
import random
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from common.errors import RateLimited, WorkerLost
from common.lifecycle import before
from common.log import redact
from common.outcome import Cancelled, Failed, Outcome, Released, Retry, Succeeded
from common.records import Claim, LogEntry, MemoryRoom
from common.spec import Progress
from common.store import limits, secrets
from common.store.chain import advance, end_job, event, jobs_on, put_back, record, record_said, show_state
from common.store.database import AnyRow, Database, Lock, Now, ahead, alone, insert_into
from common.store.foreign import KNOWN_KINDS, Foreign, is_understood, shown_progress
from common.store.retention import forget_stages
from common.store.tables import QUEUED, RUNNING, StageRow, WorkerRow
from common.vocabulary import BRIEF, JobState, Pool, StageKind, StageState

log = logging.getLogger(__name__)

_NOTE_CHARS = 2000
_PATIENCE_S = 600.0
"""A conversion that has waited so long for memory is not passed any more by smaller ones."""
_WINDOW = 50
"""So many waiting conversions are looked at for one that fits."""
_MOST_SIBLINGS = 8
_OBEDIENCE_S = 6 * 3600.0
"""For so long a hub may say when to come back without that counting as a failure."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to try again, and when to give up. Times in seconds."""

    max_attempts: int = 5
    max_crashes: int = 3
    base_s: float = 5.0
    cap_s: float = 900.0
    jitter: Callable[[], float] = random.random

    def backoff_s(self, count: int) -> float:
        """How long to wait after so many failures before: exponential, with full jitter."""
        return min(self.base_s * 2.0 ** min(count, 30), self.cap_s) * self.jitter()


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a heartbeat. A worker that no longer holds the lease must drop its work."""

    held: bool
    cancel: bool = False


class _NotOurs(Exception):
    def __init__(self, stage_id: str) -> None:
        super().__init__(stage_id)
        self.stage_id = stage_id


class StageStore:
    """Stages in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database, *, lease_s: float, retry: RetryPolicy) -> None:
        self._database = database
        self._lease_s = lease_s
        self._retry = retry
        self._foreign: set[str] = set()
        """The stages that were seen to be for a newer release."""
        # Made once: to build a statement takes SQLAlchemy longer than to run it.
        fence = _fence()
        beat = update(StageRow).where(*fence).returning(StageRow.cancel_at)
        until = Now() + lease_s
        self._prolong = beat.values(lease_until=until)
        self._show = beat.values(lease_until=until, progress=bindparam("the_progress", type_=StageRow.progress.type))
        self._succeed = (
            update(StageRow)
            .where(*fence, StageRow.cancel_at.is_(None))
            .values(state=StageState.SUCCEEDED, ended_at=Now(), artefact=bindparam("the_artefact"), **_NO_LEASE)
            .returning(*_SETTLED)
        )
        self._give_up = update(StageRow).where(*fence).values(**_NO_LEASE).returning(*_SETTLED)

    def now(self) -> float:
        """The database's clock. Asked as a writer asks: SQLite answers readers while nobody can prolong a lease."""
        with self._database.note() as connection:
            return float(connection.execute(select(Now())).scalar_one())

    def claim(self, pool: Pool, owner: str, room: MemoryRoom | None = None, *, brief: bool = False) -> Claim | None:
        """Take the stage of this pool whose turn it is, as far as the limits and the room in memory permit.

        With `brief`, only one of those that are over in a moment. What only a newer release understands stays where it
        is.
        """
        while True:
            try:
                return self._claim(pool, owner, room, brief=brief)
            except _NotOurs as found:
                log.warning("row.not_understood", extra={"stage": found.stage_id})
                self._foreign.add(found.stage_id)

    def _claim(self, pool: Pool, owner: str, room: MemoryRoom | None, *, brief: bool) -> Claim | None:
        """One look. Raises _NotOurs; then nothing was claimed."""
        with self._database.note() as connection:
            row = self._take(connection, pool, owner, room, brief=brief)
            if row is None:
                return None
            kind = StageKind(row.kind)
            siblings = _siblings(connection, row)
            jobs = show_state(connection, row.id, kind, StageState.RUNNING)
            if not is_understood(kind, row.work, [job.spec for job in jobs]):
                raise _NotOurs(row.id)
            record(connection, event("stage.claimed", stage_id=row.id, attempt=row.attempt, note=owner))
        return Claim(
            stage_id=row.id,
            kind=kind,
            pool=pool,
            attempt=row.attempt,
            owner=owner,
            work=row.work,
            hub=row.hub,
            memory_bytes=row.memory_bytes,
            input=row.input,
            siblings=siblings,
            job_ids=tuple(job.id for job in jobs),
            traces=tuple(job.trace for job in jobs if job.trace),
            waited_s=_waited_s(row),
            progress=shown_progress(row.progress),
        )

    def heartbeat(self, claim: Claim, progress: Progress | None, said: Sequence[LogEntry] = ()) -> Beat:
        """Prolong the lease, show progress, keep what was said, and learn whether the work is still wanted."""
        held = _held(claim)
        shown = {} if progress is None else {"the_progress": msgspec.to_builtins(progress)}
        with self._database.note() as connection:
            row = connection.execute(self._show if shown else self._prolong, {**held, **shown}).one_or_none()
            if row is not None:
                record_said(connection, claim.stage_id, claim.attempt, said)
        return Beat(held=row is not None, cancel=row is not None and row.cancel_at is not None)

    def settle(self, claim: Claim, outcome: Outcome, said: Sequence[LogEntry] = ()) -> frozenset[Pool] | None:
        """Write an attempt's outcome, and the last of what was said.

        Returns the pools that have got work, or None if the lease was lost.
        """
        held = _held(claim)
        with self._database.write() as connection:
            if isinstance(outcome, Succeeded):
                stage = connection.execute(self._succeed, {**held, "the_artefact": outcome.artefact}).one_or_none()
                if stage is not None:
                    record_said(connection, claim.stage_id, claim.attempt, said)
                    return _advance(connection, stage, outcome)
            stage = connection.execute(self._give_up, held).one_or_none()
            if stage is None:
                return None
            record_said(connection, claim.stage_id, claim.attempt, said)
            return self._settle(connection, stage, outcome)

    def sealed(self, secret_id: str) -> bytes | None:
        """The sealed credentials of this name; None when they are gone."""
        with self._database.read() as connection:
            return secrets.sealed(connection, secret_id)

    def reap(self) -> list[str]:
        """Take back the stages whose lease has run out. Returns their ids."""
        # Twice, for workers that are told another length.
        expired = RUNNING & ~ahead(StageRow.lease_until, 2 * self._lease_s)
        return self._take_back(expired, "The lease ran out: its worker stopped answering.")

    def reap_owners(self, owners: Sequence[str]) -> list[str]:
        """Take back the stages of workers that are known to be dead. Returns the stages' ids."""
        if not owners:
            return []
        taken = self._take_back(RUNNING & StageRow.lease_owner.in_(owners), "Its worker died.")
        with self._database.write() as connection:
            connection.execute(delete(WorkerRow).where(WorkerRow.owner.in_(owners)))
        return taken

    def claimable(self, pool: Pool, most: int = 1000) -> int:
        """How many stages of this pool could start now, if there is memory; no more than `most` are counted."""
        some = select(StageRow.id).where(*could_start(pool)).limit(most).subquery()
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(some)).scalar_one()

    def running(self) -> set[tuple[str, int]]:
        """The (stage id, attempt) pairs that hold a lease: whose workspaces are in use."""
        query = select(StageRow.id, StageRow.attempt).where(RUNNING)
        with self._database.read() as connection:
            return {(row.id, row.attempt) for row in connection.execute(query)}

    def announce(self, owner: str, pool: Pool, host: str, slots: int, *, ready: bool, draining: bool) -> None:
        """Tell the table that this worker lives."""
        changing = {"ready": ready, "draining": draining, "seen_at": Now()}
        with self._database.write() as connection:
            statement = insert_into(WorkerRow, connection.dialect.name).values(
                owner=owner, pool=pool, host=host, slots=slots, started_at=Now(), **changing
            )
            connection.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=changing))

    def leave(self, owner: str) -> None:
        """Tell the table that this worker has ended in order."""
        with self._database.write() as connection:
            connection.execute(delete(WorkerRow).where(WorkerRow.owner == owner))

    def owners(self) -> list[str]:
        """Every worker that the table knows or that holds a lease."""
        leased = select(StageRow.lease_owner).where(RUNNING, StageRow.lease_owner.is_not(None))
        with self._database.read() as connection:
            known = connection.execute(select(WorkerRow.owner)).scalars().all()
            holding = connection.execute(leased).scalars().all()
        return sorted({*known, *(owner for owner in holding if owner)})

    def _take(
        self, connection: Connection, pool: Pool, owner: str, room: MemoryRoom | None, *, brief: bool = False
    ) -> AnyRow | None:
        taken = {"the_owner": owner, "the_lease_s": self._lease_s}
        # Whoever goes by what runs must be the only one who does.
        alone(connection, Lock.CLAIM, *([] if room is not None else [limits.anything_counts()]))
        if room is None:
            statement = _CLAIM_FIRST_BRIEF[pool] if brief else _CLAIM_FIRST[pool]
            if self._foreign:
                statement, taken = _claim_first_but(pool, brief=brief), {**taken, "foreign": [*self._foreign]}
            return connection.execute(statement, taken).one_or_none()
        chosen = _first_that_fits(connection, pool, room, self._foreign)
        return None if chosen is None else connection.execute(_CLAIM, {**taken, "the_stage": chosen}).one_or_none()

    def _take_back(self, condition: ColumnElement[bool], reason: str) -> list[str]:
        with self._database.read() as connection:
            lost = connection.execute(select(StageRow.id, StageRow.attempt).where(condition)).all()
        return [row.id for row in lost if self._take_back_one(row, condition, reason)]

    def _take_back_one(self, row: AnyRow, condition: ColumnElement[bool], reason: str) -> bool:
        lost = Retry(code=WorkerLost.code, detail=reason, hint=WorkerLost.hint, crashed=True)
        fence = (StageRow.id == row.id, StageRow.attempt == row.attempt, condition)
        with self._database.write() as connection:
            stage = connection.execute(
                update(StageRow).where(*fence).values(**_NO_LEASE).returning(*_SETTLED)
            ).one_or_none()
            if stage is None:
                return False
            self._settle(connection, stage, lost)
        return True

    def _settle(self, connection: Connection, stage: AnyRow, outcome: Outcome) -> frozenset[Pool]:
        """End an attempt that has not succeeded, or whose stage nobody wants any more."""
        if stage.hub and isinstance(outcome, Retry) and outcome.code == RateLimited.code:
            self._keep_away(connection, stage.hub, outcome)
        ruled = Cancelled() if stage.cancel_at is not None else self._rule(stage, outcome)
        match ruled:
            case Failed():
                return _fail(connection, stage, ruled)
            case Cancelled() | Succeeded():
                return _cancel(connection, stage)
            case Released():
                _requeue(connection, stage)
                record(connection, event("stage.released", stage_id=stage.id, attempt=stage.attempt))
            case Retry():
                self._try_again(connection, stage, ruled)
        return frozenset({Pool(stage.pool)})

    def _rule(self, stage: AnyRow, outcome: Outcome) -> Outcome:
        """An attempt that may not be repeated any more has failed."""
        if not isinstance(outcome, Retry):
            return outcome
        if stage.kind == StageKind.ASK:
            # Somebody waits for the answer: that there is none is one.
            return Failed(code=outcome.code, detail=outcome.detail, hint=outcome.hint)
        if self._is_obedient(stage, outcome):
            return outcome
        if outcome.crashed and stage.crashes + 1 >= self._retry.max_crashes:
            detail = f"{outcome.detail} This happened {stage.crashes + 1} times, which is as often as is allowed."
            return Failed(code=outcome.code, detail=detail, hint=outcome.hint)
        if not outcome.crashed and stage.failures + 1 >= self._retry.max_attempts:
            return Failed(code=outcome.code, detail=outcome.detail, hint=outcome.hint)
        return outcome

    def _is_obedient(self, stage: AnyRow, retry: Retry) -> bool:
        """Whether this is no failure: the hub has told us when to come back, and we do."""
        return retry.code == RateLimited.code and retry.wait_s is not None and stage.age_s < _OBEDIENCE_S

    def _try_again(self, connection: Connection, stage: AnyRow, retry: Retry) -> None:
        detail = redact(retry.detail)
        counter = "crashes" if retry.crashed else "failures"
        count = getattr(stage, counter)
        counted = {} if self._is_obedient(stage, retry) else {counter: count + 1}
        wait_s = (
            min(2.0 * count, self._retry.cap_s)
            if retry.crashed
            else max(self._retry.backoff_s(count), retry.wait_s or 0.0)
        )
        _requeue(connection, stage, wait_s=wait_s, last_code=retry.code, last_error=detail, **counted)
        record(
            connection,
            event(
                "stage.retried", stage_id=stage.id, attempt=stage.attempt, code=retry.code, note=detail[:_NOTE_CHARS]
            ),
        )

    def _keep_away(self, connection: Connection, hub: str, limited: Retry) -> None:
        """One worker has been told to wait: nobody asks this hub until then."""
        wish = limited.wait_s

        def pause_s(strikes: int) -> float:
            return self._retry.backoff_s(strikes) if wish is None else wish

        limits.close(connection, hub, pause_s, redact(limited.detail)[:_NOTE_CHARS])


def could_start(pool: Pool) -> tuple[ColumnElement[bool], ...]:
    """What holds for a stage of this pool that a free worker would take now, if it has the memory."""
    due = or_(StageRow.not_before.is_(None), ~ahead(StageRow.not_before, StageRow.wait_s))
    waiting = (StageRow.pool == pool.value, StageRow.kind.in_(KNOWN_KINDS), QUEUED, StageRow.cancel_at.is_(None), due)
    return (*waiting, *limits.within_limits(pool), *([_its_batch_is_idle()] if pool is Pool.CONVERT else []))


def _its_batch_is_idle() -> ColumnElement[bool]:
    """What is made of the same artefact in this moment may bring this stage's result along: it is worth waiting for."""
    other = aliased(StageRow)
    return ~exists().where(other.batch == StageRow.batch, other.state == literal_column("'running'"))


_BATCH = (
    select(StageRow.work)
    .where(StageRow.batch == bindparam("the_batch"), QUEUED, StageRow.cancel_at.is_(None))
    .order_by(StageRow.created_at, StageRow.id)
    .limit(_MOST_SIBLINGS)
)


def _siblings(connection: Connection, stage: AnyRow) -> tuple[dict[str, object], ...]:
    """The work of the stages that may come along with this one. It is a hint: they stay in their queue."""
    if stage.batch is None:
        return ()
    return tuple(connection.execute(_BATCH, {"the_batch": stage.batch}).scalars())


_ORDER = (StageRow.rank, StageRow.created_at, StageRow.id)


def _claim(chosen: ColumnElement[bool]) -> Any:
    return (
        update(StageRow)
        .where(chosen, StageRow.state.in_([*before(StageState.RUNNING)]))
        .values(
            state=StageState.RUNNING,
            attempt=StageRow.attempt + 1,
            lease_owner=bindparam("the_owner"),
            lease_until=Now() + bindparam("the_lease_s"),
            started_at=func.coalesce(StageRow.started_at, Now()),
        )
        .returning(
            StageRow.id, StageRow.kind, StageRow.attempt, StageRow.work, StageRow.hub, StageRow.memory_bytes,
            StageRow.input, StageRow.batch, StageRow.progress, StageRow.not_before,
            (Now() - func.coalesce(StageRow.not_before, StageRow.created_at)).label("waited_s"),
        )
    )  # fmt: skip


def _waited_s(row: AnyRow) -> float | None:
    """Since when a stage that was given back could have been claimed, nobody has noted."""
    return max(0.0, float(row.waited_s)) if row.attempt == 1 or row.not_before is not None else None


def _first(pool: Pool, *conditions: ColumnElement[bool]) -> Any:
    waiting = select(StageRow.id).where(*could_start(pool), *conditions).order_by(*_ORDER)
    return waiting.limit(1).with_for_update(skip_locked=True).scalar_subquery()


_CLAIM = _claim(StageRow.id == bindparam("the_stage"))
_CLAIM_FIRST = {pool: _claim(StageRow.id == _first(pool)) for pool in Pool}
"""One statement decides who wins."""
_CLAIM_FIRST_BRIEF = {pool: _claim(StageRow.id == _first(pool, StageRow.kind.in_(sorted(BRIEF)))) for pool in Pool}


@cache
def _claim_first_but(pool: Pool, *, brief: bool) -> Any:
    """The same, without some stages."""
    others = StageRow.id.not_in(bindparam("foreign", expanding=True))
    conditions = [others, *([StageRow.kind.in_(sorted(BRIEF))] if brief else [])]
    return _claim(StageRow.id == _first(pool, *conditions))


_WAITING = {
    pool: select(StageRow.id, StageRow.memory_bytes, (StageRow.created_at < Now() - _PATIENCE_S).label("patient"))
    .where(*could_start(pool))
    .order_by(*_ORDER)
    .limit(_WINDOW)
    for pool in Pool
}
_RESERVED = select(func.coalesce(func.sum(StageRow.memory_bytes), 0)).where(
    RUNNING, StageRow.lease_owner.startswith(bindparam("the_machine"), autoescape=False)
)


def _first_that_fits(connection: Connection, pool: Pool, room: MemoryRoom, but: Collection[str]) -> str | None:
    """The first waiting stage for which this machine has memory, beside what runs on it.

    Where nothing runs, the first one starts whatever it needs: a prediction is no reason to refuse. Small ones may pass
    a large one, but not for ever.
    """
    reserved = int(connection.execute(_RESERVED, {"the_machine": f"{room.machine}/"}).scalar_one())
    left = min(room.budget_bytes - reserved, room.free_bytes)
    for stage in connection.execute(_WAITING[pool]):
        if stage.id in but:
            continue
        if stage.memory_bytes == 0 or stage.memory_bytes <= left or reserved == 0:
            return str(stage.id)
        if stage.patient:
            return None
    return None


_NO_LEASE: dict[str, object] = {"lease_owner": None, "lease_until": None}
_SETTLED = (
    StageRow.id, StageRow.kind, StageRow.pool, StageRow.hub, StageRow.attempt, StageRow.failures, StageRow.crashes,
    StageRow.cancel_at, (Now() - StageRow.started_at).label("age_s"),
)  # fmt: skip


def _fence() -> tuple[ColumnElement[bool], ...]:
    """What must hold for a worker to change a running stage: nobody else has claimed it since."""
    return (
        StageRow.id == bindparam("the_stage"),
        StageRow.attempt == bindparam("the_attempt"),
        StageRow.lease_owner == bindparam("the_owner"),
        RUNNING,
    )


def _held(claim: Claim) -> dict[str, object]:
    return {"the_stage": claim.stage_id, "the_attempt": claim.attempt, "the_owner": claim.owner}


def _advance(connection: Connection, stage: AnyRow, outcome: Succeeded) -> frozenset[Pool]:
    """A stage has succeeded: each of its jobs gets on."""
    if stage.hub:
        limits.reopen(connection, stage.hub)
    events = [event("stage.succeeded", stage_id=stage.id, attempt=stage.attempt, note=outcome.artefact)]
    pools = set()
    for job in jobs_on(connection, stage.id):
        try:
            following, happened = advance(
                connection, job, artefact=outcome.artefact, source_bytes=outcome.bytes, result=outcome.result
            )
        except Foreign:
            log.warning("row.not_understood", extra={"job": job.id})
            put_back(connection, job.id, job.position, stage.id)
            following, happened = Pool(stage.pool), []
        pools |= {following} if following else set()
        events += happened
    record(connection, *events)
    return frozenset(pools)


def _fail(connection: Connection, stage: AnyRow, outcome: Failed) -> frozenset[Pool]:
    detail, hint = redact(outcome.detail), redact(outcome.hint)
    _end_stage(connection, stage.id, StageState.FAILED, error_code=outcome.code, error=detail, hint=hint)
    note = detail[:_NOTE_CHARS]
    events = [event("stage.failed", stage_id=stage.id, attempt=stage.attempt, code=outcome.code, note=note)]
    for job in jobs_on(connection, stage.id):
        events += end_job(connection, job.id, JobState.FAILED, code=outcome.code, detail=detail, hint=hint)
    record(connection, *events)
    return frozenset()


def _cancel(connection: Connection, stage: AnyRow) -> frozenset[Pool]:
    _end_stage(connection, stage.id, StageState.CANCELED)
    events = [event("stage.cancelled", stage_id=stage.id, attempt=stage.attempt)]
    for job in jobs_on(connection, stage.id):
        events += end_job(connection, job.id, JobState.CANCELED)
    record(connection, *events)
    # The jobs that wanted it may have been deleted while it was being stopped.
    forget_stages(connection, [stage.id])
    return frozenset()


def _requeue(connection: Connection, stage: AnyRow, *, wait_s: float | None = None, **changes: object) -> None:
    not_before = None if wait_s is None else Now() + wait_s
    connection.execute(
        update(StageRow)
        .where(StageRow.id == stage.id)
        .values(state=StageState.QUEUED, not_before=not_before, wait_s=wait_s, **changes)
    )
    show_state(connection, stage.id, StageKind(stage.kind), StageState.QUEUED)


def _end_stage(connection: Connection, stage_id: str, state: StageState, **values: object) -> None:
    connection.execute(
        update(StageRow)
        .where(StageRow.id == stage_id, StageRow.state.in_(before(state)))
        .values(state=state, ended_at=Now(), **values)
    )
