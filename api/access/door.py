"""The door: every request passes it, and none goes on that may not."""

from typing import Any

from litestar.concurrency import sync_to_thread
from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from api.access.callers import NETWORK, NOBODY, OPEN, Callers, credential_in
from api.access.lasting import Lasting
from api.access.needs import COMPATIBLE, needed
from api.caller import HANDED_ON
from api.dashboard.guard import is_own
from api.sessions import COOKIE
from common.access import Caller, Way
from common.errors import Forbidden, ServiceUnavailable, Unauthenticated

_LASTING = frozenset({"GET", "HEAD"})
"""What may be answered with a stream."""


class Door(ASGIMiddleware):
    """Says in `request.state.caller` who asks. Raises Unauthenticated or Forbidden before the route is reached."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let in whoever may, under the name by which they are known."""
        operation = operation_of(scope)
        caller = await self._caller(scope, operation)
        scope["state"]["caller"] = caller
        method = str(scope.get("method", ""))
        _admit(caller, operation, method)
        if caller is OPEN or method not in _LASTING:
            await next_app(scope, receive, send)
            return

        async def still() -> bool:
            try:
                _admit(await self._caller(scope, operation), operation, method)
            except (Unauthenticated, Forbidden):
                return False
            except ServiceUnavailable:
                # Nobody knows: what goes on goes on, and nothing new begins.
                return True
            return True

        async with Lasting(receive, send, still) as connection:
            await next_app(scope, connection.receive, connection.send)

    async def _caller(self, scope: Scope, operation: str) -> Caller:
        handed_on = scope.get(HANDED_ON)
        if isinstance(handed_on, Caller):
            return handed_on
        if not self._callers.asks:
            return OPEN
        credential = credential_in(Headers.from_scope(scope))
        if credential is not None:
            known = self._callers.known_at_once(credential)
            return known if known is not None else await sync_to_thread(self._callers.recognised, credential)
        caller = await self._in_session(scope)
        if caller is not None:
            return caller
        client = scope.get("client")
        if operation in COMPATIBLE and client is not None and self._callers.is_open_to(client[0]):
            return NETWORK
        return NOBODY

    async def _in_session(self, scope: Scope) -> Caller | None:
        """By a cookie, which a browser sends by itself: so it counts only for what one of our own pages has sent."""
        connection: ASGIConnection[Any, Any, Any, Any] = ASGIConnection(scope)
        cookie = connection.cookies.get(COOKIE)
        if not cookie or not is_own(connection):
            return None
        known = self._callers.in_session_at_once(cookie)
        return known if known is not None else await sync_to_thread(self._callers.in_session, cookie)


def operation_of(scope: Scope) -> str:
    """The name of what is asked for, as in the API's description."""
    return str(getattr(scope.get("route_handler"), "handler_name", ""))


def _admit(caller: Caller, operation: str, method: str) -> None:
    role = needed(operation, method)
    if role is None or (caller.role is not None and caller.role.covers(role)):
        return
    if caller.way is Way.NOBODY:
        raise Unauthenticated("Say who you are: send an API key as 'Authorization: Bearer mf_...'.")
    has = f"has '{caller.role}'" if caller.role else "has none"
    raise Forbidden(f"This needs the role '{role}'; '{caller.name}' {has}.")
