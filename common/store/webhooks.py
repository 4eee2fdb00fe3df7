"""The webhook store: who wants to hear how jobs end, and what a person does with the messages to them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from common.errors import NoSuchWebhook, WebhookOff, WebhooksFull
from common.records import DeliveryRecord, WebhookRecord
from common.store import outbox
from common.store.database import AnyRow, Database, Lock, Now, alone
from common.store.deliveries import FORMER_SIGNS_S, end_waiting
from common.store.tables import DeliveryRow, WebhookRow
from common.webhooks import TEST

MOST_WEBHOOKS = 50


class WebhookStore:
    """Webhooks in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away.

    What names a webhook raises NoSuchWebhook where there is none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Webhooks

    def add(self, webhook_id: str, url: str, sealed: bytes, *, events: Sequence[str], tenant: str) -> WebhookRecord:
        """Keep a webhook; `url` is what may be shown of its URL. Raises WebhooksFull."""
        with self._database.write() as connection:
            alone(connection, Lock.WEBHOOKS)
            if connection.execute(select(func.count(WebhookRow.id))).scalar_one() >= MOST_WEBHOOKS:
                raise WebhooksFull(f"There are {MOST_WEBHOOKS} webhooks already: remove one first.")
            values = {"id": webhook_id, "url": url, "sealed": sealed, "events": [*events], "tenant": tenant}
            connection.execute(insert(WebhookRow).values(enabled=True, created_at=Now(), **values))
            return _webhook(_locked(connection, webhook_id))

    def webhooks(self) -> list[WebhookRecord]:
        """Every webhook, oldest first."""
        with self._database.read() as connection:
            found = connection.execute(select(WebhookRow).order_by(WebhookRow.created_at, WebhookRow.id))
            return [_webhook(row) for row in found]

    def webhook(self, webhook_id: str) -> WebhookRecord:
        """One webhook."""
        with self._database.read() as connection:
            return _webhook(_found(connection, webhook_id))

    def change(
        self,
        webhook_id: str,
        *,
        enabled: bool | None = None,
        events: Sequence[str] | None = None,
        address: Callable[[bytes], tuple[str, bytes]] | None = None,
    ) -> WebhookRecord:
        """Change what is given. `address` makes of the sealed box what may be shown of the new URL, and a new box.

        One that is switched off sends nothing more: what waits ends.
        """

        def change(connection: Connection) -> WebhookRecord:
            known = _locked(connection, webhook_id)
            changes: dict[str, Any] = {} if enabled is None else {"enabled": enabled}
            if events is not None:
                changes["events"] = [*events]
            if address is not None:
                changes["url"], changes["sealed"] = address(known.sealed)
            if changes:
                connection.execute(update(WebhookRow).where(WebhookRow.id == webhook_id).values(**changes))
            if enabled is False:
                end_waiting(connection, webhook_id)
            return _webhook(_found(connection, webhook_id))

        return self._database.write_again(change)

    def rotate(self, webhook_id: str, reseal: Callable[[bytes], bytes]) -> WebhookRecord:
        """Sign by the box that `reseal` makes of the present one, which signs too for a while."""
        with self._database.write() as connection:
            known = _locked(connection, webhook_id)
            changes = {"sealed": reseal(known.sealed), "former": known.sealed, "former_until": Now() + FORMER_SIGNS_S}
            connection.execute(update(WebhookRow).where(WebhookRow.id == webhook_id).values(**changes))
            return _webhook(known)

    def remove(self, webhook_id: str) -> None:
        """Forget a webhook, with all that was sent to it or waits."""

        def remove(connection: Connection) -> None:
            _locked(connection, webhook_id)
            connection.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
            connection.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))

        self._database.write_again(remove)

    # What a person does with messages

    def test(self, webhook_id: str) -> DeliveryRecord:
        """Leave a message that tells of no job. Raises WebhookOff."""
        with self._database.write() as connection:
            _refuse_off(_locked(connection, webhook_id))
            now = connection.execute(select(Now())).scalar_one()
            left = outbox.message(webhook_id, TEST, outbox.as_text(TEST, now, {"webhook_id": webhook_id}))
            outbox.put(connection, [left])
            return _delivery(_message(connection, webhook_id, left["id"]))

    def deliveries(self, webhook_id: str, *, limit: int) -> list[DeliveryRecord]:
        """The newest messages, newest first."""
        newest = (
            select(DeliveryRow)
            .where(DeliveryRow.webhook_id == webhook_id)
            .order_by(DeliveryRow.created_at.desc(), DeliveryRow.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            _found(connection, webhook_id)
            return [_delivery(row) for row in connection.execute(newest)]

    def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Send a message again, or now if it waits; the message stays the same. Raises WebhookOff."""
        with self._database.write() as connection:
            _refuse_off(_locked(connection, webhook_id))
            known = _message(connection, webhook_id, delivery_id)
            changes: dict[str, Any] = {"due_at": Now()}
            if known.state != "waiting":
                changes |= {"state": "waiting", "attempts": 0, "ended_at": None}
            connection.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(**changes))
            return _delivery(_message(connection, webhook_id, delivery_id))


def _locked(connection: Connection, webhook_id: str) -> AnyRow:
    """A webhook that nobody changes or sends to meanwhile."""
    return _found(connection, webhook_id, lock=True)


def _found(connection: Connection, webhook_id: str, *, lock: bool = False) -> AnyRow:
    query = select(*WebhookRow.__table__.columns).where(WebhookRow.id == webhook_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NoSuchWebhook("There is no such webhook")
    return row


def _message(connection: Connection, webhook_id: str, delivery_id: str) -> AnyRow:
    query = select(*DeliveryRow.__table__.columns).where(
        DeliveryRow.id == delivery_id, DeliveryRow.webhook_id == webhook_id
    )
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NoSuchWebhook("This webhook has no such delivery, or has it no more")
    return row


def _refuse_off(row: AnyRow) -> None:
    if not row.enabled:
        raise WebhookOff("This webhook is not enabled: nothing is sent to it.")


def _webhook(row: AnyRow) -> WebhookRecord:
    return WebhookRecord(
        id=row.id,
        url=row.url,
        events=tuple(row.events),
        tenant=row.tenant,
        enabled=row.enabled,
        created_at=_time(row.created_at),
    )


def _delivery(row: AnyRow) -> DeliveryRecord:
    return DeliveryRecord(
        id=row.id,
        event=row.event,
        state=row.state,
        attempts=row.attempts,
        created_at=_time(row.created_at),
        job_id=row.job_id,
        due_at=None if row.due_at is None else _time(row.due_at),
        ended_at=None if row.ended_at is None else _time(row.ended_at),
        status=row.status,
        error=row.error,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
