"""The store of API keys: digests, roles and ends, never a key."""

from datetime import UTC, datetime

from sqlalchemy import Connection, case, insert, select, update

from common.access import ApiKey, digest_of, is_same
from common.errors import NoSuchKey
from common.store.database import AnyRow, Database, Now
from common.store.tables import ApiKeyRow
from common.vocabulary import Role

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
        """Keep a key's digest. Without `lasts_s` it does not expire."""
        ends = None if lasts_s is None else Now() + lasts_s
        values = {"id": key_id, "name": name, "role": role.value, "tenant": tenant, "digest": digest}
        with self._database.write() as connection:
            connection.execute(insert(ApiKeyRow).values(created_at=Now(), expires_at=ends, **values))
            return _key(_found(connection, key_id))

    def keys(self) -> list[ApiKey]:
        """Every key, also those that let nobody in any more, oldest first."""
        with self._database.read() as connection:
            found = connection.execute(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id))
            return [_key(row) for row in found]

    def rotate(self, key_id: str, digest: str, former_lasts_s: float) -> ApiKey:
        """Give a key another secret. The former one lets in for a while. A revoked key is as good as none."""
        with self._database.write() as connection:
            changed = connection.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
                .values(digest=digest, former=ApiKeyRow.digest, former_until=Now() + former_lasts_s)
            )
            if not changed.rowcount:
                raise NoSuchKey(f"No API key '{key_id}' lets anybody in.")
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
        with self._database.read() as connection:
            row = connection.execute(
                select(ApiKeyRow, (Now() - ApiKeyRow.used_at).label("idle_s"), Now().label("now")).where(
                    ApiKeyRow.id == key_id
                )
            ).one_or_none()
        if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= row.now):
            return None
        if not is_same(digest, row.digest) and not (
            is_same(digest, row.former) and row.former_until is not None and row.former_until > row.now
        ):
            return None
        if row.idle_s is None or row.idle_s > _NOTED_APART_S:
            self._note_use(key_id)
        return _key(row)

    def _note_use(self, key_id: str) -> None:
        with self._database.note() as connection:
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(used_at=Now()))


def _found(connection: Connection, key_id: str) -> AnyRow:
    row = connection.execute(select(ApiKeyRow).where(ApiKeyRow.id == key_id)).one_or_none()
    if row is None:
        raise NoSuchKey(f"There is no API key '{key_id}'.")
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
