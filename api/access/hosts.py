"""By which names the service may be called, and which pages may have it do something."""

import re
from ipaddress import ip_address

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from api.access.door import operation_of
from api.access.needs import PUBLIC
from api.caller import SAFE
from api.dashboard.guard import is_own
from common.errors import Forbidden, UnknownHost
from common.settings import Settings, is_loopback, listed

_HOST = re.compile(r"(?:\[(?P<bare>[0-9a-f:.]+)\]|(?P<name>[^:@/\[\]\s]*))(?::\d*)?")


class KnownHosts(ASGIMiddleware):
    """Refuses, with UnknownHost, requests by a name that is none of this service's.

    A page can give its own name a second address, that of this machine, and then ask as if it came from here (DNS
    rebinding). Where callers are asked who they are, it gains nothing by that; where they are not, and the service
    listens on this machine alone, the name gives it away. Nobody else's browser says `localhost` or `127.0.0.1`
    unless it means its own machine, so these are always known. Probes ask by the address of a pod, and are answered.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, settings: Settings) -> None:
        self._known = frozenset(name.lower() for name in listed(settings.allowed_hosts))
        self._asks = bool(self._known) or (not settings.asks_callers and is_loopback(settings.host))

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Looks at the header `Host` alone."""
        if self._asks and operation_of(scope) not in PUBLIC:
            name = name_in(Headers.from_scope(scope).get("host", ""))
            if not (is_own_name(name) or name in self._known):
                raise UnknownHost(
                    "This service is not known by the name in the address: an operator can add it to "
                    "MODELFERRY_ALLOWED_HOSTS."
                )
        await next_app(scope, receive, send)


class OwnPagesOnly(ASGIMiddleware):
    """Refuses, with Forbidden, what a page of another origin would change, unless the operator has let it call.

    What needs a header or a type of content that is out of the ordinary, browsers do not even send before they have
    asked. The rest, such as a form with a file, they do send and only keep the answer from the page.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(listed(settings.cors_allow_origins))

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """What is no browser says nothing of a page, and passes."""
        if scope.get("method") not in SAFE and "*" not in self._origins and not is_own(ASGIConnection(scope)):
            origin = Headers.from_scope(scope).get("origin")
            if origin not in self._origins:
                raise Forbidden(
                    "This was sent by another site. Its pages may change nothing here, unless an operator adds its "
                    "origin to CORS_ALLOW_ORIGINS."
                )
        await next_app(scope, receive, send)


def name_in(host: str) -> str:
    """The name in a `Host` header, in small letters, without the port and the brackets of IPv6."""
    found = _HOST.fullmatch(host.lower())
    return (found["bare"] or found["name"] or "").rstrip(".") if found else ""


def is_own_name(name: str) -> bool:
    """Whether this is how a machine calls itself."""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
