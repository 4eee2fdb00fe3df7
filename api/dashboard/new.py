"""The page that asks for a model: a form, what it would come to, and the start."""

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import RawBody
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK

from api.dashboard.pages import Pages, read_form, see, wants_fragment
from api.dashboard.wishes import PRECISIONS, Refused, explained, fields_of, read_wish
from api.overview import Overview
from api.problems import AnyRequest
from api.routes.asking import read_asker
from api.usecases import Jobs
from api.views import Places, forecast_page
from api.wire import ForecastView
from common.vocabulary import ModelType, Priority


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan needs on the volume, and what is free there."""

    needed_bytes: int
    free_bytes: int


@get("/ui/new", sync_to_thread=False)
def new_page(request: AnyRequest, pages: NamedDependency[Pages], jobs: NamedDependency[Jobs]) -> Response[str]:
    """An empty form, or one that a link has filled in."""
    return _form(request, pages, jobs, dict(request.query_params))


@post("/ui/new/plan", status_code=HTTP_200_OK, sync_to_thread=True)
def plan(
    *,
    request: AnyRequest,
    body: RawBody,
    pages: NamedDependency[Pages],
    jobs: NamedDependency[Jobs],
    overview: NamedDependency[Overview],
    places: NamedDependency[Places],
) -> Response[str]:
    """What the wish of the form would come to."""
    given = read_form(body)
    try:
        with explained():
            asked = read_wish(given, jobs.catalog.hubs)
            asker = read_asker(request, "plan", asked.path, asked.body)
            forecast = forecast_page(jobs.plan(asked.wishes, asked.path, asker), places).plans[0]
    except Refused as refused:
        return _form(request, pages, jobs, given, refused=refused)
    return _form(request, pages, jobs, given, forecast=forecast, room=_room(forecast, overview))


@post("/ui/new", status_code=HTTP_200_OK, sync_to_thread=True)
def start(
    request: AnyRequest, body: RawBody, pages: NamedDependency[Pages], jobs: NamedDependency[Jobs]
) -> Response[str] | Redirect:
    """Start a job, and show it."""
    given = read_form(body)
    try:
        with explained():
            asked = read_wish(given, jobs.catalog.hubs)
            asker = read_asker(request, "submit", asked.path, asked.body)
            accepted = jobs.submit(asked.wishes, asked.path, asker)
    except Refused as refused:
        return _form(request, pages, jobs, given, refused=refused)
    return see(f"/ui/jobs/{accepted.ids[0]}")


def _form(
    request: AnyRequest,
    pages: Pages,
    jobs: Jobs,
    given: dict[str, str],
    *,
    refused: Refused | None = None,
    forecast: ForecastView | None = None,
    room: Room | None = None,
) -> Response[str]:
    part = wants_fragment(request)
    return pages.page(
        "fragments/new.html" if part else "new.html",
        active="new",
        # For the script that shows it, a refusal is a good answer.
        status=HTTP_200_OK if part or refused is None else refused.status,
        wish=fields_of(given),
        faults={} if refused is None else refused.faults,
        forecast=forecast,
        room=room,
        hubs=sorted(jobs.catalog.hubs),
        types=list(ModelType),
        precisions=PRECISIONS,
        priorities=list(Priority),
    )


def _room(forecast: ForecastView, overview: Overview) -> Room | None:
    if forecast.status != "planned":
        return None
    parts = (forecast.bytes_to_fetch, forecast.output_bytes, forecast.scratch_bytes)
    return Room(
        needed_bytes=sum(part for part in parts if isinstance(part, int)),
        free_bytes=overview.seen().volume.free_bytes,
    )
