"""The gate store: named sets of wishes, changed only by those who have read what they change."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from common.errors import GatesFull
from common.gates import GateFate, GateRecord, GateWish, no_such_gate
from common.records import NOWHERE, Origin
from common.spec import JobSpec
from common.store.database import AnyRow, Database, Lock, Now, alone, insert_into
from common.store.foreign import read_as
from common.store.jobs import insert_jobs
from common.store.tables import GateRow

MOST_GATES = 200


class GateStore:
    """Gates in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def gate(self, name: str) -> GateRecord | None:
        """One gate; None where there is none of this name."""
        with self._database.read() as connection:
            row = connection.execute(select(GateRow).where(GateRow.name == name)).one_or_none()
        return None if row is None else _record(row)

    def gates(self) -> list[GateRecord]:
        """Every gate, by name."""
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(select(GateRow).order_by(GateRow.name))]

    def save(
        self,
        name: str,
        version: int | None,
        wishes: Sequence[GateWish],
        fates: Sequence[GateFate],
        *,
        jobs: Mapping[str, JobSpec],
        tenant: str = "",
        sealed: Mapping[str, bytes] | None = None,
        origin: Origin = NOWHERE,
    ) -> bool:
        """Store what a gate waits for, and the jobs that are to bring it, by their ids: all of it or nothing.

        `version` is that of the gate that was read before, None if there was none. False if somebody else has changed
        it meanwhile; then nothing was stored. Raises GatesFull when there are as many gates as may be.
        """
        values = {
            "wishes": msgspec.to_builtins(list(wishes)),
            "fates": msgspec.to_builtins(list(fates)),
            "changed_at": Now(),
        }

        def store(connection: Connection) -> bool:
            won = _insert(connection, name, values) if version is None else _change(connection, name, version, values)
            if won:
                insert_jobs(connection, list(jobs), list(jobs.values()), tenant, sealed=sealed, origin=origin)
            return won

        return self._database.write_again(store)

    def note(self, record: GateRecord, fates: Sequence[GateFate]) -> bool:
        """Keep what was seen of the jobs of a gate. False, and nothing is stored, if it was changed meanwhile."""
        with self._database.note() as connection:
            return _change(connection, record.name, record.version, {"fates": msgspec.to_builtins(list(fates))})

    def remove(self, name: str) -> None:
        """Forget a gate. Its jobs and models stay. Raises NoSuchGate."""
        with self._database.write() as connection:
            gone = connection.execute(delete(GateRow).where(GateRow.name == name))
        if not gone.rowcount:
            raise no_such_gate(name)


def _insert(connection: Connection, name: str, values: Mapping[str, object]) -> bool:
    # Only so is the count right: two that are new at one moment do not see each other.
    alone(connection, Lock.SUBMIT)
    if connection.execute(select(func.count()).select_from(GateRow)).scalar_one() >= MOST_GATES:
        raise GatesFull(f"There are {MOST_GATES} gates, which is as many as may be. Remove one first.")
    made = connection.execute(
        insert_into(GateRow, connection.dialect.name)
        .values(name=name, version=1, created_at=Now(), **values)
        .on_conflict_do_nothing()
        .returning(GateRow.version)
    ).scalar()
    return made is not None


def _change(connection: Connection, name: str, version: int, values: Mapping[str, object]) -> bool:
    known = (GateRow.name == name) & (GateRow.version == version)
    return bool(connection.execute(update(GateRow).where(known).values(version=version + 1, **values)).rowcount)


def _record(row: AnyRow) -> GateRecord:
    return GateRecord(
        name=row.name,
        wishes=tuple(read_as(row.wishes, list[GateWish])),
        fates=tuple(read_as(row.fates, list[GateFate])),
        version=row.version,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        changed_at=datetime.fromtimestamp(row.changed_at, UTC),
    )
