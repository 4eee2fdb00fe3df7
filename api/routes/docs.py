"""The OpenAPI document and a page to try it out, all of it served from here."""

from pathlib import Path
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.exceptions import InternalServerException
from litestar.static_files import create_static_files_router
from litestar.status_codes import HTTP_404_NOT_FOUND

from api.wire import Problem

STATIC = Path(__file__).parent.parent / "static"

_OWN_ORIGIN_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _nothing_there(_request: Request[Any, Any, Any], _error: Exception) -> Response[Problem]:
    """A path that no file can have, such as one with a NUL, is refused by the file system, and not by the router."""
    return Response(Problem(detail="Not Found"), status_code=HTTP_404_NOT_FOUND)


static_files = create_static_files_router(
    path="/static",
    directories=[STATIC],
    include_in_schema=False,
    name="static",
    cache_control=None,
    exception_handlers={ValueError: _nothing_there, InternalServerException: _nothing_there},
)


@get("/openapi.json", include_in_schema=False, sync_to_thread=False)
def openapi_document(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return request.app.openapi_schema.to_schema()


@get(["/docs", "/redoc"], include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=False)
def docs_page() -> Response[bytes]:
    page = (STATIC / "docs.html").read_bytes()
    return Response(page, headers={"Content-Security-Policy": _OWN_ORIGIN_ONLY, "Cache-Control": "no-cache"})
