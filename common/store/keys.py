"""Idempotency keys: a request that is sent twice is carried out once (draft-ietf-httpapi-idempotency-key-header)."""

import uuid

from sqlalchemy import ColumnElement, Connection, delete, select, update

from common.errors import KeyInFlight, KeyReused
from common.records import KeyReservation
from common.store.database import Now, insert_into
from common.store.tables import IdempotencyKeyRow

REMEMBERED_S = 24 * 3600.0
_IN_FLIGHT_S = 30.0
"""A first request that is not answered after so long was lost with its API process."""


def reserve(connection: Connection, tenant: str, key: str, fingerprint: str) -> KeyReservation | list[str]:
    """See `JobStore.reserve`."""
    mine = KeyReservation(tenant=tenant, key=key, token=str(uuid.uuid4()))
    made = connection.execute(
        insert_into(IdempotencyKeyRow, connection.dialect.name)
        .values(tenant=tenant, key=key, token=mine.token, fingerprint=fingerprint, created_at=Now())
        .on_conflict_do_nothing()
        .returning(IdempotencyKeyRow.token)
    ).scalar()
    if made is not None:
        return mine
    first = connection.execute(
        select(
            IdempotencyKeyRow.fingerprint,
            IdempotencyKeyRow.job_ids,
            (Now() - IdempotencyKeyRow.created_at).label("age_s"),
        )
        .where(*_is(mine))
        .with_for_update()
    ).one_or_none()
    if first is None:
        raise KeyInFlight("A request with this Idempotency-Key has just been refused. Send it again.")
    # A negative age means that the clock was put back: nobody knows how old it is.
    lost = first.job_ids is None and not 0 <= first.age_s < _IN_FLIGHT_S
    if not lost and first.age_s < REMEMBERED_S:
        if first.fingerprint != fingerprint:
            raise KeyReused("This Idempotency-Key was used for another request.")
        if first.job_ids is None:
            raise KeyInFlight("The first request with this Idempotency-Key is still being answered. Try again shortly.")
        return list(first.job_ids)
    connection.execute(
        update(IdempotencyKeyRow)
        .where(*_is(mine))
        .values(token=mine.token, fingerprint=fingerprint, job_ids=None, created_at=Now())
    )
    return mine


def answer(connection: Connection, reservation: KeyReservation, job_ids: list[str]) -> None:
    """Store what the first request was answered with. Raises KeyInFlight when the key is somebody else's by now."""
    stored = connection.execute(
        update(IdempotencyKeyRow)
        .where(*_is(reservation), IdempotencyKeyRow.token == reservation.token)
        .values(job_ids=job_ids)
    )
    if not stored.rowcount:
        raise KeyInFlight("Another request with this Idempotency-Key has overtaken this one.")


def abandon(connection: Connection, reservation: KeyReservation) -> None:
    """See `JobStore.abandon`."""
    connection.execute(
        delete(IdempotencyKeyRow).where(
            *_is(reservation),
            IdempotencyKeyRow.token == reservation.token,
            IdempotencyKeyRow.job_ids.is_(None),
        )
    )


def forget_old(connection: Connection) -> None:
    """Drop the keys that need not be remembered any more."""
    connection.execute(delete(IdempotencyKeyRow).where(IdempotencyKeyRow.created_at < Now() - REMEMBERED_S))


def _is(reservation: KeyReservation) -> tuple[ColumnElement[bool], ...]:
    return IdempotencyKeyRow.tenant == reservation.tenant, IdempotencyKeyRow.key == reservation.key
