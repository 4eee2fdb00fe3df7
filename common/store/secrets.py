"""Sealed credentials in the table: kept as long as a job needs them. Nothing here can open them."""

from collections.abc import Collection, Mapping

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select

from common.store.database import Now
from common.store.tables import JobRow, SecretRow

_LONGEST_S = 7 * 24 * 3600.0
"""Credentials that are older go, whatever still waits for them: it fails, and says so."""

_NEW = insert(SecretRow).values(created_at=Now())


def keep(connection: Connection, sealed: Mapping[str, bytes]) -> None:
    """Keep secrets under their ids, for the jobs that are made in the same transaction."""
    if sealed:
        connection.execute(_NEW, [{"id": secret_id, "sealed": box} for secret_id, box in sealed.items()])


def sealed(connection: Connection, secret_id: str) -> bytes | None:
    """One secret; None when it is gone."""
    return connection.execute(select(SecretRow.sealed).where(SecretRow.id == secret_id)).scalar()


def drop_idle(connection: Connection, secret_ids: Collection[str]) -> None:
    """Delete those of these secrets that no job needs any more."""
    if not secret_ids:
        return
    # Locked first: of two jobs that end at one moment, one must see that it was the last.
    mine = SecretRow.id.in_(secret_ids)
    connection.execute(select(SecretRow.id).where(mine).order_by(SecretRow.id).with_for_update())
    connection.execute(delete(SecretRow).where(mine, ~_needed()))


def drop_old(connection: Connection) -> None:
    """Delete what was left behind, and what is too old to be kept."""
    connection.execute(delete(SecretRow).where((SecretRow.created_at < Now() - _LONGEST_S) | ~_needed()))


def _needed() -> ColumnElement[bool]:
    return exists().where(JobRow.secret_id == SecretRow.id, JobRow.ended_at.is_(None))
