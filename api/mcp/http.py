"""The MCP server behind a route of the web process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp.server.transport_security import TransportSecuritySettings

from api.client import AsyncClient
from api.mcp.server import make_server

Serve = Callable[[Any, Any, Any], Awaitable[None]]

_OURSELVES = "http://127.0.0.1"
_MOST_BODY_BYTES = 1024 * 1024


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Serve]:
    """An ASGI application that speaks MCP as long as the context lasts. Its tools ask `app`, within this process.

    It keeps no sessions: any replica may answer any request.
    """
    # An error of ours is an answer with 500 here too.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(_OURSELVES, transport=transport) as client:
        server = make_server(client)
        server.streamable_http_app(
            stateless_http=True,
            json_response=True,
            max_request_body_size=_MOST_BODY_BYTES,
            # Our door checks origins; the service is reached by names that nobody can list.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        async with server.session_manager.run():
            yield server.session_manager.handle_request
