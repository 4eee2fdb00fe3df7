"""The MCP server for an agent that starts it as a program of its own, and speaks to it through pipes."""

import asyncio
import logging
import sys

from mcp.server.mcpserver import MCPServer

from api.client import AsyncClient
from api.mcp.server import make_server


def main(address: str | None = None, api_key: str | None = None) -> None:
    """Serve until standard input ends. The tools ask the service at `address`, or where a client finds it by itself.

    They send this API key, or the one that a client finds by itself.
    """
    # Standard output belongs to the protocol.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(address, api_key))
    except KeyboardInterrupt:
        return


async def _serve(address: str | None, api_key: str | None) -> None:
    async with AsyncClient(address, api_key=api_key) as client:
        server: MCPServer[None] = make_server(client)
        await server.run_stdio_async()
