"""Logging in and out: a key for a cookie, so that a browser need not keep the key."""

from collections.abc import Callable
from urllib.parse import quote, urlsplit

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import QueryParams, RawBody
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_401_UNAUTHORIZED

from api.caller import caller_of
from api.dashboard.pages import Pages, read_form, see, wants_fragment
from api.problems import AnyRequest
from api.sessions import COOKIE, LASTS_S, Sessions
from common.access import Caller, Way

_LOGIN = "/ui/login"
_HOME = "/"
_LONGEST_KEY = 512
_REFUSED = "This key lets nobody in here. It may be mistyped, revoked, expired, or of another service."

Recognise = Callable[[str], Caller]


@get(_LOGIN, sync_to_thread=False)
def login_page(
    request: AnyRequest, query: QueryParams, pages: NamedDependency[Pages], asks_callers: NamedDependency[bool]
) -> Response[str] | Redirect:
    """The form; whoever is let in already goes on to where they wanted to."""
    after = _path(query.get("next", ""))
    if not asks_callers or caller_of(request).way is not Way.NOBODY:
        return see(after)
    return _form(pages, after)


@post(_LOGIN, status_code=HTTP_200_OK, sync_to_thread=True)
def log_in(
    request: AnyRequest,
    body: RawBody,
    pages: NamedDependency[Pages],
    recognise: NamedDependency[Recognise],
    sessions: NamedDependency[Sessions],
) -> Response[str] | Redirect:
    """Begin a session for whoever has a key, or show the form again."""
    fields = read_form(body)
    key, after = fields.get("key", "").strip(), _path(fields.get("next", ""))
    caller = recognise(key) if 0 < len(key) <= _LONGEST_KEY else None
    if caller is None or caller.way not in {Way.KEY, Way.SETTING}:
        return _form(pages, after, fault=_REFUSED if key else "Give a key.")
    # Whom the audit trail names.
    request.scope["state"]["caller"] = caller
    answer = see(after)
    answer.set_cookie(_cookie(request, sessions.begun(caller, key), LASTS_S))
    return answer


@post("/ui/logout", status_code=HTTP_200_OK, sync_to_thread=False)
def log_out(request: AnyRequest) -> Redirect:
    """End the session in this browser."""
    answer = see(_LOGIN)
    answer.set_cookie(_cookie(request, "", 0))
    return answer


def to_login(request: AnyRequest) -> Response[str] | Redirect:
    """Where somebody is sent who has to log in first; from there they come back to the page that they are on."""
    if wants_fragment(request):
        # A script asks for a part of a page: the page as a whole has to go.
        shown = urlsplit(request.headers.get("hx-current-url", ""))
        return Response("", status_code=HTTP_200_OK, headers={"HX-Redirect": _login(_joined(shown.path, shown.query))})
    return see(_login(_joined(request.url.path, request.url.query) if request.method == "GET" else _HOME))


def _form(pages: Pages, after: str, fault: str = "") -> Response[str]:
    status = HTTP_401_UNAUTHORIZED if fault else HTTP_200_OK
    return pages.page("login.html", status=status, after=after, fault=fault)


def _cookie(request: AnyRequest, value: str, lasts_s: int) -> Cookie:
    return Cookie(
        key=COOKIE,
        value=value,
        max_age=lasts_s,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def _login(after: str) -> str:
    after = _path(after)
    return _LOGIN if after == _HOME else f"{_LOGIN}?next={quote(after, safe='/')}"


def _joined(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _path(wanted: str) -> str:
    """A page of ours, whatever a link says: a path, and nothing that a browser takes for another host."""
    if not wanted.startswith("/") or wanted.startswith(("//", _LOGIN)) or "\\" in wanted or not wanted.isprintable():
        return _HOME
    return wanted
