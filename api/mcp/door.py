"""The route of MCP: who may enter, and the server behind it, which begins with the first who does."""

import asyncio
from collections.abc import Collection
from importlib import import_module
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from litestar import asgi
from litestar.datastructures import Headers
from litestar.exceptions import MethodNotAllowedException, PermissionDeniedException
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send


class Door:
    """Serves MCP to programs, and to web pages of known origins.

    The library is slow to import and most services never need it, so that waits for the first request.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins) - {"*"}
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._server: asyncio.Future[ASGIApp] | None = None

    async def enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an HTTPException for pages of other origins, and for what is no POST."""
        origin = Headers.from_scope(scope).get("origin")
        if origin is not None and not self._is_known(origin):
            # A browser sends it for a page that may have found its way to us by a name of its own (DNS rebinding).
            raise PermissionDeniedException(detail="Web pages of this origin may not use MCP here")
        if scope.get("method") != "POST":
            # There is nothing to listen to, and no session to end.
            raise MethodNotAllowedException(headers={"Allow": "POST"})
        server = await self._begun(scope["litestar_app"])
        await server(scope, receive, send)

    async def close(self) -> None:
        """End the server, if it has begun."""
        self._ending.set()
        if self._task is not None:
            await self._task

    def _is_known(self, origin: str) -> bool:
        return origin in self._origins or _is_loopback(origin)

    async def _begun(self, app: Any) -> ASGIApp:
        if self._server is None or (self._server.done() and self._server.exception() is not None):
            self._server = asyncio.get_running_loop().create_future()
            # A task of its own: what begins in a task must end in it, and no request lasts so long.
            self._task = asyncio.create_task(self._serve(app, self._server))
        # Others wait for the same beginning when the first one leaves.
        return await asyncio.shield(self._server)

    async def _serve(self, app: Any, begun: "asyncio.Future[ASGIApp]") -> None:
        try:
            library = await asyncio.to_thread(import_module, "api.mcp.http")
            async with library.serving(app) as server:
                begun.set_result(server)
                await self._ending.wait()
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)


def mcp_route(door: Door, *paths: str) -> ASGIRouteHandler:
    """The door as a route of the application, for every method."""

    @asgi(list(paths), copy_scope=True)
    async def mcp(scope: Scope, receive: Receive, send: Send) -> None:
        await door.enter(scope, receive, send)

    return mcp


def _is_loopback(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
