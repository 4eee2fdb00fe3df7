"""Reads what has happened to jobs, in one order that every reader shares and in which nothing comes to light late."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    and_,
    bindparam,
    func,
    literal,
    null,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from common.store.chain import ENDED, LOG
from common.store.database import AnyRow, AnySelect, Database
from common.store.tables import RUNNING, JobEventRow, JobRow, JobStageRow, StageRow
from common.vocabulary import HIDDEN, JobState, StageKind

_GREATEST = 2**63 - 1
_POSITION = re.compile(r"([0-9]{1,19})-([0-9]{1,19})(?:-([0-9]{1,19}))?")
_BATCH = 200
"""So many events are read at once."""


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in the order of events: behind one of them.

    What happens to a stage happens to every job on it: then `job` tells behind which of them, by their own order.
    """

    tx: int
    seq: int
    job: int = _GREATEST

    @staticmethod
    def read(text: str) -> "Position | None":
        """What `text` says; None where that is no position."""
        found = _POSITION.fullmatch(text)
        if found is None:
            return None
        numbers = [int(part) for part in found.groups() if part is not None]
        return Position(*numbers) if max(numbers) <= _GREATEST else None

    def text(self) -> str:
        """As clients pass it back."""
        shared = "" if self.job == _GREATEST else f"-{self.job}"
        return f"{self.tx}-{self.seq}{shared}"


BEGINNING = Position(0, 0)
"""Before the first event."""


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as it concerns one job."""

    position: Position
    at: datetime
    event: str
    job_id: str
    hidden: bool
    """Whether the job is nobody's business but the one's who waits for it."""
    stage: StageKind | None
    attempt: int | None
    code: str | None
    note: str | None
    level: str | None
    fields: dict[str, object]

    @property
    def is_said(self) -> bool:
        """Whether an attempt has said this; otherwise it has happened."""
        return self.event == LOG

    @property
    def ends(self) -> JobState | None:
        """The last state of the job, where nothing happens to it after this."""
        return JobState(self.event.removeprefix("job.")) if self.event in ENDED else None


class RunningStage(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stage is, and which jobs wait for it."""

    id: str
    progress: dict[str, object]
    job_ids: list[str]


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened since a position, and what is going on."""

    events: list[JobEvent]
    """In their order."""
    behind: Position
    """The position behind the last event that was looked at, whomever it concerns."""
    more: bool
    """Whether there may be more events already."""
    running: list[RunningStage]


class EventStore:
    """The history as the table has it. Every method is one transaction; all raise ServiceUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self) -> Position:
        """The position behind the newest event before which nothing can come to light any more."""
        with self._database.read() as connection:
            newest = connection.execute(_NEWEST).one_or_none()
        return BEGINNING if newest is None else Position(newest.tx, newest.seq)

    def news(self, after: Position, *, logs: bool) -> News:
        """What has happened to any job since, and how far the running stages are. One statement.

        What attempts have said is left out where nobody wants it.
        """
        return self._read(_NEWS[logs], after)

    def since(self, after: Position, *, logs: bool) -> News:
        """What has happened to any job since, and nothing else."""
        return self._read(_SINCE[logs], after)

    def of_job(self, job_id: str, after: Position = BEGINNING, *, limit: int = _BATCH) -> list[JobEvent]:
        """What has happened to a job since, and to its stages while it was on them, oldest first."""
        asked = {"the_job": job_id, "the_tx": after.tx, "the_seq": _before(after), "the_limit": limit + 1}
        with self._database.read() as connection:
            rows = connection.execute(_OF_JOB, asked).all()
        events = [_event(row) for row in rows]
        return [event for event in events if event.position > after][:limit]

    def _read(self, query: Any, after: Position) -> News:
        with self._database.read() as connection:
            rows = connection.execute(query, {"the_tx": after.tx, "the_seq": _before(after)}).all()
        seen = sorted({(row.tx, row.seq) for row in rows if row.tx is not None})
        events = [_event(row) for row in rows if row.tx is not None and row.job_seq is not None]
        return News(
            events=sorted((event for event in events if event.position > after), key=lambda event: event.position),
            behind=max(after, Position(*seen[-1])) if seen else after,
            more=len(seen) >= _BATCH,
            running=_running([row for row in rows if row.tx is None]),
        )


def _before(after: Position) -> int:
    """The number after which to read: what has been told of to some of its jobs is looked at once more."""
    return after.seq if after.job == _GREATEST else after.seq - 1


class _Settled(FunctionElement[Any]):
    """Whether this transaction, and every one before it, has ended: nothing will come to light before it any more."""

    # Not of the type Boolean: for that SQLAlchemy would write `... = 1`, of which SQLite looks up nothing.
    inherit_cache = True


@compiles(_Settled, "sqlite")
def _settled_sqlite(element: _Settled, compiler: SQLCompiler, **_: Any) -> str:  # noqa: ARG001 - SQLAlchemy's signature
    # One writer at a time: whoever has got a number has ended before the next one gets his.
    return "1 = 1"


@compiles(_Settled, "postgresql")
def _settled_postgres(element: _Settled, compiler: SQLCompiler, **more: Any) -> str:
    tx = compiler.process(element.clauses, **more)
    return f"{tx} < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"


_SETTLED = _Settled(JobEventRow.tx)


class _After(FunctionElement[Any]):
    """Whether an event comes after a place: (tx, seq, tx of the place, seq of the place)."""

    inherit_cache = True


@compiles(_After, "sqlite")
def _after_sqlite(element: _After, compiler: SQLCompiler, **more: Any) -> str:
    # There is one `tx`, and of a comparison of pairs SQLite would look up the first half only.
    tx, seq, of_place, number = (compiler.process(one, **more) for one in element.clauses)
    return f"({tx} = {of_place} AND {seq} > {number})"


@compiles(_After, "postgresql")
def _after_postgres(element: _After, compiler: SQLCompiler, **more: Any) -> str:
    tx, seq, of_place, number = (compiler.process(one, **more) for one in element.clauses)
    return f"(({tx}, {seq}) > ({of_place}, {number}))"


_AFTER = _After(
    JobEventRow.tx, JobEventRow.seq, bindparam("the_tx", type_=BigInteger), bindparam("the_seq", type_=BigInteger)
)
_NEWEST = (
    select(JobEventRow.tx, JobEventRow.seq)
    .where(_SETTLED)
    .order_by(JobEventRow.tx.desc(), JobEventRow.seq.desc())
    .limit(1)
)


def _membership(job_id: Any, stage_id: Any, seq: Any) -> tuple[Any, Any, ColumnElement[bool]]:
    """How a job has come to a stage and how it has ended, and whether an event of the stage lies between.

    By their numbers: whoever writes of a stage, or joins it, has locked its row, so these tell what came first.
    """
    joined, ended = aliased(JobEventRow), aliased(JobEventRow)
    while_on_it = and_(or_(joined.seq.is_(None), joined.seq < seq), or_(ended.seq.is_(None), ended.seq > seq))
    return (
        # Not by an index of stages, where all that the stage has said would be looked through.
        (joined, and_(joined.job_id == job_id, func.coalesce(joined.stage_id, "") == stage_id)),
        (ended, and_(ended.job_id == job_id, ended.event.in_(sorted(ENDED)))),
        while_on_it,
    )


def _columns(event: Any, fields: Any) -> list[Any]:
    return [event.tx, event.seq, event.at, event.event, event.attempt, event.code, event.note, event.level, fields]


def _since(*, logs: bool) -> AnySelect:
    """A batch of events, each with the jobs that it concerns. One that concerns none is there too, without a job."""
    wanted = [_SETTLED, _AFTER] if logs else [_SETTLED, _AFTER, JobEventRow.event != LOG]
    # Cut before it is spread over jobs: the last event is there for all of its jobs, or not at all.
    fresh = select(JobEventRow).where(*wanted).order_by(JobEventRow.tx, JobEventRow.seq).limit(_BATCH)
    event = aliased(JobEventRow, fresh.subquery())
    of_stage = and_(event.job_id.is_(None), JobStageRow.stage_id == event.stage_id)
    joined, ended, while_on_it = _membership(JobStageRow.job_id, JobStageRow.stage_id, event.seq)
    concerned = and_(JobRow.id == func.coalesce(event.job_id, JobStageRow.job_id), while_on_it)
    return (
        select(
            *_columns(event, event.fields), event.job_id.is_(None).label("shared"), event.stage_id, StageRow.kind,
            JobRow.id.label("job_id"), JobRow.seq.label("job_seq"), JobRow.operation,
        )
        .select_from(event)
        .outerjoin(JobStageRow, of_stage)
        .outerjoin(*joined)
        .outerjoin(*ended)
        .outerjoin(JobRow, concerned)
        .outerjoin(StageRow, StageRow.id == event.stage_id)
    )  # fmt: skip


def _going_on() -> AnySelect:
    """The running stages, in the columns of `_since`: their progress among the fields, and no number."""
    nothing = {
        "tx": BigInteger(), "seq": BigInteger(), "at": JobEventRow.at.type, "event": String(), "attempt": Integer(),
        "code": String(), "note": String(), "level": String(),
    }  # fmt: skip
    return (
        select(
            *[type_coerce(null(), kind).label(name) for name, kind in nothing.items()],
            type_coerce(StageRow.progress, JobEventRow.fields.type).label("fields"),
            literal(True).label("shared"),
            StageRow.id.label("stage_id"), StageRow.kind,
            JobRow.id.label("job_id"), JobRow.seq.label("job_seq"), JobRow.operation,
        )
        # Not by an index of ends, where all jobs that wait would be looked through.
        .join(JobRow, and_(JobRow.stage_id == StageRow.id, func.coalesce(JobRow.ended_at, 0.0) == 0.0))
        .where(RUNNING, StageRow.progress.is_not(None))
    )  # fmt: skip


def _of_job() -> AnySelect:
    """The events of one job, and of its stages."""
    own, shared = aliased(JobEventRow), aliased(JobEventRow)
    joined, ended, while_on_it = _membership(bindparam("the_job"), JobStageRow.stage_id, shared.seq)
    of_stages = (
        select(shared.seq)
        .select_from(JobStageRow)
        .join(shared, shared.stage_id == JobStageRow.stage_id)
        .outerjoin(*joined)
        .outerjoin(*ended)
        .where(JobStageRow.job_id == bindparam("the_job"), shared.job_id.is_(None), while_on_it)
    )
    concerning = union_all(select(own.seq).where(own.job_id == bindparam("the_job")), of_stages)
    return (
        select(
            *_columns(JobEventRow, JobEventRow.fields), JobEventRow.job_id.is_(None).label("shared"),
            JobEventRow.stage_id, StageRow.kind, JobRow.id.label("job_id"), JobRow.seq.label("job_seq"),
            JobRow.operation,
        )
        .select_from(JobEventRow)
        .join(JobRow, JobRow.id == bindparam("the_job"))
        .outerjoin(StageRow, StageRow.id == JobEventRow.stage_id)
        .where(_SETTLED, _AFTER, JobEventRow.seq.in_(concerning))
        .order_by(JobEventRow.tx, JobEventRow.seq)
        .limit(bindparam("the_limit"))
    )  # fmt: skip


# Made once: to build a statement takes SQLAlchemy longer than to run it.
_SINCE = {logs: _since(logs=logs) for logs in (False, True)}
_NEWS = {logs: union_all(_since(logs=logs), _going_on()) for logs in (False, True)}
_OF_JOB = _of_job()


def _event(row: AnyRow) -> JobEvent:
    return JobEvent(
        position=Position(row.tx, row.seq, row.job_seq) if row.shared else Position(row.tx, row.seq),
        at=datetime.fromtimestamp(row.at, UTC),
        event=row.event,
        job_id=row.job_id,
        hidden=row.operation in HIDDEN,
        stage=None if row.kind is None else StageKind(row.kind),
        attempt=row.attempt,
        code=row.code,
        note=row.note,
        level=row.level,
        fields=row.fields or {},
    )


def _running(rows: Sequence[AnyRow]) -> list[RunningStage]:
    jobs: dict[str, list[str]] = {}
    for row in rows:
        jobs.setdefault(row.stage_id, []).append(row.job_id)
    progress = {row.stage_id: row.fields for row in rows}
    return [RunningStage(id=stage, progress=progress[stage] or {}, job_ids=ids) for stage, ids in jobs.items()]
