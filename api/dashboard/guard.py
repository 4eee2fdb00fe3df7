"""Refuses forms that another site has sent: the API is open to other origins by contract, its pages are not."""

from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from api.caller import SAFE

_OWN = frozenset({"same-origin", "none"})


def own_forms_only(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Let through what changes nothing, and what one of our own pages has sent. Raises PermissionDeniedException.

    A browser tells where a form comes from, and no page can make it lie. Who tells nothing is no browser, and has no
    rights but those that anybody has.
    """
    if connection.scope.get("method") not in SAFE and not is_own(connection):
        raise PermissionDeniedException("This form was sent by another site. Open the page here and send it again.")


def is_own(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Whether a request was sent by one of our own pages or by what is no browser, or is one to look at something.

    Without an `Origin`, as where somebody opens a page, no browser shows the answer to the page that asked. With one
    it might, where an operator lets other origins call: and a page of another port is of the same site as ours.
    """
    if connection.scope.get("method") in SAFE and "origin" not in connection.headers:
        return True
    site = connection.headers.get("sec-fetch-site")
    # Browsers leave the first header out where the connection is neither encrypted nor local.
    return _is_own_origin(connection) if site is None else site in _OWN


def _is_own_origin(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")
