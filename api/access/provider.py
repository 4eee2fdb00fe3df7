"""The keys of an identity provider: found through its description, kept for a while, asked for when one is new."""

import logging
import ssl
import time
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from common.errors import ServiceUnavailable
from common.settings import is_loopback

log = logging.getLogger(__name__)

ALGORITHMS = frozenset({
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
})  # fmt: skip
"""How a token may be signed: with a key of which we know the public half. Never `none`, never a shared secret."""

_FRESH_S = 600.0
"""So long keys are good without a word from the provider."""
_LAST_S = 24 * 3600.0
"""So long they are good while the provider is away."""
_APART_S = 60.0
"""A key that is not known has the provider asked once in so long, however often tokens name it."""
_AFTER_FAILURE_S = 5.0
_CALL_S = 5.0
_MOST_S = 10.0
_MOST_BYTES = 512 * 1024
_MOST_KEYS = 100
_LEAST_RSA_BITS = 2048
_KINDS = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",)}
"""Kind of key -> how the names of its algorithms begin."""


class _Description(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Key(NamedTuple):
    name: object
    kind: str
    algorithm: str | None
    key: Any

    def signs(self, algorithm: str) -> bool:
        """Whether it signs in this way: as it says itself, or else as keys of its kind do."""
        return algorithm == self.algorithm if self.algorithm else algorithm.startswith(_KINDS[self.kind])


class _CannotAsk(Exception):
    """The provider has not answered as a provider does. The message is for the log."""


class Provider:
    """Blocks while it asks the provider, which one thread at a time does: the others go on with the keys there are."""

    def __init__(self, issuer: str, ca_bundle: str = "") -> None:
        self._issuer = issuer
        self._ca_bundle = ca_bundle
        self._keys: list[_Key] = []
        self._answered_at: float | None = None
        self._asked_at: float | None = None
        self._failing = False
        self._asking = Lock()
        if not issuer.startswith("https://"):
            log.warning("provider.unencrypted", extra={"issuer": issuer})

    def key(self, name: str | None, algorithm: str) -> Any | None:
        """The key that a token names; None where the provider has no such key. Raises ServiceUnavailable."""
        found = self._found(name, algorithm)
        if found is None or not self._is_fresh(_FRESH_S):
            self._refresh(wait=found is None)
            found = self._found(name, algorithm)
        if found is not None and self._is_fresh(_LAST_S):
            return found
        if self._failing:
            raise ServiceUnavailable("The identity provider cannot be asked for its keys now. Try again shortly.")
        return None

    def _refresh(self, *, wait: bool) -> None:
        if not self._asking.acquire(blocking=wait):
            # Somebody is asking already, and until then what there is will do.
            return
        try:
            if self._may_ask():
                self._ask()
        finally:
            self._asking.release()

    def _found(self, name: str | None, algorithm: str) -> Any | None:
        """By name; without a name only where there is no choice."""
        fitting = [key.key for key in self._keys if name in {None, key.name} and key.signs(algorithm)]
        return fitting[0] if len(fitting) == 1 or (fitting and name is not None) else None

    def _is_fresh(self, lasts_s: float) -> bool:
        return self._answered_at is not None and time.monotonic() - self._answered_at < lasts_s

    def _may_ask(self) -> bool:
        wait_s = _AFTER_FAILURE_S if self._failing else _APART_S
        return self._asked_at is None or time.monotonic() - self._asked_at >= wait_s

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        try:
            self._keys = self._fetched()
        except (_CannotAsk, httpx.HTTPError, httpx.InvalidURL, OSError, msgspec.MsgspecError) as error:
            if not self._failing:
                reason = str(error) if isinstance(error, _CannotAsk) else type(error).__name__
                log.warning("provider.silent", extra={"reason": reason})
            self._failing = True
            return
        finally:
            self._asked_at = time.monotonic()
        if self._failing:
            log.info("provider.answers", extra={"keys": len(self._keys)})
        self._failing = False
        self._answered_at = self._asked_at

    def _fetched(self) -> list[_Key]:
        trusted = ssl.create_default_context(cafile=self._ca_bundle or None)
        with httpx.Client(verify=trusted, timeout=_CALL_S, follow_redirects=False) as client:
            address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
            description = msgspec.json.decode(_body(client, address), type=_Description)
            if description.issuer != self._issuer:
                raise _CannotAsk("its description is that of another issuer")
            if not _may_hold_keys(description.jwks_uri, self._issuer):
                raise _CannotAsk("its description names an address for its keys that is not safe")
            found = msgspec.json.decode(_body(client, description.jwks_uri), type=_KeySet).keys
        keys = [key for key in map(_key, found[:_MOST_KEYS]) if key is not None]
        if not keys:
            raise _CannotAsk("none of its keys can be used")
        return keys


def _body(client: httpx.Client, address: str) -> bytes:
    """An answer of success, with an end in size and time."""
    until = time.monotonic() + _MOST_S
    body = bytearray()
    with client.stream("GET", address, headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise _CannotAsk(f"it answers with {answer.status_code}")
        for part in answer.iter_raw():
            body += part
            if len(body) > _MOST_BYTES or time.monotonic() > until:
                raise _CannotAsk("its answer has no end")
    return bytes(body)


def _may_hold_keys(address: str, issuer: str) -> bool:
    """Whether nobody on the way can replace the keys: encrypted, or for tests as near as the issuer itself."""
    try:
        where, whose = urlsplit(address), urlsplit(issuer)
    except ValueError:
        return False
    if where.scheme == "https":
        return bool(where.hostname)
    near = where.hostname == whose.hostname or is_loopback(where.hostname or "")
    return where.scheme == "http" and whose.scheme == "http" and near


def _key(described: dict[str, Any]) -> _Key | None:
    """A public key that is there to sign with; None for any other."""
    kind, name, algorithm = described.get("kty"), described.get("kid"), described.get("alg")
    if kind not in _KINDS or described.get("use", "sig") != "sig" or algorithm not in {None, *ALGORITHMS}:
        return None
    try:
        key = jwt.PyJWK(described).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        return None
    # Only public keys can do that.
    return _Key(name, kind, algorithm, key) if hasattr(key, "verify") else None
