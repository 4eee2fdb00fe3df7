"""The MCP server, whatever it is reached by."""

from importlib.metadata import version
from typing import Any

from mcp.server.mcpserver import MCPServer

from api.client import AsyncClient
from api.mcp.prompts import add_prompts
from api.mcp.resources import add_resources
from api.mcp.tools import Tools

_INSTRUCTIONS = (
    "Modelferry fetches AI models from hubs, converts them to OpenVINO where that is wanted, and publishes them in a "
    "directory that model servers read. Every request becomes a job that goes on by itself: start it with "
    "download_model, then follow it with get_job_status. The prompt hub_guide tells how hubs name their models."
)


def make_server(client: AsyncClient) -> MCPServer[Any]:
    """A server whose tools ask the service that this client speaks to."""
    server: MCPServer[Any] = MCPServer(
        "modelferry",
        title="Modelferry",
        instructions=_INSTRUCTIONS,
        version=version("modelferry"),
        # Nobody is told of changes: agents ask.
        subscriptions=False,
        log_level="WARNING",
    )
    for tool, effects in Tools(client).all():
        server.add_tool(tool, annotations=effects)
    add_resources(server, client)
    add_prompts(server)
    return server
