"""The MCP server behind a route of the web process."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from mcp.server.transport_security import TransportSecuritySettings

from api.caller import HANDED_ON
from api.client import AsyncClient
from api.mcp.server import make_server

Serve = Callable[[Any, Any, Any], Awaitable[None]]

_ASKING: ContextVar[Mapping[str, Any]] = ContextVar("asking")
"""For whom the tools ask: what the scopes of their requests get from that of the agent's."""

_OURSELVES = "http://127.0.0.1"
_MOST_BODY_BYTES = 1024 * 1024


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Serve]:
    """An ASGI application that speaks MCP as long as the context lasts. Its tools ask `app`, within this process.

    It keeps no sessions: any replica may answer any request. The tools ask as the caller whom the door has let in, so
    that each of them may do what that caller's role covers, and no more.
    """

    async def as_the_caller(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, **_ASKING.get()}, receive, send)

    # An error of ours is an answer with 500 here too.
    transport = httpx.ASGITransport(as_the_caller, raise_app_exceptions=False)
    # Without a key: one in the environment of the service would be somebody else's.
    async with AsyncClient(_OURSELVES, api_key="", transport=transport) as client:
        server = make_server(client)
        server.streamable_http_app(
            stateless_http=True,
            json_response=True,
            max_request_body_size=_MOST_BODY_BYTES,
            # Our door checks origins; the service is reached by names that nobody can list.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            # Whatever the library does for a request runs in tasks that it begins here, and so in this context.
            _ASKING.set({HANDED_ON: scope["state"]["caller"], "client": scope.get("client")})
            await server.session_manager.handle_request(scope, receive, send)

        async with server.session_manager.run():
            yield serve
