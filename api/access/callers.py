"""Recognises who sends a request: by key, by bearer token, by session, by network, or because nobody is asked."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from hmac import compare_digest
from threading import Lock
from typing import NamedTuple

from api.access.oidc import Tokens
from api.sessions import Sessions
from common.access import Caller, Way, digest_of, parts_of
from common.settings import Settings, networks_in
from common.store.apikeys import ApiKeyStore
from common.vocabulary import Role

_REMEMBERED_S = 3.0
"""For so long a key that was let in is let in again without a look at the table: how late a revocation may be heard."""
_MOST_REMEMBERED = 10_000

OPEN = Caller(name="anybody", way=Way.OPEN, role=Role.ADMIN)
"""Everybody, where nobody has to say who they are."""
NOBODY = Caller(name="nobody", way=Way.NOBODY, role=None)
_ADMIN = Caller(name="admin", way=Way.SETTING, role=Role.ADMIN)
NETWORK = Caller(name="network", way=Way.NETWORK, role=Role.OPERATOR)

Recognise = Callable[[str], Caller | None]
"""Who brings this credential. None for one that it does not know, or does not believe any more."""


class Callers:
    """Blocks for a look at the table, or at an identity provider: to be called in a thread.

    `recognised` raises ServiceUnavailable where neither can be asked.
    """

    def __init__(self, settings: Settings, keys: ApiKeyStore, sessions: Sessions, tokens: Tokens | None = None) -> None:
        self.asks = settings.asks_callers
        self._open = networks_in(settings.open_networks)
        self._admin_key = settings.admin_key
        self._keys = Remembered(partial(_holder, keys))
        self._sessions = Remembered(sessions.caller)
        self._tokens = tokens

    def recognised(self, credential: str) -> Caller:
        """Who brings a key or a bearer token; NOBODY where it is not believed."""
        if self._admin_key and compare_digest(credential.encode(), self._admin_key.encode()):
            return _ADMIN
        if parts_of(credential) is not None:
            return self._keys.caller(credential) or NOBODY
        return (self._tokens(credential) if self._tokens else None) or NOBODY

    def is_open_to(self, address: str) -> bool:
        """Whether the operator has opened the compatible routes to where a request comes from."""
        try:
            asking = networks_in(address)[0]
        except (ValueError, IndexError):
            return False
        return any(asking.version == network.version and asking.subnet_of(network) for network in self._open)  # type: ignore[arg-type]  # of one version

    def known_at_once(self, credential: str) -> Caller | None:
        """The caller, where no look at anything is needed to know."""
        return self._keys.at_once(credential) or (self._tokens.at_once(credential) if self._tokens else None)

    def in_session(self, cookie: str) -> Caller | None:
        """Who has logged in, in the browser that brings this cookie."""
        return self._sessions.caller(cookie)

    def in_session_at_once(self, cookie: str) -> Caller | None:
        """The same, where no look at anything is needed to know."""
        return self._sessions.at_once(cookie)


class _Known(NamedTuple):
    caller: Caller
    until: float


class Remembered:
    """Those who were let in a moment ago, so that not every request is a look at the table."""

    def __init__(self, recognise: Recognise) -> None:
        self._recognise = recognise
        self._known: dict[str, _Known] = {}
        self._lock = Lock()

    def at_once(self, text: str) -> Caller | None:
        """Who was let in with this a moment ago. Looked up by digest: no key is kept longer than its request."""
        known = self._known.get(digest_of(text))
        return known.caller if known is not None and known.until > time.monotonic() else None

    def caller(self, text: str) -> Caller | None:
        """Who brings this. Raises what `recognise` raises."""
        caller = self.at_once(text)
        if caller is not None:
            return caller
        # From before the look: what is heard while it lasts must not be forgotten for longer.
        until = time.monotonic() + _REMEMBERED_S
        caller = self._recognise(text)
        if caller is not None:
            with self._lock:
                if len(self._known) >= _MOST_REMEMBERED:
                    self._known.clear()
                self._known[digest_of(text)] = _Known(caller, until)
        return caller


def _holder(keys: ApiKeyStore, text: str) -> Caller | None:
    parts = parts_of(text)
    key = keys.holder(*parts) if parts else None
    if key is None:
        return None
    return Caller(name=key.name, way=Way.KEY, role=key.role, key_id=key.id, tenant=key.tenant)


def credential_in(headers: Mapping[str, str]) -> str | None:
    """The key or token of a request: `Authorization: Bearer ...`, or `X-API-Key`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip() or None
