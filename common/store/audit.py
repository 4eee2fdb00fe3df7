"""The audit trail: who did what. Rows are added and read; the database refuses to change them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, bindparam, delete, insert, select

from common.access import Way
from common.store.database import AnyRow, Database, Now
from common.store.tables import AuditRow
from common.vocabulary import Role

_BATCH = 2000
_DAY_S = 24 * 3600.0


_ADD = insert(AuditRow).values(at=Now() - bindparam("age_s", type_=Float))


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as it ended. Holds no credential, no query and no body."""

    caller: str
    way: Way
    role: Role | None
    address: str
    operation: str
    target: str
    status: int
    code: str | None
    request_id: str


class AuditRecord(AuditEntry, frozen=True, kw_only=True):
    """An entry in the trail."""

    seq: int
    at: datetime


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are looked for: all that is said must hold."""

    caller: str | None = None
    operation: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    hundred: int | None = None
    """The first digit of the status."""


class AuditPage(msgspec.Struct, frozen=True):
    """Some entries, newest first, and after which one the next page begins."""

    records: list[AuditRecord]
    next: int | None


class AuditStore:
    """Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entries: Sequence[tuple[AuditEntry, float]]) -> None:
        """Keep entries with how many seconds ago each was made. On disk when this returns."""
        rows = [{**_values(entry), "age_s": age_s} for entry, age_s in entries]
        with self._database.write() as connection:
            connection.execute(_ADD, rows)

    def page(self, wanted: AuditFilter, *, before: int | None, limit: int) -> AuditPage:
        """Entries, newest first. `before` is the `next` of the page before."""
        query = select(AuditRow).where(*_conditions(wanted)).order_by(AuditRow.seq.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(AuditRow.seq < before)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        shown = [_record(row) for row in rows[:limit]]
        return AuditPage(records=shown, next=shown[-1].seq if len(rows) > limit else None)


def forget_old(connection: Connection, keep_days: float) -> int:
    """Delete one batch of entries that are older than they are kept. Returns how many. 0 days keep all for ever."""
    if not keep_days:
        return 0
    # Rows come in the order of time, so that whether there is something to do is seen in the first ones.
    first = select(AuditRow.seq, AuditRow.at).order_by(AuditRow.seq).limit(_BATCH).subquery()
    old = select(first.c.seq).where(first.c.at < Now() - keep_days * _DAY_S)
    return connection.execute(delete(AuditRow).where(AuditRow.seq.in_(old))).rowcount


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.caller is not None:
        conditions.append(AuditRow.caller == wanted.caller)
    if wanted.operation is not None:
        conditions.append(AuditRow.operation == wanted.operation)
    if wanted.since is not None:
        conditions.append(AuditRow.at >= wanted.since.timestamp())
    if wanted.until is not None:
        conditions.append(AuditRow.at < wanted.until.timestamp())
    if wanted.hundred is not None:
        conditions.append(AuditRow.status.between(wanted.hundred * 100, wanted.hundred * 100 + 99))
    return conditions


def _values(entry: AuditEntry) -> dict[str, object]:
    values = msgspec.structs.asdict(entry)
    return values | {"way": entry.way.value, "role": entry.role and entry.role.value}


def _record(row: AnyRow) -> AuditRecord:
    return AuditRecord(
        seq=row.seq,
        at=datetime.fromtimestamp(row.at, UTC),
        caller=row.caller,
        way=Way(row.way),
        role=None if row.role is None else Role(row.role),
        address=row.address,
        operation=row.operation,
        target=row.target,
        status=row.status,
        code=row.code,
        request_id=row.request_id,
    )
