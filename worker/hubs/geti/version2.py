"""Geti 2: organisations hold workspaces, workspaces projects, projects groups of models."""

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property

from common.errors import InvalidParameters, NothingToFetch, SourcePrivateOrMissing
from worker.hubs.geti.door import Door, answer
from worker.hubs.geti.values import (
    Document,
    Group,
    Model,
    Project,
    Trained,
    Variant,
    document,
    documents,
    identifier,
    senseless,
    shown,
    text,
)
from worker.net import HubClient

log = logging.getLogger(__name__)

_API = "api/v1"
PRODUCT_INFO = f"{_API}/product_info"
_PAGE = 50
_SUCCESS = "SUCCESS"
_NEVER = datetime.min.replace(tzinfo=UTC)


class Geti2:
    """A server of version 2, as its personal access tokens are told about it."""

    def __init__(self, door: Door, client: HubClient) -> None:
        self._door = door
        self._client = client

    def projects(self) -> Iterator[Project]:
        """Page by page, until the server has shown as many as it says it has, or shows none that is new."""
        seen: set[str] = set()
        while True:
            params = {"limit": _PAGE, "skip": len(seen)}
            page = document(self._ask(f"{self._workspace}/projects", params))
            fresh = [one for one in documents(page.get("projects")) if identifier(one.get("id")) not in seen]
            for one in fresh:
                seen.add(identifier(one["id"]))
                yield Project(id=identifier(one["id"]), name=text(one.get("name")))
            count = page.get("project_counts")
            if not fresh or (isinstance(count, int) and len(seen) >= count):
                return

    def groups(self, project: Project) -> Iterator[Group]:
        """The groups that hold a model. A project that the token may not look into has none."""
        try:
            page = document(self._ask(f"{self._workspace}/projects/{project.id}/model_groups"))
        except SourcePrivateOrMissing:
            log.info("geti.project_closed", extra={"project": project.id})
            return
        for one in documents(page.get("model_groups")):
            models = [_trained(model) for model in documents(one.get("models")) if not _is_purged(model)]
            models.sort(key=_age, reverse=True)
            yield Group(id=identifier(one.get("id")), name=text(one.get("name")), models=tuple(models))

    def model(self, project: Project, group: Group, trained: Trained) -> Model | None:
        """Ask for the model's own page, which has its optimized forms."""
        path = f"{self._workspace}/projects/{project.id}/model_groups/{group.id}/models/{trained.id}"
        found = document(self._ask(path))
        if not _is_ready(found):
            return None
        address = f"{self._door.home}/{path}"
        forms = [form for form in documents(found.get("optimized_models")) if _is_ready(form)]
        return Model(
            project=project,
            group=group,
            id=trained.id,
            name=trained.name,
            version=trained.version,
            created=trained.created,
            base_url=f"{address}/export",
            variants=tuple(_variant(form, address, project, group) for form in forms),
        )

    def check(self) -> None:
        """Ask whose the token is. The version was asked for with it already."""
        _ = self._organization

    @cached_property
    def _organization(self) -> str:
        """The organisation of the token; of several, the oldest, as Geti's own client takes it."""
        found = document(self._ask(f"{_API}/personal_access_tokens/organization"))
        if "organizationId" in found:
            return identifier(found["organizationId"])
        known = documents(found.get("organizations"))
        if not known:
            raise NothingToFetch("The owner of GETI_TOKEN belongs to no organisation", hint="Ask the server's admin.")
        return identifier(min(known, key=lambda one: _time(one.get("organizationCreatedAt"))).get("organizationId"))

    @cached_property
    def _workspace(self) -> str:
        """The path of the workspace: the one that is set, or the only one."""
        path = f"{_API}/organizations/{self._organization}/workspaces"
        known = {
            identifier(one.get("id")): shown(text(one.get("name")))
            for one in documents(document(self._ask(path)).get("workspaces"))
        }
        wanted = self._door.workspace
        if wanted is None and len(known) != 1:
            raise InvalidParameters(
                f"The Geti server has {len(known)} workspaces: {_named(known)}",
                hint="Set GETI_WORKSPACE_ID to the id of one of them.",
            )
        if wanted is not None and wanted not in known:
            raise InvalidParameters(
                f"The Geti server has no workspace with the GETI_WORKSPACE_ID that is set. There are: {_named(known)}",
                hint="Set GETI_WORKSPACE_ID to the id of one of them.",
            )
        return f"{path}/{wanted or next(iter(known))}"

    def _ask(self, path: str, params: Mapping[str, object] | None = None) -> object:
        return answer(self._client.get(path, params=params))


def _trained(found: Document) -> Trained:
    version, created = found.get("version"), found.get("creation_date")
    return Trained(
        id=identifier(found.get("id")),
        name=text(found.get("name")),
        version=str(version) if type(version) is int else None,
        created=created if isinstance(created, str) else None,
        document=found,
    )


def _age(trained: Trained) -> tuple[datetime, int]:
    return _time(trained.created), int(trained.version or 0)


def _time(value: object) -> datetime:
    """A moment; one that nobody can read lies before all others."""
    try:
        found = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        return _NEVER
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _is_purged(found: Document) -> bool:
    purge = found.get("purge_info")
    return isinstance(purge, dict) and bool(purge.get("is_purged"))


def _is_ready(found: Document) -> bool:
    """Whether there are weights. Of base models not every release tells how their training went."""
    return found.get("model_status") in (None, _SUCCESS) and not _is_purged(found)


def _variant(found: Document, model: str, project: Project, group: Group) -> Variant:
    precisions, kind, name = found.get("precision"), found.get("model_format"), identifier(found.get("id"))
    if not isinstance(precisions, list):
        raise senseless()
    around = {"project_id": project.id, "project_name": project.name, "model_group_name": group.name}
    return Variant(
        id=name,
        model_format=text("" if kind is None else kind),
        precisions=tuple(text(one) for one in precisions),
        url=f"{model}/optimized_models/{name}/export",
        fields={**around, "model_group_id": group.id, **found},
    )


def _named(known: Mapping[str, str]) -> str:
    return ", ".join(f"{key} ({name})" for key, name in list(known.items())[:20]) or "none"
