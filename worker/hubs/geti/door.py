"""The way to a Geti server: where it is, who asks, and what its refusals mean."""

import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from common.errors import (
    HubUnavailable,
    InvalidParameters,
    RateLimited,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, NetworkRules
from worker.net import Credential, HubClient, Origin, Reply

log = logging.getLogger(__name__)

_HEADER = "x-api-key"
_NEEDED = ("GETI_HOST", "GETI_TOKEN")
_OFF = frozenset({"false", "0", "no", "off"})
_SETUP = "Set GETI_HOST to the server's address and GETI_TOKEN to a personal access token of it."
_REACH = (
    "Check that GETI_HOST is up and can be reached from here (HTTPS_PROXY, MODELFERRY_PROXIES), and that its "
    "certificate is trusted (REQUESTS_CA_BUNDLE, MODELFERRY_CA_BUNDLES)."
)
_SLOWER = "The Geti server limits how often it may be asked. Modelferry tries again by itself."
_RIGHTS = "Check the model's name, and that the owner of GETI_TOKEN may see the workspace and the project."
_MOST_CALLS = 5_000
"""A listing looks at each model by itself; a server that needs more calls than this has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A server's address and what is shown there."""

    home: str
    token: str = field(repr=False)
    workspace: str | None
    verify: bool
    trusted: bool
    network: NetworkRules

    @classmethod
    def to(cls, access: Access) -> Self:
        """Read the settings. Raises InvalidParameters where one is missing or means nothing."""
        host, token = access.settings.get("GETI_HOST", "").strip(), access.secrets.get("GETI_TOKEN", "").strip()
        foreign = "GETI_HOST" in access.given
        if foreign and "GETI_TOKEN" not in access.given:
            # The operator's token is for the operator's server.
            token = ""
        missing = [name for name, value in zip(_NEEDED, (host, token), strict=True) if not value]
        if missing:
            raise InvalidParameters(f"Required env vars not set: {', '.join(missing)}", hint=_SETUP)
        if not token.isascii() or not token.isprintable():
            raise InvalidParameters("GETI_TOKEN holds characters that no token has", hint=_SETUP)
        workspace = access.settings.get("GETI_WORKSPACE_ID", "").strip() or None
        verify = access.settings.get("GETI_SERVER_SSL_VERIFY", "").strip().lower() not in _OFF
        if not verify:
            _warn_unverified()
        return cls(
            home=_home(host),
            token=token,
            # A workspace of the operator's server is none of a server that the request names.
            workspace=None if foreign and "GETI_WORKSPACE_ID" not in access.given else workspace,
            verify=verify,
            trusted=not foreign,
            network=access.network,
        )

    @property
    def credential(self) -> Credential:
        """The token, for this server's own address only."""
        return Credential(Origin.of(self.home), _HEADER, self.token)

    def client(self) -> HubClient:
        """What asks this server. 401 and 403 are raised; use it as a context manager."""
        return HubClient(
            self.home,
            self.network,
            credential=self.credential,
            classify=refusal,
            trusted=self.trusted,
            verify=self.verify,
            most_calls=_MOST_CALLS,
        )


@contextmanager
def own_advice() -> Iterator[None]:
    """Let errors that every hub may end with name the settings of this one."""
    try:
        yield
    except (HubUnavailable, RateLimited) as error:
        if error.advice != error.hint:
            raise
        advice = _SLOWER if isinstance(error, RateLimited) else _REACH
        raise type(error)(str(error), hint=advice, wait_s=error.wait_s) from error


def refusal(status: int, _headers: Mapping[str, str]) -> StageError | None:
    """What a status means at every call. The server's own words are not repeated: they may hold anything."""
    if status == 401:
        return TokenInvalid(
            "The Geti server does not accept the GETI_TOKEN that is set",
            hint="Create a personal access token at the Geti server and set GETI_TOKEN to it; tokens expire.",
        )
    if status == 403:
        return SourcePrivateOrMissing("The Geti server refuses access with the GETI_TOKEN that is set", hint=_RIGHTS)
    return None


def lost(status: int, headers: Mapping[str, str]) -> StageError | None:
    """What a status means where something is asked for that the server itself has listed."""
    if status == 404:
        return SourceNotFound("The Geti server does not have what it lists; it may just have been deleted")
    return refusal(status, headers)


def answer(reply: Reply) -> object:
    """The JSON that a server has answered with. Raises StageError."""
    error = lost(reply.status, reply.headers)
    if error is not None:
        raise error
    if reply.status != 200:
        raise HubUnavailable(f"The Geti server answered {reply.status}", hint="Look at the Geti server's own log.")
    if is_page(reply):
        raise HubUnavailable("The Geti server answers with a web page where data was asked for", hint=_SETUP)
    found: object = reply.json()
    return found


def is_page(reply: Reply) -> bool:
    """Whether this is what a web application answers to every address that it does not know."""
    return "html" in reply.headers.get("content-type", "").lower() or reply.body.lstrip()[:1] == b"<"


def stranger(door: Door) -> InvalidParameters:
    """There is a server, but it is no Geti."""
    return InvalidParameters(
        f"There is no Geti server at {Origin.of(door.home).host}: neither /api/v1/product_info (Geti 2) nor "
        f"/api/projects (Geti 3) answers with data. Check GETI_HOST; a proxy before the server that does not know the "
        f"token answers so, too.",
        hint=_SETUP,
    )


def _home(host: str) -> str:
    """The server's address as a URL without an end. Raises InvalidParameters."""
    url = host if "://" in host else f"https://{host}"
    try:
        parts = urlsplit(url)
        origin = Origin.of(url)
        strange = parts.username is not None or parts.query or parts.fragment
    except (ValueError, SourceUnsafe) as error:
        raise _no_address() from error
    if strange or not url.isascii() or not url.isprintable() or " " in url:
        raise _no_address()
    return f"{origin.scheme}://{origin.authority}{parts.path.rstrip('/')}"


def _no_address() -> InvalidParameters:
    return InvalidParameters("GETI_HOST must be a host's name or an http or https URL without a login", hint=_SETUP)


@functools.cache
def _warn_unverified() -> None:
    """Say once in each process what the operator has switched off."""
    log.warning("geti.certificates_ignored", extra={"setting": "GETI_SERVER_SSL_VERIFY"})
