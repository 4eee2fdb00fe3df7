"""The store of messages to webhooks, as the deliverer uses it: which are due, who holds them, what became of them."""

from collections.abc import Collection
from functools import partial
from typing import Any

from sqlalchemy import Connection, Update, bindparam, case, delete, literal_column, select, update

from common.records import Parcel
from common.store.database import AnyRow, Database, Now, ahead
from common.store.tables import DeliveryRow, WebhookRow

MOST_ATTEMPTS = 10
MOST_WISHED_S = 3600.0
"""No receiver can wish to be left alone for longer."""
FORMER_SIGNS_S = 24 * 3600.0
"""How long a secret signs on after another has taken its place."""


_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 12 * 3600.0
_HELD_S = 60.0
"""A message that is being sent comes back after this: several times as long as sending one may take."""
_KEPT = 1000
_KEPT_S = 30 * 24 * 3600.0
_BATCH = 500
_SWITCHED_OFF = "The webhook was switched off"

_WAITING = DeliveryRow.state == literal_column("'waiting'")
"""Written out, so that the partial index applies."""


def longest_wait_s(attempts: int) -> float:
    """The most that lies between so many attempts and the next one, where the receiver wishes for nothing."""
    return 0.0 if attempts == 0 else min(_FIRST_WAIT_S * 4.0 ** (attempts - 1), _LONGEST_WAIT_S)


_LONGEST_AHEAD_S = case(
    *((DeliveryRow.attempts == count, max(longest_wait_s(count), MOST_WISHED_S)) for count in range(1, MOST_ATTEMPTS)),
    (DeliveryRow.attempts == 0, 0.0),
    else_=_LONGEST_WAIT_S,
)
_CHOSEN = (
    select(DeliveryRow.id)
    .where(_WAITING, DeliveryRow.due_at <= Now(), DeliveryRow.webhook_id.not_in(bindparam("others", expanding=True)))
    .order_by(DeliveryRow.due_at)
    .limit(1)
)
_CLAIM = (
    update(DeliveryRow)
    .where(
        DeliveryRow.id == _CHOSEN.with_for_update(skip_locked=True).scalar_subquery(),
        _WAITING,
        DeliveryRow.due_at <= Now(),
    )
    .values(attempts=DeliveryRow.attempts + 1, due_at=Now() + _HELD_S)
    .returning(DeliveryRow.id, DeliveryRow.webhook_id, DeliveryRow.attempts, DeliveryRow.body)
)


class DeliveryStore:
    """Messages in the table. All methods raise ServiceUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, others: Collection[str] = ()) -> Parcel | None:
        """The right to send the message that has been due for longest, but for those of these webhooks.

        Held for a minute: of one who is killed meanwhile the message comes back.
        """
        asked = {"others": sorted(others)}
        with self._database.read() as connection:
            if connection.execute(_CHOSEN, asked).one_or_none() is None:
                return None
        with self._database.note() as connection:
            held = connection.execute(_CLAIM, asked).one_or_none()
            if held is None:
                return None
            webhook = connection.execute(_SIGNED_BY, {"the_webhook": held.webhook_id}).one()
            parcel = _parcel(held, webhook)
            if not webhook.enabled:
                # Its job ended at the moment at which it was switched off.
                connection.execute(_of(parcel).values(**_FAILED, error=_SWITCHED_OFF))
                return None
            return parcel

    def delivered(self, parcel: Parcel, status: int) -> None:
        """The receiver has taken it."""
        with self._database.note() as connection:
            ended = {"state": "delivered", "due_at": None, "ended_at": Now(), "status": status, "error": None}
            connection.execute(_of(parcel).values(**ended))

    def put_off(self, parcel: Parcel, wait_s: float, error: str, status: int | None = None) -> None:
        """It was not taken, and is to be sent again."""
        with self._database.note() as connection:
            connection.execute(_of(parcel).values(due_at=Now() + wait_s, status=status, error=error))

    def give_up(self, parcel: Parcel, error: str, status: int | None = None) -> None:
        """It was not taken, and is not sent again."""
        with self._database.note() as connection:
            connection.execute(_of(parcel).values(**_FAILED, status=status, error=error))

    def switch_off(self, parcel: Parcel, error: str, status: int) -> None:
        """The receiver wants to hear nothing any more."""

        def switch_off(connection: Connection) -> None:
            webhook = update(WebhookRow).where(WebhookRow.id == parcel.webhook_id).values(enabled=False)
            connection.execute(webhook)
            connection.execute(_of(parcel).values(**_FAILED, status=status, error=error))
            end_waiting(connection, parcel.webhook_id)

        self._database.write_again(switch_off)

    def bring_back(self) -> int:
        """Make due what waits for longer than it can have been told to: the clock was put back. Returns how many."""
        stuck = (DeliveryRow.due_at > Now()) & ~ahead(DeliveryRow.due_at, _LONGEST_AHEAD_S)
        with self._database.read() as connection:
            ids = list(connection.execute(select(DeliveryRow.id).where(_WAITING, stuck).limit(_BATCH)).scalars())
        if ids:
            with self._database.note() as connection:
                connection.execute(
                    update(DeliveryRow).where(DeliveryRow.id.in_(ids), _WAITING, stuck).values(due_at=Now())
                )
        return len(ids)

    def prune(self) -> int:
        """Forget one batch of messages that have ended, of old ones or too many. Returns how many; 0 is none left."""
        for webhook_id in self._webhooks():
            gone = self._database.write_again(partial(_forget, webhook_id=webhook_id))
            if gone:
                return gone
        return 0

    def _webhooks(self) -> list[str]:
        with self._database.read() as connection:
            return list(connection.execute(select(WebhookRow.id)).scalars())


def end_waiting(connection: Connection, webhook_id: str) -> None:
    """End what waits for a webhook that is switched off."""
    waiting = update(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id, _WAITING)
    connection.execute(waiting.values(**_FAILED, error=_SWITCHED_OFF))


_SIGNED_BY = select(
    WebhookRow.enabled,
    WebhookRow.sealed,
    case((ahead(WebhookRow.former_until, FORMER_SIGNS_S), WebhookRow.former)).label("former"),
).where(WebhookRow.id == bindparam("the_webhook"))

_FAILED: dict[str, Any] = {"state": "failed", "due_at": None, "ended_at": Now()}


def _of(parcel: Parcel) -> Update:
    """The message, as long as nobody else has come to hold it."""
    held = DeliveryRow.attempts == parcel.attempt
    return update(DeliveryRow).where(DeliveryRow.id == parcel.delivery_id, _WAITING, held)


def _forget(connection: Connection, webhook_id: str) -> int:
    ended = (DeliveryRow.webhook_id == webhook_id) & (DeliveryRow.state != "waiting")
    newest_first = select(DeliveryRow.created_at).where(ended).order_by(DeliveryRow.created_at.desc())
    last_kept = connection.execute(newest_first.offset(_KEPT - 1).limit(1)).scalar()
    before = Now() - _KEPT_S
    gone = DeliveryRow.created_at < before
    if last_kept is not None:
        gone |= DeliveryRow.created_at < last_kept
    ids = list(connection.execute(select(DeliveryRow.id).where(ended, gone).limit(_BATCH)).scalars())
    if ids:
        connection.execute(delete(DeliveryRow).where(DeliveryRow.id.in_(ids), DeliveryRow.state != "waiting"))
    return len(ids)


def _parcel(held: AnyRow, webhook: AnyRow) -> Parcel:
    return Parcel(
        delivery_id=held.id,
        webhook_id=held.webhook_id,
        attempt=held.attempts,
        body=held.body,
        sealed=webhook.sealed,
        former=webhook.former,
    )
