"""Gives each request an id and, where traces are wanted, a span; and tells the log how it was answered."""

import logging
import re
import time
import uuid
from dataclasses import dataclass

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.access.door import operation_of
from api.caller import SAFE
from common import tracing
from common.log import about, known
from common.tracing.spans import Value, begun, named

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"
_USABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = frozenset({"health", "ready", "metrics"})
"""Asked every few seconds by machines: a trace of each would tell nobody anything."""
_WATCH = "watch"
_SERVER_ERROR = 500


@dataclass(slots=True)
class _Watch:
    """One request, from its beginning to the end of its answer."""

    request_id: str
    span: tracing.Span
    began: float
    status: int | None = None
    told: bool = False


class Watched(ASGIMiddleware):
    """Begins to watch a request, before anything else is done with it. `answered` does the rest.

    `scope["state"]["request_id"]` is the id: the client's own where it can be used, or a new one.
    """

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Every line of the log says meanwhile which request it belongs to."""
        headers = Headers.from_scope(scope)
        watch = _watch(scope, headers)
        place = watch.span.place
        with about(request_id=watch.request_id, trace_id=place and place.trace_id), tracing.under(watch.span):
            try:
                await next_app(scope, receive, send)
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Cancelled: there will be no answer. What is an error still gets one, outside of us.
                    _tell(scope, watch)
                raise
            # The server does not always take the last of an answer: the client may have left.
            _tell(scope, watch)


async def answered(message: Message, scope: Scope) -> None:
    """Put the id into the answer, whoever gives it; and tell the log of answers that the routes have no part in.

    To be called before each message is sent: refusals of the router itself, and of what stands before the routes, come
    through no middleware.
    """
    if scope["type"] != ScopeType.HTTP:
        return
    watch: _Watch = scope["state"].get(_WATCH) or _watch(scope, Headers.from_scope(scope))
    if message["type"] == "http.response.start":
        watch.status = message["status"]
        kept = [pair for pair in message["headers"] if pair[0].lower() != REQUEST_ID.lower().encode()]
        message["headers"] = [*kept, (REQUEST_ID.lower().encode(), watch.request_id.encode())]
    elif message["type"] == "http.response.body" and not message.get("more_body", False):
        _tell(scope, watch)


def _watch(scope: Scope, headers: Headers) -> _Watch:
    """Begin to watch; the id and the trace are those of whoever asks, or of the request that this one is a part of."""
    given = headers.get(REQUEST_ID) or str(known("request_id") or "")
    request_id = given if _USABLE.fullmatch(given) else uuid.uuid4().hex
    watch = _Watch(request_id=request_id, span=_span(scope, headers), began=time.monotonic())
    scope["state"][_WATCH] = watch
    scope["state"]["request_id"] = request_id
    return watch


def _span(scope: Scope, headers: Headers) -> tracing.Span:
    operation, method = operation_of(scope), str(scope.get("method", ""))
    if operation in _PROBES or "route_handler" not in scope:
        return tracing.NO_SPAN
    route = str(scope.get("path_template", ""))
    attributes: dict[str, Value] = {
        "http.request.method": method,
        "http.route": route,
        # Without its query, which may hold what is nobody's business.
        "url.path": scope["path"],
        "url.scheme": str(scope.get("scheme", "")),
    }
    parent = tracing.place_of(headers.get("traceparent")) or tracing.current().place
    name = f"{method} {operation or route}"
    return begun(name, kind=tracing.Kind.SERVER, parent=parent, attributes=attributes)


def _tell(scope: Scope, watch: _Watch) -> None:
    """Once: what was asked, by whom, and how it was answered."""
    if watch.told:
        return
    watch.told = True
    caller = scope["state"].get("caller")
    name = None if caller is None else caller.name
    _end(watch, name)
    method = str(scope.get("method", ""))
    level = logging.DEBUG if method in SAFE or "route_handler" not in scope else logging.INFO
    if not log.isEnabledFor(level):
        return
    place = watch.span.place
    told = {
        "operation": operation_of(scope) or scope.get("path_template") or "",
        "method": method,
        "status": watch.status,
        "seconds": round(time.monotonic() - watch.began, 3),
        "caller": name,
        "request_id": watch.request_id,
    }
    log.log(level, "request.answered", extra=told | ({} if place is None else {"trace_id": place.trace_id}))


def _end(watch: _Watch, caller: str | None) -> None:
    if watch.status is not None:
        watch.span.note({"http.response.status_code": watch.status})
        if watch.status >= _SERVER_ERROR:
            watch.span.fail(str(watch.status))
    watch.span.note(named({"request__id": watch.request_id, "caller": caller}))
    watch.span.end()
