"""Bearer tokens of an identity provider, as OpenID Connect describes it: whose they are, and what they may do."""

import logging
import time
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, NamedTuple

import jwt

from api.access.provider import ALGORITHMS, Provider
from common.access import Caller, Way, digest_of
from common.settings import Settings, pairs_in
from common.vocabulary import Role

log = logging.getLogger(__name__)

_LONGEST_TOKEN = 16 * 1024
_LEEWAY_S = 60.0
"""By so much the clock here and the clock there may differ."""
_REMEMBERED_S = 300.0
_MOST_REMEMBERED = 10_000
_LONGEST_NAME = 128
_ANYBODY = "*"


class _Known(NamedTuple):
    caller: Caller
    until: float


class Tokens:
    """Recognises bearer tokens. Blocks for the provider's keys now and then: to be called in a thread.

    A token that was let in is let in again for some minutes, but not beyond its end: the signature is the costly part.
    """

    def __init__(self, settings: Settings, provider: Provider) -> None:
        self._provider = provider
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._roles = {value: Role(role) for value, role in pairs_in(settings.oidc_roles).items()}
        self._roles_claim = settings.oidc_roles_claim
        self._name_claim = settings.oidc_name_claim
        self._known: dict[str, _Known] = {}
        self._lock = Lock()

    @classmethod
    def of(cls, settings: Settings) -> "Tokens | None":
        """None where the operator has named no provider."""
        if not settings.oidc_issuer:
            return None
        return cls(settings, Provider(settings.oidc_issuer, settings.requests_ca_bundle))

    def __call__(self, text: str) -> Caller | None:
        """Who holds this token; None where it is none of the provider's, or not for us, or not of this time.

        Raises ServiceUnavailable where the provider's keys are needed and cannot be had.
        """
        known = self.at_once(text)
        if known is not None:
            return known
        claims = self._claims(text)
        if claims is None:
            return None
        name = self._name(claims)
        if not name:
            log.info("token.refused", extra={"reason": "it has no name"})
            return None
        caller = Caller(name=name, way=Way.TOKEN, role=self._role(claims))
        self._remember(text, caller, float(claims["exp"]))
        return caller

    def at_once(self, text: str) -> Caller | None:
        """Who holds it, where it was let in some minutes ago. Looked up by digest: no token is kept."""
        known = self._known.get(digest_of(text))
        return known.caller if known is not None and known.until > time.time() else None

    def _claims(self, text: str) -> Mapping[str, Any] | None:
        """What a token says that is signed by the provider, for us, and holds now."""
        if len(text) > _LONGEST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(text)
            algorithm = header.get("alg")
            if algorithm not in ALGORITHMS:
                return None
            key = self._provider.key(header.get("kid"), algorithm)
            if key is None:
                return None
            return jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            # The name of the class says why; the text could hold what somebody has put into the token.
            log.info("token.refused", extra={"reason": type(error).__name__})
            return None

    def _name(self, claims: Mapping[str, Any]) -> str:
        for claim in (self._name_claim, "sub"):
            value = _at(claims, claim)
            if isinstance(value, str) and value.strip():
                return "".join(letter if letter.isprintable() else "?" for letter in value.strip())[:_LONGEST_NAME]
        return ""

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        """The highest role that one of the values gives."""
        values = {_ANYBODY, *_values(_at(claims, self._roles_claim))}
        given = (role for value, role in self._roles.items() if value in values)
        return max(given, key=list(Role).index, default=None)

    def _remember(self, text: str, caller: Caller, ends: float) -> None:
        now = time.time()
        with self._lock:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[digest_of(text)] = _Known(caller, min(ends, now + _REMEMBERED_S))


def _at(claims: Mapping[str, Any], path: str) -> object:
    """The claim of this name, or the one that the dots lead to."""
    if path in claims:
        return claims[path]
    found: object = claims
    for step in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found


def _values(claim: object) -> Iterator[str]:
    """Of a list its texts, of a text its words."""
    if isinstance(claim, str):
        yield from claim.split()
    elif isinstance(claim, list):
        yield from (value for value in claim if isinstance(value, str))
