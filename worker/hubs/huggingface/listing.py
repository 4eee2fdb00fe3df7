"""Lists the models of the hub: by author, words and tags, or those of a collection."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo

from common.errors import InvalidParameters, SourceNotFound
from common.plugins import ListItem, ListPage, ListQuery
from worker.hubs.huggingface.naming import NAME
from worker.net import HubClient

_SLUG = re.compile(r"[\w.-]{1,96}/[\w.-]{1,200}", re.ASCII)
_FURTHEST = 10_000
"""The hub knows no offsets: whatever lies before the wanted models must be fetched as well."""
_FIELDS = (
    "author", "downloads", "gated", "lastModified", "library_name", "likes", "pipeline_tag", "private", "safetensors",
    "tags",
)  # fmt: skip


def listed(api: HfApi, query: ListQuery) -> ListPage:
    """The models that fit the filters, those with the most downloads first. Raises InvalidParameters."""
    stop = query.offset + query.limit
    if stop > _FURTHEST:
        raise InvalidParameters(f"The hub is listed to its {_FURTHEST}th model at most: use filters to see others")
    found = api.list_models(
        author=_word(query, "author"),
        search=_word(query, "search"),
        filter=_tags(query) or None,
        sort="downloads",
        limit=stop + 1,
        expand=list(_FIELDS),
    )
    models = list(islice(found, stop + 1))
    items = tuple(_item(model) for model in models[query.offset : stop] if NAME.fullmatch(str(model.id)))
    return ListPage(items=items, has_more=len(models) > stop)


def collected(client: HubClient, query: ListQuery) -> ListPage:
    """The models of a collection, in its own order. Raises InvalidParameters and SourceNotFound."""
    others = sorted(name for name, value in query.filters.items() if name != "collection" and value)
    if others:
        raise InvalidParameters(f"Filter 'collection' stands alone, without '{others[0]}'")
    slug = _word(query, "collection") or ""
    if not _SLUG.fullmatch(slug) or ".." in slug:
        raise SourceNotFound("A collection is named as owner/title-0123456789abcdef01234567")
    entries = client.get(f"api/collections/{slug}").json()["items"]
    models = [one for one in entries if one["type"] == "model" and NAME.fullmatch(str(one["id"]))]
    stop = query.offset + query.limit
    items = tuple(_item(ModelInfo(**one)) for one in models[query.offset : stop])
    return ListPage(items=items, has_more=len(models) > stop, total=len(models))


def names_collection(query: ListQuery) -> bool:
    """Whether a collection is to be listed."""
    return bool(query.filters.get("collection"))


def _word(query: ListQuery, name: str) -> str | None:
    value = query.filters.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidParameters(f"Filter '{name}' must be a string")
    return value.strip() or None if value is not None else None


def _tags(query: ListQuery) -> list[str]:
    """All of these a model must have. They come as a list, or in one string with commas."""
    value = query.filters.get("tags") or []
    tags = value.split(",") if isinstance(value, str) else value
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidParameters("Filter 'tags' must be a list of strings, or a string with commas")
    return [tag.strip() for tag in tags if tag.strip()]


def _item(model: ModelInfo) -> ListItem:
    told = {"downloads": model.downloads, "likes": model.likes, "library_name": model.library_name}
    return ListItem(
        name=model.id,
        owner=model.author or model.id.rpartition("/")[0] or None,
        precisions=_precisions(model.safetensors),
        tags=None if model.tags is None else tuple(map(str, model.tags)),
        model_type=model.pipeline_tag,
        last_modified=model.last_modified.isoformat() if model.last_modified else None,
        metadata={name: value for name, value in told.items() if value is not None},
        license=_licence(model.tags or ()),
        gated=model.gated,
        requires_token=bool(model.gated or model.private),
    )


def _precisions(weights: Any) -> tuple[str, ...] | None:
    """The types of the numbers in the model's safetensors files, where it has any."""
    parameters: Mapping[str, object] | None = getattr(weights, "parameters", None)
    return tuple(sorted(parameters)) if parameters else None


def _licence(tags: Iterable[str]) -> str | None:
    return next((tag.removeprefix("license:") for tag in map(str, tags) if tag.startswith("license:")), None)
