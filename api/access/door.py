"""The door: every request passes it, and none goes on that may not."""

from typing import Any

from litestar.concurrency import sync_to_thread
from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from api.access.callers import NETWORK, NOBODY, OPEN, Callers, credential_in
from api.access.needs import COMPATIBLE, needed
from common.access import Caller, Way
from common.errors import Forbidden, Unauthenticated


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
        _admit(caller, operation, str(scope.get("method", "")))
        await next_app(scope, receive, send)

    async def _caller(self, scope: Scope, operation: str) -> Caller:
        if not self._callers.asks:
            return OPEN
        credential = credential_in(Headers.from_scope(scope))
        if credential is not None:
            known = self._callers.known_at_once(credential)
            return known if known is not None else await sync_to_thread(self._callers.recognised, credential)
        client = scope.get("client")
        if operation in COMPATIBLE and client is not None and self._callers.is_open_to(client[0]):
            return NETWORK
        return NOBODY


def caller_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
    """Who asks, behind the door."""
    caller: Caller = connection.scope["state"]["caller"]
    return caller


def operation_of(scope: Scope) -> str:
    """The name of what is asked for, as in the API's description."""
    return str(getattr(scope.get("route_handler"), "handler_name", ""))


def _admit(caller: Caller, operation: str, method: str) -> None:
    role = needed(operation, method)
    if role is None or (caller.role is not None and caller.role.covers(role)):
        return
    if caller.way is Way.NOBODY:
        raise Unauthenticated("Say who you are: send an API key as 'Authorization: Bearer mf_...'.")
    raise Forbidden(f"This needs the role '{role}'; '{caller.name}' has '{caller.role}'.")
