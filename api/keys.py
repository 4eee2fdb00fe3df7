"""Who may come in: what an admin does with API keys."""

from dataclasses import dataclass
from typing import NamedTuple

from common.access import ApiKey, make_key
from common.errors import NoSuchKey
from common.store.apikeys import ApiKeyStore
from common.vocabulary import Role

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


class Made(NamedTuple):
    """A key, and its text: nobody is told it again."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"Made({self.key.id})"


@dataclass(frozen=True, slots=True)
class Keys:
    """The verbs of an admin, over the table of keys. All raise ServiceUnavailable.

    What names a key raises NoSuchKey where there is none.
    """

    store: ApiKeyStore

    def add(self, name: str, role: Role, *, tenant: str | None = None, expires_in_days: int | None = None) -> Made:
        """Let somebody in from now on. Raises KeysFull."""
        fresh = make_key()
        lasts_s = None if expires_in_days is None else expires_in_days * _DAY_S
        key = self.store.add(fresh.id, fresh.digest, name=name, role=role, tenant=tenant, lasts_s=lasts_s)
        return Made(key, fresh.text)

    def keys(self) -> list[ApiKey]:
        """Every key, oldest first."""
        return self.store.keys()

    def key(self, key_id: str) -> ApiKey:
        """One key."""
        return self.store.key(_checked(key_id))

    def rotate(self, key_id: str, former_lasts_hours: int) -> Made:
        """Give it another secret; the former one lets in for so long. Raises NoSuchKey for one that lets nobody in."""
        fresh = make_key(_checked(key_id))
        return Made(self.store.rotate(key_id, fresh.digest, former_lasts_hours * _HOUR_S), fresh.text)

    def revoke(self, key_id: str) -> None:
        """Let its holder in no more. It is still listed."""
        self.store.revoke(_checked(key_id))


def _checked(key_id: str) -> str:
    if not key_id.isprintable():
        # Databases disagree on whether such a string may be asked for at all.
        raise NoSuchKey("There is no such API key.")
    return key_id
