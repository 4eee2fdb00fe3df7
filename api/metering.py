"""Counts requests and how long their answers take to begin."""

import time

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.access.door import operation_of
from common.metrics.instruments import HttpInstruments

_BEGAN = "metered_since"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOWHERE = "none"
"""The operation of a request for a path that has none. The path itself is no label: anybody can make up more."""


class Metered(ASGIMiddleware):
    """Notes when a request began. `answered` does the rest."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, instruments: HttpInstruments) -> None:
        self._instruments = instruments

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Counts those, too, whose client goes before there is an answer."""
        scope["state"][_BEGAN] = time.monotonic()
        try:
            await next_app(scope, receive, send)
        except Exception:
            # It gets an answer outside of us.
            raise
        except BaseException:
            self._count(scope, None)
            raise

    async def answered(self, message: Message, scope: Scope) -> None:
        """To be called before each message is sent: refusals of the router come through no middleware."""
        if scope["type"] == ScopeType.HTTP and message["type"] == "http.response.start":
            self._count(scope, message["status"])

    def _count(self, scope: Scope, status: int | None) -> None:
        """Count a request at the beginning of its answer: a stream may go on for hours after that."""
        method = str(scope.get("method", ""))
        began = scope["state"].pop(_BEGAN, None)
        if began is None:
            if scope.get("route_handler") is None and status is not None:
                self._instruments.refused(_NOWHERE, method if method in _METHODS else "other", status)
            return
        operation = operation_of(scope) or _NOWHERE
        self._instruments.answered(
            operation, method if method in _METHODS else "other", status, time.monotonic() - began
        )
