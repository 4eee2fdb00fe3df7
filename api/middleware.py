"""What every request goes through before its route, and every answer after it."""

from functools import cached_property
from urllib.parse import quote

from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.response.redirect import ASGIRedirectResponse
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from common.settings import Settings, listed

_SHOWN = (
    "Location", "Retry-After", "Idempotent-Replayed", "X-Error-Code", "X-Request-Id",
    "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
)  # fmt: skip
"""What answers say in headers beside those that any page of another origin may read."""


class NoTrailingSlash(ASGIMiddleware):
    """Sends a client that put a slash behind a known path to the path itself."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """The router has taken the slash off `path` already; only `raw_path` still has it."""
        asked = scope["raw_path"].split(b"?")[0]
        if scope["path"] == "/" or not asked.endswith(b"/"):
            await next_app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        location = quote(scope["path"]) + (f"?{query}" if query else "")
        await ASGIRedirectResponse(path=location, status_code=307)(scope, receive, send)


class EveryMethodAllowed(ASGIMiddleware):
    """Names all methods of a path in `Allow`: Litestar names those of the first handler, where a path has several."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Looks at answers to OPTIONS only."""
        if scope.get("method") != "OPTIONS":
            await next_app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != b"allow"]
                message["headers"] = [*headers, (b"allow", _methods(scope).encode())]
            await send(message)

        await next_app(scope, receive, told)


def _methods(scope: Scope) -> str:
    found = (route for route in scope["litestar_app"].routes if route.path_format == scope.get("path_template"))
    return ", ".join(sorted({method for route in found if isinstance(route, HTTPRoute) for method in route.methods}))


class CredentialedCORS(CORSConfig):
    """Answers a preflight with the caller's own origin: browsers refuse `*` together with credentials."""

    @cached_property
    def preflight_headers(self) -> dict[str, str]:
        """Without the origin, which the middleware then fills in."""
        headers = {name: value for name, value in super().preflight_headers.items() if not name.endswith("-Origin")}
        return headers | {"Vary": "Origin"}


def cors(settings: Settings) -> CORSConfig:
    """Which pages of other origins may call, and how."""
    return CredentialedCORS(
        allow_origins=listed(settings.cors_allow_origins),
        allow_methods=listed(settings.cors_allow_methods),  # type: ignore[arg-type]  # any word the operator chose
        allow_headers=listed(settings.cors_allow_headers),
        allow_credentials=True,
        expose_headers=list(_SHOWN),
    )
