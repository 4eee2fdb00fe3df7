"""Which export a request means: the first model of the name that has what is wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.catalog.geti import GetiOptions
from common.errors import RevisionNotFound, SourceNotFound, StageError
from common.spec import Source
from worker.hubs.geti.values import Group, Model, Project, Server, Trained, Variant, shown

_MOST_NAMED = 30
BASE = "base"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be exported. Without a variant it is the weights as they were trained."""

    model: Model
    variant: Variant | None
    ignored: tuple[str, ...] = ()
    """Filters of the request that no candidate knows."""


def find(server: Server, source: Source, options: GetiOptions) -> Choice:
    """Look through all projects in order. Raises SourceNotFound and RevisionNotFound."""
    search = _Search(source, options)
    for project in server.projects():
        for group in server.groups(project):
            choice = search.look(server, project, group)
            if choice is not None:
                return choice
    raise search.failure()


def fits(value: object, wanted: object) -> bool:
    """Whether a candidate's value is what a filter wants. Words are equal in any case; a list has what it holds."""
    if isinstance(value, list) and not isinstance(wanted, list):
        return any(_is_equal(one, wanted) for one in value)
    return _is_equal(value, wanted)


def is_precision(variant: Variant, precision: str) -> bool:
    """Whether a form has this precision, in any case."""
    return any(fits(one, precision) for one in variant.precisions)


@dataclass(slots=True)
class _Search:
    """One walk over a server, and what it has met on its way."""

    source: Source
    options: GetiOptions
    known_filters: set[str] = field(default_factory=set)
    versions: list[str] = field(default_factory=list)
    """Of models of the name that are of another version than the wanted one."""
    forms: list[str] = field(default_factory=list)
    """What there is of models of the name."""

    def look(self, server: Server, project: Project, group: Group) -> Choice | None:
        """What this group has of what is wanted."""
        if self.options.model_group_id not in {None, group.id}:
            return None
        model = self._model(server, project, group)
        if model is None:
            return None
        choice = self._choice(model)
        if choice is None:
            base = [BASE] if model.base_url else []
            self.forms += [name for name in [*map(str, model.variants), *base] if name not in self.forms]
        return choice

    def failure(self) -> StageError:
        """Why nothing was found, and what there is instead."""
        name, options = self.source.name, self.options
        if self.forms:
            wanted = BASE if options.export_type == BASE else f"{options.model_format} {options.precision.upper()}"
            further = [*(["optimized_model_id"] if options.optimized_model_id else []), *sorted(self.known_filters)]
            narrowed = f" with the wanted {', '.join(further)}" if further else ""
            return SourceNotFound(
                f"'{name}' has no export {wanted}{narrowed}. There are: {_listed(self.forms)}",
                hint="Change precision, model_format or export_type in 'config', or export the model in Geti.",
            )
        if self.versions:
            return RevisionNotFound(
                f"'{name}' has no version '{self.source.revision}'. There are: {_listed(self.versions)}",
                hint="Give the number or the id of one of these versions as revision, or none for the latest.",
            )
        where = f" in model group '{options.model_group_id}'" if options.model_group_id else ""
        return SourceNotFound(
            f"No model that can be exported is named '{name}'{where} on the Geti server",
            hint="Give the name of a model, not of its project, and check GETI_WORKSPACE_ID.",
        )

    def _model(self, server: Server, project: Project, group: Group) -> Model | None:
        """The newest model of the group that has the name and can be used."""
        for trained in group.models:
            if not fits(trained.name, self.source.name):
                continue
            if not self._is_wanted(trained):
                self.versions.append(_version(trained))
                continue
            model = server.model(project, group, trained)
            if model is not None:
                return model
        return None

    def _is_wanted(self, trained: Trained) -> bool:
        wanted = self.source.revision
        if wanted is None or wanted in {trained.id, trained.version}:
            return True
        # What a result calls the revision begins with the model's id.
        return wanted.startswith(f"{trained.id}.")

    def _choice(self, model: Model) -> Choice | None:
        if self.options.export_type == BASE:
            return Choice(model, None) if model.base_url else None
        candidates = [variant for variant in model.variants if self._is_candidate(variant)]
        filters = self.options.filters
        self.known_filters |= {name for name in filters if any(_has(one, name) for one in candidates)}
        for variant in candidates:
            if all(fits(variant.fields.get(name), filters[name]) for name in self.known_filters):
                return Choice(model, variant, tuple(name for name in filters if name not in self.known_filters))
        return None

    def _is_candidate(self, variant: Variant) -> bool:
        options = self.options
        return (
            options.optimized_model_id in {None, variant.id}
            and variant.model_format == options.model_format
            and is_precision(variant, options.precision)
        )


def _is_equal(value: object, wanted: object) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return value.casefold() == wanted.casefold()
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _has(variant: Variant, name: str) -> bool:
    fields: Mapping[str, object] = variant.fields
    return fields.get(name) is not None


def _version(trained: Trained) -> str:
    return trained.id if trained.version is None else f"{shown(trained.version)} ({trained.id})"


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
