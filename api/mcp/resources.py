"""What an agent can read without calling a tool."""

from typing import Any

import msgspec
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from api.client import AsyncClient, Refused, Unreachable, calls
from api.client.call import Call
from api.mcp.asking import Result, jobs_newest_first, plugins

_JSON = "application/json"
_NOT_FOUND = 404
_SHORT = ("job_id", "model_name", "hub", "model_path", "completion_time")


def add_resources(server: MCPServer[Any], client: AsyncClient) -> None:
    """`models://jobs`, `models://jobs/{job_id}`, `models://results` and `models://plugins`."""

    @server.resource("models://jobs", title="Jobs", mime_type=_JSON)
    async def all_jobs() -> str:
        """The newest jobs first."""
        return await _read(client, jobs_newest_first())

    @server.resource("models://jobs/{job_id}", title="A job", mime_type=_JSON)
    async def one_job(job_id: str) -> str:
        """One job, with its progress."""
        return await _read(client, calls.job(job_id))

    @server.resource("models://results", title="Results", mime_type=_JSON)
    async def results() -> str:
        """What completed jobs have made, and where it lies."""
        page = msgspec.to_builtins(await _asked(client, calls.results()))
        lines = [{key: line[key] for key in _SHORT if key in line} for line in page["results"]]
        return _text({"results": lines})

    @server.resource("models://plugins", title="Plugins", mime_type=_JSON)
    async def all_plugins() -> str:
        """The hubs and converters of this service."""
        return await _read(client, plugins())


async def _read(client: AsyncClient, call: Call[Any]) -> str:
    return _text(await _asked(client, call))


async def _asked(client: AsyncClient, call: Call[Any]) -> Any:
    try:
        return await client.run(call)
    except Refused as error:
        raise (ResourceNotFoundError if error.status == _NOT_FOUND else ResourceError)(str(error)) from error
    except Unreachable as error:
        raise ResourceError(str(error)) from error


def _text(content: Result) -> str:
    return msgspec.json.encode(content).decode()
