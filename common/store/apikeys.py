"""The store of API keys: digests, roles and ends, never a key."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, update

from common.access import ApiKey, check_of, digest_of, is_same
from common.errors import KeysFull, NoSuchKey
from common.store.database import AnyRow, Database, Lock, Now, alone
from common.store.tables import ApiKeyRow
from common.vocabulary import Role

MOST_KEYS = 1000
"""So many may let somebody in at a time."""

_NOTED_APART_S = 60.0
"""A use is noted once in so long: looking a key up must not cost a write each time."""


class ApiKeyStore:
    """Keys in the table. Every method is one transaction; all raise ServiceUnavailable when the database is away.

    What names a key raises NoSuchKey where there is none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, key_id: str, digest: str, *, name: str, role: Role, tenant: str | None, lasts_s: float | None
    ) -> ApiKey:
        """Keep a key's digest. Without `lasts_s` it does not expire. Raises KeysFull."""
        ends = None if lasts_s is None else Now() + lasts_s
        values = {"id": key_id, "name": name, "role": role.value, "tenant": tenant, "digest": digest}
        with self._database.write() as connection:
            alone(connection, Lock.KEYS)
            if _count(connection) >= MOST_KEYS:
                raise KeysFull(f"There are {MOST_KEYS} API keys already: revoke one first.")
            connection.execute(insert(ApiKeyRow).values(created_at=Now(), expires_at=ends, **values))
            return _key(_found(connection, key_id))

    def keys(self) -> list[ApiKey]:
        """Every key, also those that let nobody in any more, oldest first."""
        with self._database.read() as connection:
            found = connection.execute(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id))
            return [_key(row) for row in found]

    def key(self, key_id: str) -> ApiKey:
        """One key, also where it lets nobody in any more."""
        with self._database.read() as connection:
            return _key(_found(connection, key_id))

    def count(self) -> int:
        """How many keys let somebody in."""
        with self._database.read() as connection:
            return _count(connection)

    def rotate(self, key_id: str, digest: str, former_lasts_s: float) -> ApiKey:
        """Give a key another secret. The former one lets in for a while. One that lets nobody in is as good as none."""
        with self._database.write() as connection:
            changed = connection.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id, _LETS_IN)
                .values(digest=digest, former=ApiKeyRow.digest, former_until=Now() + former_lasts_s)
            )
            if not changed.rowcount:
                raise NoSuchKey("No API key of this id lets anybody in.")
            return _key(_found(connection, key_id))

    def revoke(self, key_id: str) -> ApiKey:
        """Let the key's holder in no more. Its row stays: the audit trail names it."""
        with self._database.write() as connection:
            at = case((ApiKeyRow.revoked_at.is_(None), Now()), else_=ApiKeyRow.revoked_at)
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(revoked_at=at))
            return _key(_found(connection, key_id))

    def holder(self, key_id: str, secret: str) -> ApiKey | None:
        """The key that lets this secret in at this moment."""
        digest = digest_of(secret)
        return self._letting_in(key_id, lambda known: is_same(digest, known))

    def holder_of_session(self, key_id: str, check: str) -> ApiKey | None:
        """The key that lets in at this moment what began with a secret of this check (`access.check_of`)."""
        return self._letting_in(key_id, lambda known: is_same(check, None if known is None else check_of(known)))

    def _letting_in(self, key_id: str, proves: Callable[[str | None], bool]) -> ApiKey | None:
        """The key, where one of its digests that hold now is the one that is meant."""
        with self._database.read() as connection:
            row = connection.execute(
                select(
                    ApiKeyRow,
                    (Now() - ApiKeyRow.used_at).label("idle_s"),
                    (ApiKeyRow.former_until > Now()).label("former_holds"),
                ).where(ApiKeyRow.id == key_id, _LETS_IN)
            ).one_or_none()
        if row is None or not (proves(row.digest) or (row.former_holds and proves(row.former))):
            return None
        if row.idle_s is None or row.idle_s > _NOTED_APART_S:
            self._note_use(key_id)
        return _key(row)

    def _note_use(self, key_id: str) -> None:
        with self._database.note() as connection:
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(used_at=Now()))


_LETS_IN: ColumnElement[bool] = and_(
    ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > Now())
)


def _count(connection: Connection) -> int:
    return connection.execute(select(func.count(ApiKeyRow.id)).where(_LETS_IN)).scalar_one()


def _found(connection: Connection, key_id: str) -> AnyRow:
    row = connection.execute(select(ApiKeyRow).where(ApiKeyRow.id == key_id)).one_or_none()
    if row is None:
        raise NoSuchKey("There is no such API key.")
    return row


def _key(row: AnyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        tenant=row.tenant,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=_moment(row.expires_at),
        revoked_at=_moment(row.revoked_at),
        used_at=_moment(row.used_at),
        former_until=_moment(row.former_until),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
