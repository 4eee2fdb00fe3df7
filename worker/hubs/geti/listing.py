"""What a Geti server offers, as a listing that can be filtered and paged."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import msgspec

from common.catalog.geti import GETI
from common.errors import InvalidParameters
from common.plugins import ListItem, ListPage, ListQuery
from worker.hubs.geti.search import BASE, fits, is_precision
from worker.hubs.geti.values import Group, Model, Project, Server, Variant, shown

_OPTIMIZED = "optimized"


class _Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a listing is narrowed by."""

    project_id: str | None = None
    project_name: str | None = None
    model_group_id: str | None = None
    model_group_name: str | None = None
    model_name: str | None = None
    export_type: Literal["base", "optimized"] | None = None
    precision: str | None = None
    model_format: str | None = None


def list_models(server: Server, query: ListQuery) -> ListPage:
    """The newest model of each group that passes the filters, by project and name. Raises InvalidParameters."""
    filters = _read(query.filters)
    found = sorted(_found(server, filters), key=_order)
    page = found[query.offset : query.offset + query.limit]
    return ListPage(
        items=tuple(_item(model, forms) for model, forms in page),
        has_more=query.offset + len(page) < len(found) and bool(page),
        total=len(found),
    )


def _read(given: Mapping[str, object]) -> _Filters:
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, _Filters)
    except msgspec.ValidationError as error:
        raise InvalidParameters(f"Unusable filter: {error}", hint="Filters are strings.") from error


def _found(server: Server, filters: _Filters) -> Iterator[tuple[Model, list[Variant]]]:
    for project in server.projects():
        if filters.project_id not in {None, project.id} or not _holds(project.name, filters.project_name):
            continue
        for group in server.groups(project):
            if filters.model_group_id not in {None, group.id} or not _holds(group.name, filters.model_group_name):
                continue
            model = _newest(server, project, group, filters.model_name)
            forms = _forms(model, filters) if model else None
            if model is not None and forms is not None:
                yield model, forms


def _newest(server: Server, project: Project, group: Group, name: str | None) -> Model | None:
    """The newest usable model, if its name fits and a download could ask for it by that name."""
    if not any(_holds(trained.name, name) for trained in group.models):
        return None
    models = (server.model(project, group, trained) for trained in group.models)
    newest = next((model for model in models if model is not None), None)
    return newest if newest and _holds(newest.name, name) and _can_be_asked_for(newest.name) else None


def _forms(model: Model, filters: _Filters) -> list[Variant] | None:
    """The exports that pass the filters; None where the model does not."""
    if filters.export_type == BASE:
        return list(model.variants) if model.base_url else None
    forms = [
        variant
        for variant in model.variants
        if (filters.precision is None or is_precision(variant, filters.precision))
        and (filters.model_format is None or fits(variant.model_format, filters.model_format))
    ]
    narrowed = filters.export_type == _OPTIMIZED or filters.precision is not None or filters.model_format is not None
    return None if narrowed and not forms else forms


def _holds(value: str | None, wanted: str | None) -> bool:
    return wanted is None or wanted.casefold() in (value or "").casefold()


def _can_be_asked_for(name: str) -> bool:
    return ".." not in name and re.fullmatch(GETI.name_pattern, name, re.ASCII) is not None


def _order(found: tuple[Model, list[Variant]]) -> tuple[str, ...]:
    model, _ = found
    return model.project.name.casefold(), model.project.id, model.name.casefold(), model.group.id or "", model.id


def _item(model: Model, forms: list[Variant]) -> ListItem:
    precisions = {precision.lower() for form in forms for precision in form.precisions}
    metadata = {
        "project_id": model.project.id,
        "model_group_id": model.group.id,
        "model_group_name": None if model.group.name is None else shown(model.group.name),
        "model_id": model.id,
        "version": model.version,
        "export_types": [*([_OPTIMIZED] if model.variants else []), *([BASE] if model.base_url else [])],
        "exports": [
            {"optimized_model_id": form.id, "model_format": shown(form.model_format), "precision": _shown_all(form)}
            for form in forms
        ],
    }
    return ListItem(
        name=model.name,
        owner=shown(model.project.name),
        precisions=tuple(sorted(shown(precision) for precision in precisions)),
        last_modified=None if model.created is None else shown(model.created),
        metadata=cast("dict[str, object]", {key: value for key, value in metadata.items() if value is not None}),
    )


def _shown_all(form: Variant) -> list[str]:
    return [shown(precision) for precision in form.precisions]
