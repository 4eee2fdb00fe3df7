"""The page of the limits: how much may run and how fast; set one, take one away."""

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParams, RawBody
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_422_UNPROCESSABLE_ENTITY

from api.compat.decoding import Reader, Unprocessable
from api.dashboard.pages import Pages, read_form, see
from api.routes.limits import LimitRequest
from api.usecases import Limits
from api.views import limit_page
from common.errors import InvalidSpec, NoSuchLimit
from common.records import LimitRecord
from common.vocabulary import LimitScope, Pool

_UNITS = {"MB/s": 1_000_000, "KB/s": 1000, "GB/s": 1_000_000_000}
_SCOPES = {
    LimitScope.SERVICE: "The whole service",
    LimitScope.HUB: "A hub",
    LimitScope.TENANT: "A tenant",
    LimitScope.POOL: "A pool of workers",
}
_WORDS = {"max_running": "At once", "bytes_per_s": "Speed"}
_NOTES = {"set": "The limit holds from now on.", "removed": "The limit is gone."}


class LimitForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the form holds, as it was typed."""

    scope: str = "hub"
    name: str = ""
    max_running: str = ""
    speed: str = ""
    unit: str = "MB/s"


@get("/ui/limits", sync_to_thread=True)
def limits_page(query: QueryParams, pages: NamedDependency[Pages], limits: NamedDependency[Limits]) -> Response[str]:
    """Every limit that is set, the hubs, and a form that holds the limit that the address names."""
    known = {name: value for name, value in query.multi_items() if name in LimitForm.__struct_fields__}
    note = _NOTES.get(query.get("done", ""))
    return _page(pages, limits, LimitForm(**known), note=note)


@post("/ui/limits", status_code=HTTP_200_OK, sync_to_thread=True)
def put_limit_from_page(
    body: RawBody, pages: NamedDependency[Pages], limits: NamedDependency[Limits]
) -> Response[str] | Redirect:
    """Set it, or say what is wrong with it beside the form."""
    fields = read_form(body)
    form = LimitForm(**{name: fields[name].strip() for name in LimitForm.__struct_fields__ if name in fields})
    try:
        limits.put(_limit(form))
    except Unprocessable as error:
        faults = [f"{_WORDS.get(str(fault.loc[-1]), fault.loc[-1])}: {fault.msg}" for fault in error.faults]
        return _page(pages, limits, form, faults=faults)
    except InvalidSpec as error:
        return _page(pages, limits, form, faults=[str(error)])
    return see("/ui/limits?done=set")


@post("/ui/limits/remove", status_code=HTTP_200_OK, sync_to_thread=True)
def remove_limit_from_page(body: RawBody, limits: NamedDependency[Limits]) -> Redirect:
    """Take it away."""
    fields = read_form(body)
    scope = fields.get("scope", "")
    if scope not in set(LimitScope):
        raise NoSuchLimit("There is no such limit.")
    limits.remove(LimitScope(scope), fields.get("name", ""))
    return see("/ui/limits?done=removed")


def _page(
    pages: Pages, limits: Limits, form: LimitForm, *, faults: list[str] | None = None, note: str | None = None
) -> Response[str]:
    records = limits.limits()
    page = limit_page(records, limits.hubs())
    return pages.page(
        "limits.html",
        active="limits",
        status=HTTP_422_UNPROCESSABLE_ENTITY if faults else HTTP_200_OK,
        page=page,
        form=form,
        scopes=_SCOPES,
        units=_UNITS,
        faults=faults or [],
        note=note,
        names=sorted({plugin.origin or plugin.name for plugin in limits.catalog.hubs.values()} | set(Pool)),
    )


def _limit(form: LimitForm) -> LimitRecord:
    """What the route would be given. Raises Unprocessable or InvalidSpec."""
    if form.scope not in set(LimitScope):
        raise InvalidSpec(f"There are no limits of such a scope. Use {', '.join(LimitScope)}.")
    scope = LimitScope(form.scope)
    reader = Reader()
    said = {"max_running": _whole(form.max_running), "bytes_per_s": _speed(form)}
    asked = reader.body(LimitRequest, msgspec.json.encode(said), "application/json")
    if asked is None:
        raise reader.refusal()
    if asked.max_running is None and asked.bytes_per_s is None:
        raise InvalidSpec("Say how many may run at once, or how fast. To have no limit, remove it.")
    name = "*" if scope is LimitScope.SERVICE else form.name
    return LimitRecord(scope=scope, name=name, max_running=asked.max_running, bytes_per_s=asked.bytes_per_s)


def _whole(text: str) -> int | str | None:
    """A number where it is one; else the words themselves, which the reader then refuses."""
    if not text:
        return None
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20 else text


def _speed(form: LimitForm) -> int | str | None:
    if not form.speed:
        return None
    try:
        speed = float(form.speed) * _UNITS.get(form.unit, 1)
    except ValueError:
        return form.speed
    return round(speed) if abs(speed) < 2.0**62 else form.speed
