"""Sessions: a browser in which somebody has logged in with a key, known again by a cookie that does not hold it."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from common.access import Caller, Way, check_of, digest_of, is_same, parts_of
from common.clock import Clock, utc_now
from common.seals import Seal
from common.store.apikeys import ApiKeyStore
from common.vocabulary import Role

COOKIE = "modelferry_session"
LASTS_S = 12 * 3600
_PURPOSE = "session"
_LONGEST = 1024


class _Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a cookie says, sealed."""

    key_id: str
    """Of the key; empty is the one in the settings."""
    check: str
    """By which the secret is known again. A key that is given another secret ends the sessions of the former one."""
    until: float


class Sessions:
    """Sessions need no table: any process that shares the seal's key and the table of keys knows them.

    Both methods look at files or the table: call them in a thread. They raise ServiceUnavailable.
    """

    def __init__(self, seal: Seal, keys: ApiKeyStore, admin_key: str | None, now: Clock = utc_now) -> None:
        self._seal = seal
        self._keys = keys
        self._admin_check = check_of(digest_of(admin_key)) if admin_key else None
        self._now = now

    def begun(self, caller: Caller, credential: str) -> str:
        """The cookie of a session that begins with the key by which this caller has just been recognised."""
        parts = parts_of(credential) if caller.key_id else None
        key_id, secret = parts or ("", credential)
        until = self._now().timestamp() + LASTS_S
        session = _Session(key_id=key_id, check=check_of(digest_of(secret)), until=until)
        return urlsafe_b64encode(self._seal.note(_PURPOSE, msgspec.json.encode(session))).decode().rstrip("=")

    def caller(self, cookie: str) -> Caller | None:
        """Who has logged in; None once the session is over, or its key lets nobody in any more."""
        session = self._read(cookie)
        if session is None or session.until <= self._now().timestamp():
            return None
        if not session.key_id:
            known = self._admin_check is not None and is_same(session.check, self._admin_check)
            return Caller(name="admin", way=Way.SESSION, role=Role.ADMIN) if known else None
        key = self._keys.holder_of_session(session.key_id, session.check)
        if key is None:
            return None
        return Caller(name=key.name, way=Way.SESSION, role=key.role, key_id=key.id, tenant=key.tenant)

    def _read(self, cookie: str) -> _Session | None:
        if not cookie.isascii() or len(cookie) > _LONGEST:
            return None
        try:
            sealed = urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
        except (binascii.Error, ValueError):
            return None
        plain = self._seal.noted(_PURPOSE, sealed)
        return None if plain is None else msgspec.json.decode(plain, type=_Session)
