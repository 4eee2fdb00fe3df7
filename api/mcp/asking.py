"""What tools and resources ask for, and how they tell what came of it."""

from dataclasses import replace
from typing import Any

import msgspec
from mcp.server.mcpserver import Context

from api.client import Refused, Unreachable, calls
from api.client.call import Call
from api.wire import PluginPage

Result = dict[str, Any]
"""A JSON object."""

_MOST_JOBS = 200


def failure(error: Refused | Unreachable) -> Result:
    """Why a call has come to nothing; with what to do about it where that is known."""
    told: Result = {"error": str(error)}
    if isinstance(error, Refused) and error.hint is not None:
        told["hint"] = error.hint
    return told


def jobs_newest_first() -> Call[Result]:
    """The newest jobs; `next_cursor` is there if there are more."""
    return _shaped(calls.page(limit=_MOST_JOBS, newest_first=True), msgspec.to_builtins)


def plugins() -> Call[Result]:
    """The plugins as agents see them: without the older of two names for the same keys, and without setup hints."""
    return _shaped(calls.plugins(), _plugins)


def tenant_of(context: Context[Any, Any]) -> str | None:
    """Who asks: the name in the request's header, or else the address it comes from. Nobody, where there is none."""
    request = context.request_context.request
    headers = context.headers or {}
    client = getattr(request, "client", None)
    return headers.get("modelferry-tenant") or (client.host if client is not None else None)


def _plugins(page: PluginPage) -> Result:
    told: Result = msgspec.to_builtins(page)
    del told["activation_instructions"]
    for plugin in (plugin for kind in told["available_plugins"].values() for plugin in kind):
        del plugin["config_keys"]
    return told


def _shaped(call: Call[Any], shape: Any) -> Call[Result]:
    return replace(call, read=lambda answer: shape(call.read(answer)))
