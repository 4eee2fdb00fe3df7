"""From a wish to a job's chain of stages, and to the keys under which equal wishes share work. Pure."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from common.addresses import without_logins
from common.errors import InvalidSpec, PluginUnavailable, SourceUnsafe
from common.plugins import ConverterPlugin, HubPlugin
from common.spec import Destination, JobSpec, MemoryRule, Question, Source, Spec, Target, check_file_path
from common.vocabulary import Format, ModelType, Operation, Pool, Precision, Priority, StageKind

OVMS_CONVERTER = "openvino"
"""The converter that `is_ovms` of the wire contract means; where it is not enabled, another that writes the same."""

PULLED_FROM = "pulled_from"
"""The key in a plan's result that names the repository to fetch instead."""
COMPANIONS = "companions"
"""The key in a plan's result that names what is to be fetched beside the source."""

FACTS = "told"
"""The key in a fetch's result that names what a client is told of it in the end."""

_NESTED = "openvino_config"
_REQUIRE_IR = "require_ir"
_MODEL_TYPE = "model_type"
"""The option of a hub that wants to know what a model is for."""
_ANY_DEVICE = "CPU"
"""What a conversion is made for: the device decides what a server is told, and by NPU's rules the options, but the
same options make the same bytes for every device."""
_DEVICE = re.compile(r"CPU|GPU|NPU|HETERO:(CPU|GPU|NPU)(\.\d+)?(,(CPU|GPU|NPU)(\.\d+)?)*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,199}", re.ASCII)


class Wish(Spec, frozen=True):
    """What a client asked for, decoded but not yet judged. `root` is relative to MODELS_DIR."""

    name: str
    hub: str
    root: str
    model_type: ModelType | None = None
    convert: bool = False
    revision: str | None = None
    priority: Priority = Priority.NORMAL
    config: dict[str, object] = {}
    credentials: dict[str, str] = {}
    """What the request brought instead of the operator's own: name -> value."""
    checked: bool = False
    """Whether the hub is to say what it makes of the credentials before a job is made."""
    folder: str = ""
    """Of a conversion for an application that is no model server: where it looks for the model, below `root`."""

    def __repr__(self) -> str:
        return f"Wish({self.hub}: {self.name!r})"


class FetchWork(Spec, frozen=True, omit_defaults=True):
    """Bring a source into the content store. Without companions it has the name it had before there were any."""

    hub: str
    source: Source
    options: dict[str, object]
    companions: dict[str, str] = {}
    """Other models of the hub that belong to it: folder below the source -> name."""
    secret: str | None = None
    """The name of the request's own credentials. It tells this work from that of jobs with others, or with none."""


class Aim(Spec, frozen=True):
    """What a source is fetched for, so that one that will not do is refused before its weights are moved."""

    converter: str
    target: Target
    options: dict[str, object]
    ready_made: str | None = None
    """The one repository that may hold the very result already; it is fetched instead, where it does."""


class PlanWork(Spec, frozen=True):
    """Find out what a source is and whether it will do, before anything large is moved."""

    fetch: FetchWork
    destination: Destination
    aim: Aim | None = None


class ConvertWork(Spec, frozen=True):
    """Bring a fetched artefact into another form."""

    converter: str
    source: Source
    target: Target
    options: dict[str, object]


class PublishWork(Spec, frozen=True):
    """Show an artefact at its destination."""

    hub: str
    source: Source
    destination: Destination
    converter: str | None = None
    target: Target | None = None
    serving: dict[str, object] = {}
    parted: bool = False
    """Whether each folder of the artefact is a model of its own, to be shown in a folder of the destination's."""


class AskWork(Spec, frozen=True, omit_defaults=True):
    """Ask a hub something while a client waits for the answer."""

    hub: str
    question: Question
    secret: str | None = None


Work = AskWork | PlanWork | FetchWork | ConvertWork | PublishWork
WORK_TYPES: dict[StageKind, type[Work]] = {
    StageKind.ASK: AskWork,
    StageKind.PLAN: PlanWork,
    StageKind.FETCH: FetchWork,
    StageKind.CONVERT: ConvertWork,
    StageKind.PUBLISH: PublishWork,
}


class StagePlan(Spec, frozen=True):
    """One link of a job's chain."""

    kind: StageKind
    pool: Pool
    work: dict[str, object]
    hub: str = ""
    """Whom a fetch asks."""
    memory: MemoryRule | None = None
    together: bool = False
    """Whether it may come along with others that make something of the same artefact."""


class Offer(Protocol):
    """The plugins that may be asked; the catalog is one."""

    @property
    def converters(self) -> Mapping[str, ConverterPlugin[Any]]: ...
    def hub(self, name: str) -> HubPlugin[Any]: ...
    def converter(self, name: str) -> ConverterPlugin[Any]: ...


def require_plugins(wish: Wish, offer: Offer) -> None:
    """Raise PluginUnavailable unless everything that the wish needs is offered.

    The converter comes first: where hub and converter go by one name, the client hears of the conversion it wants.
    """
    if wish.convert:
        _converter(offer)
    offer.hub(wish.hub)


def plan(wish: Wish, offer: Offer) -> JobSpec:
    """Judge a wish. Raises PluginUnavailable or InvalidSpec; after this only the world can make it fail."""
    require_plugins(wish, offer)
    hub = offer.hub(wish.hub)
    _check_name(wish, hub)
    if wish.convert:
        return _conversion(wish, hub, offer)
    return _download(wish, hub, offer)


def inquiry(hub: HubPlugin[Any], question: Question) -> JobSpec:
    """A job that only asks the hub something."""
    return JobSpec(
        hub=hub.name,
        operation=Operation.ASK,
        source=Source(hub=hub.origin or hub.name, name=""),
        model_type=None,
        target=None,
        converter=None,
        destination=Destination(root="", folder=""),
        hub_options={},
        converter_options={},
        serving_options={},
        question=question,
    )


def secret_of(kind: StageKind, work: Mapping[str, object]) -> str | None:
    """The name of the request's own credentials that a stage needs, if any: only what asks a hub does."""
    # Looked up, not converted: work that cannot be read shall fail where it is run, with an outcome.
    asking = {StageKind.PLAN: work.get("fetch"), StageKind.FETCH: work, StageKind.ASK: work}.get(kind)
    secret = asking.get("secret") if isinstance(asking, Mapping) else None
    return secret if isinstance(secret, str) else None


def stages(spec: JobSpec, found: Mapping[str, object] | None = None) -> tuple[StagePlan, ...]:
    """The chain of stages that fulfils a spec, in order. `found` is the result of its plan, once that is known."""
    source, target = spec.source, spec.target
    if spec.question is not None:
        ask = AskWork(hub=spec.hub, question=spec.question, secret=spec.secret)
        return (_link(StageKind.ASK, Pool.DOWNLOAD, ask, hub=source.hub),)
    fetch = FetchWork(hub=spec.hub, source=source, options=spec.hub_options, secret=spec.secret)
    chain = []
    if spec.examined or spec.operation is Operation.PLAN:
        work = PlanWork(fetch=fetch, destination=spec.destination, aim=_aim(spec))
        chain.append(_link(StageKind.PLAN, Pool.DOWNLOAD, work, hub=source.hub))
    if spec.operation is Operation.PLAN:
        return tuple(chain)
    if found is not None:
        fetch = _as_found(fetch, found)
    chain.append(_link(StageKind.FETCH, Pool.DOWNLOAD, fetch, hub=source.hub))
    publish_pool = Pool.DOWNLOAD
    if spec.finisher is not None:
        chain.append(_link(StageKind.CONVERT, Pool.CONVERT, _finish(spec, spec.finisher), memory=spec.memory))
    if target is not None and spec.converter is not None:
        made = msgspec.structs.replace(target, device=_ANY_DEVICE)
        convert = ConvertWork(converter=spec.converter, source=source, target=made, options=spec.converter_options)
        chain.append(_link(StageKind.CONVERT, Pool.CONVERT, convert, memory=spec.memory, together=spec.together))
        # The convert worker has the converter's library at hand, which writes the serving files.
        publish_pool = Pool.CONVERT if spec.served else Pool.DOWNLOAD
    publish = PublishWork(
        hub=spec.hub,
        source=source,
        destination=spec.destination,
        converter=spec.converter if spec.served else None,
        target=target,
        serving=spec.serving_options,
        parted=spec.parted,
    )
    chain.append(_link(StageKind.PUBLISH, publish_pool, publish))
    return tuple(chain)


def _finish(spec: JobSpec, converter: str) -> ConvertWork:
    """The conversion that belongs to a download. Its options say all; the target only names what comes out."""
    target = _finished(spec.model_type)
    return ConvertWork(converter=converter, source=spec.source, target=target, options=spec.converter_options)


def _finished(model_type: ModelType | None) -> Target:
    return Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.FP32, device=_ANY_DEVICE)


def _as_found(fetch: FetchWork, found: Mapping[str, object]) -> FetchWork:
    """What is to be fetched by the words of a plan."""
    companions, ready = found.get(COMPANIONS), found.get(PULLED_FROM)
    if isinstance(companions, dict):
        fetch = msgspec.structs.replace(fetch, companions=companions)
    return fetch if ready is None else ready_made_fetch(fetch, str(ready))


def ready_made_fetch(fetch: FetchWork, repository: str) -> FetchWork:
    """Fetch from the repository that may hold the converted model, which must then be there in that form."""
    source = Source(hub=fetch.source.hub, name=repository)
    return msgspec.structs.replace(fetch, source=source, options={**fetch.options, _REQUIRE_IR: True})


def _aim(spec: JobSpec) -> Aim | None:
    if spec.target is None or spec.converter is None:
        return None
    return Aim(converter=spec.converter, target=spec.target, options=spec.converter_options, ready_made=spec.ready_made)


def _link(
    kind: StageKind,
    pool: Pool,
    work: Work,
    *,
    hub: str = "",
    memory: MemoryRule | None = None,
    together: bool = False,
) -> StagePlan:
    return StagePlan(kind=kind, pool=pool, work=msgspec.to_builtins(work), hub=hub, memory=memory, together=together)


def work_key(kind: StageKind, work: dict[str, object], artefact: str | None) -> str:
    """The name of a piece of work: two stages with one key would do the same thing to the same content.

    The plugin through which a source is fetched does not count: two hubs may be two doors to one place.
    """
    counted = {name: value for name, value in work.items() if kind is not StageKind.FETCH or name != "hub"}
    canonical = msgspec.json.encode([kind, artefact, counted], order="deterministic")
    return f"{kind}-{hashlib.sha256(canonical).hexdigest()[:40]}"


def flatten(config: Mapping[str, object]) -> dict[str, object]:
    """A conversion's config with its `openvino_config` object laid underneath: flat keys win, None is no value."""
    flat = {key: value for key, value in config.items() if value is not None and key != _NESTED}
    nested = config.get(_NESTED)
    if nested is None:
        return flat
    if not isinstance(nested, Mapping):
        raise InvalidSpec(f"'{_NESTED}' must be an object")
    return {str(key): value for key, value in nested.items() if value is not None} | flat


def device_slug(device: str) -> str:
    """The path segment of a device: `HETERO:GPU,CPU` -> `hetero_gpu_cpu`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", device).lower()


def _download(wish: Wish, hub: HubPlugin[Any], offer: Offer) -> JobSpec:
    given = {**hub.preset, **wish.config}
    if _MODEL_TYPE in hub.options.__struct_fields__:
        given[_MODEL_TYPE] = wish.model_type
    options = hub.bind(given)
    shelf = hub.folder or hub.name
    parted = hub.names_several(wish.name)
    folder = shelf if parted else _folder(wish, hub, options)
    finisher = hub.finish(wish.name, options) if hub.finish else None
    finish = offer.converter(finisher) if finisher else None
    return JobSpec(
        hub=hub.name,
        operation=Operation.DOWNLOAD,
        source=_source(wish, hub),
        model_type=wish.model_type,
        target=None,
        converter=None,
        destination=Destination(root=wish.root, folder=folder),
        hub_options=msgspec.to_builtins(options),
        converter_options=msgspec.to_builtins(finish.bind(msgspec.to_builtins(options))) if finish else {},
        serving_options={},
        memory=_finishing_memory(wish, finish, options),
        finisher=finisher,
        parted=parted,
        shelf=folder if hub.shows_folder else shelf,
        priority=wish.priority,
        config=without_logins(wish.config),
    )


def _folder(wish: Wish, hub: HubPlugin[Any], options: msgspec.Struct) -> str:
    """Where one model belongs, below the requested directory."""
    if hub.place is None:
        return f"{hub.folder or hub.name}/{wish.name.replace('/', '_')}"
    folder = hub.place(wish.name, wish.revision, options)
    try:
        return check_file_path(folder)
    except SourceUnsafe as error:
        raise InvalidSpec(f"No folder can be made of {folder[:200]!r}") from error


def _finishing_memory(wish: Wish, finish: ConverterPlugin[Any] | None, options: msgspec.Struct) -> MemoryRule | None:
    if finish is None or finish.memory is None:
        return None
    return finish.memory(_finished(wish.model_type), msgspec.to_builtins(options))


def _conversion(wish: Wish, hub: HubPlugin[Any], offer: Offer) -> JobSpec:
    converter = _converter(offer)
    fetched = hub if hub.origin is None else None
    if fetched is not None and not fetched.formats & converter.reads:
        raise InvalidSpec(
            f"Models of hub '{hub.name}' cannot be converted. Set is_ovms to false to download them as they are, "
            f"or name a hub whose models can be converted, such as 'openvino' or 'huggingface'."
        )
    model_type = _model_type(wish, converter)
    config = flatten(wish.config)
    device = _device(config)
    about_source = {key: value for key, value in config.items() if key in hub.options.__struct_fields__}
    only_source = about_source.keys() - set(converter.options.__struct_fields__)
    about_target = {key: value for key, value in config.items() if key not in only_source}
    precision, recipe, serving = converter.normalise(model_type, device, about_target)
    target = Target(format=Format.OPENVINO, model_type=model_type, precision=precision, device=device)
    options = msgspec.to_builtins(converter.bind(recipe))
    source = _source(wish, hub)
    folder = wish.folder or f"openvino_models/{device_slug(device)}/{precision}/{wish.name}"
    return JobSpec(
        hub=hub.name,
        operation=Operation.CONVERT,
        source=source,
        model_type=model_type,
        target=target,
        converter=converter.name,
        destination=Destination(root=wish.root, folder=folder),
        hub_options=msgspec.to_builtins(hub.bind(about_source)),
        converter_options=options,
        serving_options={} if wish.folder else msgspec.to_builtins(converter.bind_serving(serving)),
        served=not wish.folder,
        shelf=wish.folder,
        memory=converter.memory(target, options) if converter.memory else None,
        examined=converter.examine is not None,
        ready_made=converter.ready_made(source, target, options) if converter.ready_made else None,
        together=bool(converter.together and converter.together(target, options)),
        priority=wish.priority,
        config=without_logins(wish.config),
    )


def _converter(offer: Offer) -> ConverterPlugin[Any]:
    """The converter that `is_ovms` gets. Raises PluginUnavailable with the text that clients know."""
    able = [
        name for name, plugin in offer.converters.items() if plugin.writes is Format.OPENVINO and not plugin.finishes
    ]
    if able and OVMS_CONVERTER not in able:
        return offer.converter(able[0])
    try:
        return offer.converter(OVMS_CONVERTER)
    except PluginUnavailable as error:
        raise PluginUnavailable(f"OpenVINO conversion requested but plugin is not available: {error}") from error


def _device(config: Mapping[str, object]) -> str:
    named = str(config.get("device") or config.get("target_device") or "CPU").strip().upper()
    if not _DEVICE.fullmatch(named):
        raise InvalidSpec(f"Invalid device '{named[:40]}'. Use CPU, GPU, NPU, or HETERO:<dev>[,<dev>...].")
    return named


def _model_type(wish: Wish, converter: ConverterPlugin[Any]) -> ModelType | None:
    known = ", ".join(sorted(converter.model_types))
    if wish.model_type is None:
        if converter.examine is None:
            raise InvalidSpec(f"A conversion needs 'type', one of: {known}.")
        return None
    if wish.model_type not in converter.model_types:
        raise InvalidSpec(
            f"Invalid model_type: {wish.model_type.value}. It cannot be converted; types that can: {known}."
        )
    return wish.model_type


def _source(wish: Wish, hub: HubPlugin[Any]) -> Source:
    return Source(hub=hub.origin or hub.name, name=wish.name, revision=wish.revision)


def _check_name(wish: Wish, hub: HubPlugin[Any]) -> None:
    word = hub.several is not None and wish.name in hub.several
    names = wish.name.split(",") if hub.several is not None else [wish.name]
    fits = all(re.fullmatch(hub.name_pattern, name, re.ASCII) and ".." not in name for name in names)
    if not (word or fits) or len(set(names)) < len(names):
        raise InvalidSpec(f"Invalid model name for hub '{hub.name}': {wish.name[:200]!r}")
    revision = wish.revision
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision or revision.endswith("/")):
        raise InvalidSpec(f"Invalid revision: {revision[:200]!r}")
