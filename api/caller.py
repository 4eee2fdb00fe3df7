"""Who sends the request that is being answered: what the door has found out, for everything behind it."""

from typing import Any

from litestar.connection import ASGIConnection

from common.access import Caller

HANDED_ON = "modelferry.caller"
"""Where the scope of a request that this process makes of itself says for whom it asks. No server sets it."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods by which a caller changes nothing (RFC 9110, section 9.2.1)."""


def caller_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
    """Who asks, behind the door."""
    caller: Caller = connection.scope["state"]["caller"]
    return caller
