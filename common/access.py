"""Who asks, and how an API key is made and known again. No framework, no database."""

import hashlib
import re
import secrets
from datetime import datetime
from enum import StrEnum
from hmac import compare_digest

import msgspec

from common.vocabulary import Role

_KEY = re.compile(r"mf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ID_BYTES = 6
_SECRET_BYTES = 32


class Way(StrEnum):
    """How a caller was recognised."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - the word for a bearer token of an identity provider
    SETTING = "setting"
    """By the key in the operator's settings."""
    SESSION = "session"
    """By the cookie of a browser in which somebody has logged in with a key."""
    NETWORK = "network"
    """By where it asks from: `MODELFERRY_OPEN_NETWORKS`."""
    OPEN = "open"
    """Nobody has to say who they are here."""
    NOBODY = "nobody"
    """Not at all."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends a request."""

    name: str
    """As the audit trail shows it."""
    way: Way
    role: Role | None
    key_id: str | None = None
    """Of the API key, where it is one."""
    tenant: str | None = None
    """On whose turn its jobs are, whatever the request says."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a key. Times are aware, in UTC."""

    id: str
    name: str
    role: Role
    created_at: datetime
    tenant: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None
    former_until: datetime | None = None
    """Until then the secret before the present one lets in too."""


class NewKey(msgspec.Struct, frozen=True):
    """A key that has just been made: the only moment at which it can be read."""

    text: str
    id: str
    digest: str

    def __repr__(self) -> str:
        return f"NewKey({self.id})"


def make_key(key_id: str | None = None) -> NewKey:
    """A fresh key, or with an id a fresh secret for that key: 256 random bits."""
    key_id = key_id or secrets.token_hex(_ID_BYTES)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return NewKey(text=f"mf_{key_id}_{secret}", id=key_id, digest=digest_of(secret))


def parts_of(text: str) -> tuple[str, str] | None:
    """The id and the secret of what looks like a key."""
    found = _KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_of(digest: str) -> str:
    """What a session keeps of a key's digest, to be known again by: the digest itself need not leave the table."""
    return hashlib.sha256(f"session {digest}".encode()).hexdigest()


def is_same(digest: str, other: str | None) -> bool:
    """Compares in a time that tells nothing."""
    return other is not None and compare_digest(digest, other)
