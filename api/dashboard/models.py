"""The pages of the models on the volume: what there is, all about one, verify it, delete it."""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import accumulate
from urllib.parse import urlencode

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK

from api.compat.leaving import attended
from api.compat.local_models import LocalModelsQuery, read_local_models_query
from api.dashboard import usage
from api.dashboard.pages import Pages, see, wants_fragment
from api.library import Models
from api.library_views import local_model, local_page, removal_view, verification_view
from api.problems import AnyRequest
from api.usecases import Jobs
from api.views import Places
from api.wire.local import LocalModelView
from common.vocabulary import Precision

_ROWS = 50
_CHARTED = 1000
"""The most models that one question is answered with."""
_NAMED_SHARES = 6
_FILTERS = ("name", "hub", "precision")
_NOTES = {"removed": "The model has been removed. What it shared with others stays."}


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one model, or several together, take of all bytes."""

    name: str
    bytes: int
    percent: float
    begin: float
    """Where it begins in a bar of 100."""
    model_id: str | None = None


@get("/ui/models", sync_to_thread=True)
def models_page(
    *,
    request: AnyRequest,
    query: QueryParams,
    pages: NamedDependency[Pages],
    library: NamedDependency[Models],
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> Response[str]:
    """The models that a filter lets through, some at a time, and which of them are the largest."""
    given = [(name, value.strip()) for name, value in query.multi_items() if value.strip()]
    asked = read_local_models_query((name, value) for name, value in given if name in {*_FILTERS, "offset"})
    wanted = partial(library.page, hub=asked.hub, name=asked.name, precision=asked.precision)
    held = wanted(limit=_ROWS, offset=asked.offset)
    page = local_page(held, places, limit=_ROWS, offset=asked.offset)
    whole = held if len(held.held) == held.total else wanted(limit=_CHARTED, offset=0)
    everything = local_page(whole, places, limit=_CHARTED, offset=0).models
    return pages.page(
        "fragments/models.html" if wants_fragment(request) else "models.html",
        active="models",
        page=page,
        asked=asked,
        charted=len(everything),
        total_bytes=sum(model.bytes for model in everything),
        shares=shares(everything),
        root=f"{places.models_dir}/",
        hubs=sorted({*jobs.catalog.hubs, *(model.hub for model in everything if model.hub)}),
        precisions=list(Precision),
        previous=_address(asked, asked.offset - _ROWS) if asked.offset > 0 else None,
        following=_address(asked, asked.offset + _ROWS) if asked.offset + _ROWS < page.total else None,
        note=_NOTES.get(query.get("done", "")),
    )


@get("/ui/models/{model_id:str}", sync_to_thread=True)
def model_page(
    model_id: FromPath[str],
    pages: NamedDependency[Pages],
    library: NamedDependency[Models],
    places: NamedDependency[Places],
) -> Response[str]:
    """Everything that is known of one model."""
    model = local_model(library.model(model_id), places)
    return pages.page("model.html", active="models", model=model, uses=usage.of_model(model), outcome=None)


@post("/ui/models/{model_id:str}/verify", status_code=HTTP_200_OK)
async def verify_from_page(
    *,
    request: AnyRequest,
    model_id: FromPath[str],
    pages: NamedDependency[Pages],
    library: NamedDependency[Models],
    places: NamedDependency[Places],
    long_work: NamedDependency[Executor],
) -> Response[str] | Redirect:
    """Read every file again. Answers when that is done, and ends early if the person leaves."""
    verification = await attended(request.receive, long_work, partial(library.verify, model_id))
    if not wants_fragment(request):
        return see(f"/ui/models/{model_id}")
    model = await attended(request.receive, long_work, lambda _checkpoint: local_model(library.model(model_id), places))
    return pages.page("fragments/standing.html", model=model, outcome=verification_view(model_id, verification))


@get("/ui/models/{model_id:str}/delete", sync_to_thread=True)
def confirm_removal_page(
    model_id: FromPath[str],
    pages: NamedDependency[Pages],
    library: NamedDependency[Models],
    places: NamedDependency[Places],
) -> Response[str]:
    """Asks once more, and says what would go."""
    return pages.page("model_delete.html", active="models", model=local_model(library.model(model_id), places))


@post("/ui/models/{model_id:str}/delete", status_code=HTTP_200_OK, sync_to_thread=True)
def remove_from_page(
    model_id: FromPath[str],
    pages: NamedDependency[Pages],
    library: NamedDependency[Models],
    places: NamedDependency[Places],
) -> Response[str] | Redirect:
    """Remove it. Where files were kept aside, says which and where."""
    removal = removal_view(library.remove(model_id), places)
    if removal.kept_path is None:
        return see("/ui/models?done=removed")
    return pages.page("model_removed.html", active="models", removal=removal)


def shares(models: Sequence[LocalModelView]) -> list[Share]:
    """The largest models each for itself, and all others together, of all their bytes."""
    total = sum(model.bytes for model in models)
    if not total:
        return []
    ranked = sorted(models, key=lambda model: model.bytes, reverse=True)
    named = [(model.name, model.bytes, model.id) for model in ranked[:_NAMED_SHARES] if model.bytes]
    rest = ranked[_NAMED_SHARES:]
    others = [(f"{len(rest)} others", sum(model.bytes for model in rest), None)] if rest else []
    parts = [*named, *others]
    begins = accumulate((count for _, count, _ in parts), initial=0)
    return [
        Share(
            name=name,
            bytes=count,
            percent=round(100 * count / total, 2),
            begin=round(100 * begin / total, 2),
            model_id=model_id,
        )
        for (name, count, model_id), begin in zip(parts, begins, strict=False)
    ]


def _address(asked: LocalModelsQuery, offset: int) -> str:
    pairs = {"name": asked.name, "hub": asked.hub, "precision": asked.precision, "offset": max(0, offset) or None}
    said = urlencode({name: value for name, value in pairs.items() if value is not None})
    return "/ui/models" + (f"?{said}" if said else "")
