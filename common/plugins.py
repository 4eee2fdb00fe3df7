"""The plugin contract: what a hub or a converter must do, and how it is described without loading it."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import msgspec

from common.errors import InvalidSpec, PluginNotInstalled
from common.spec import Evidence, Manifest, MemoryRule, Progress, Source, Target
from common.vocabulary import Format, ModelType, Precision

O = TypeVar("O", bound=msgspec.Struct)  # noqa: E741 - O for options, as O_contra
O_contra = TypeVar("O_contra", bound=msgspec.Struct, contravariant=True)


Normalise = Callable[
    [ModelType | None, str, Mapping[str, object]], tuple[Precision, dict[str, object], dict[str, object]]
]
"""(type or None, device, config) -> (precision that will be used, options, serving). Raises InvalidSpec."""


class Dossier(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a source before its weights are fetched."""

    source: Source
    revision: str
    sizes: dict[str, int | None]
    """Every file that would be fetched: path -> bytes."""
    documents: dict[str, object] = {}
    """Those of them that the converter's `papers` name, parsed: path -> JSON value. One that is no JSON is absent."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows a conversion of one source at one revision."""

    code: bool = False
    """The repository's own Python code may run."""
    pickles: bool = False
    """Weights may be read from pickles."""
    profiles: tuple[str, ...] = ()
    """The environments that the convert workers have beside their own."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination of a dossier has found."""

    model_type: ModelType
    options: dict[str, object]
    """The options, completed by what only the model itself can tell. Equal wishes give equal ones."""
    companions: dict[str, str] = {}
    """What else the conversion reads: folder below the source -> the name of a model of the same hub."""
    facts: dict[str, str] = {}
    """For people: the task, the architecture, what will do the work."""
    certain: bool = True
    """Whether the small files say that the source fits. Where they do not, only its weights can tell."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion will need and leave, as far as sizes tell. In bytes."""

    peak_memory_bytes: int
    output_bytes: int
    scratch_bytes: int
    """What it writes beside the output, and removes at its end."""


Examine = Callable[[Dossier, Target, Mapping[str, object], Policy], Finding]
"""(dossier, target, options, policy) -> finding. Reads no weights and imports nothing heavy. Raises StageError."""


class TransferLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How hard a transfer may pull. Sizes in bytes, times in seconds."""

    connections: int = 16
    block_bytes: int = 8 * 1024 * 1024
    connect_s: float = 10.0
    read_s: float = 30.0
    stall_s: float = 60.0
    """A transfer that gains no byte for this long has stalled."""
    spare_bytes: int = 512 * 1024 * 1024
    """What must stay free on the volume after a transfer."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers together leave to one transfer at this moment."""

    bytes_per_s: float | None = None
    """At most so fast; None is no limit."""
    silent_s: float = 0.0
    """Ask the hub for nothing during the next seconds: it has told some worker to wait."""


class NetworkRules(msgspec.Struct, frozen=True, kw_only=True):
    """How one hub may be reached."""

    proxy: str | None = None
    """The proxy for this hub; without one the environment says (HTTPS_PROXY, NO_PROXY)."""
    ca_bundle: str | None = None
    """A file with the certificates to trust, instead of the system's."""
    private_hosts: frozenset[str] = frozenset()
    """Hosts, as `name` or `name:port`, that may have an address inside a private network."""
    heard: Callable[[int | None], None] | None = None
    """Is told the status of each answer of the hub, or of where it leads, and None where there was no answer."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The settings and credentials that a plugin's descriptor names, and no others."""

    settings: dict[str, str] = {}
    secrets: dict[str, str] = {}
    network: NetworkRules = NetworkRules()
    given: frozenset[str] = frozenset()
    """Those of them that the request brought. What they name is not what the operator trusts."""

    def __repr__(self) -> str:
        return f"Access(settings={sorted(self.settings)}, secrets={sorted(self.secrets)}, given={sorted(self.given)})"


class ConfigKey(msgspec.Struct, frozen=True, kw_only=True):
    """A setting or credential of a hub that a request may bring along instead of the operator's."""

    name: str
    description: str
    sensitive: bool = True
    required: bool = False
    group: str | None = None
    """Keys of one group come together, or not at all."""
    narrows: bool = False
    """Whether a request's value only restricts the operator's: the hub finds it beside that, as REQUESTED_<name>."""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which models of a hub to list. The filters are those that its descriptor names."""

    filters: dict[str, object] = {}
    limit: int = 50
    offset: int = 0


class ListItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that a hub offers. `name` is what a download is asked for by."""

    name: str
    owner: str | None = None
    precisions: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    model_type: str | None = None
    last_modified: str | None = None
    """ISO 8601."""
    metadata: dict[str, object] | None = None
    license: str | None = None
    gated: bool | str | None = None
    requires_token: bool | None = None


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a hub's models, at most as many as were asked for."""

    items: tuple[ListItem, ...]
    has_more: bool
    total: int | None = None
    """None where the hub does not tell."""


class Attempt(Protocol):
    """All that a plugin may do to the world outside its own library."""

    @property
    def workspace(self) -> Path:
        """A private directory on the volume of the models; a second attempt may find the first one's files in it."""

    @property
    def parts(self) -> Path:
        """Where unfinished content waits, named by its digest; shared by all attempts on this volume."""

    @property
    def limits(self) -> TransferLimits:
        """How hard a transfer may pull."""

    def allowance(self) -> Allowance:
        """What this transfer may do now. Changes while it runs: ask every second or so. Cheap."""

    def hub_asks_to_wait(self, wait_s: float) -> None:
        """Tell all workers that the hub wants no request during the next seconds, as a 429 says."""

    def stored(self, sha256: str) -> Path | None:
        """The verified, read-only copy of this content, where the content store has one."""

    def store(self, file: Path, sha256: str) -> Path:
        """Move a file that was verified to have this sha256 into the content store. Safe to repeat."""

    def link(self, sha256: str, path: str) -> Path:
        """Show stored content at `path` (relative) in the workspace. Safe to repeat."""

    def finished(self, file: Path, sha256: str | None = None) -> None:
        """Say that nobody will change this file any more: its digest is computed while the work goes on.

        Whoever wrote the file may have computed it already. Any thread may call.
        """

    def progress(self, progress: Progress) -> None:
        """Report how far the work is. Cheap: call it as often as you like."""

    def checkpoint(self) -> None:
        """Raise JobCancelled if the user has changed their mind."""


class Hub(Protocol[O_contra]):
    """A remote place where models live. Made anew for each attempt, with the access it asked for."""

    def resolve(self, source: Source, options: O_contra) -> Manifest:
        """Pin a source to an immutable revision and list the files to fetch. Moves no weights.

        Raises StageError: SourceNotFound, SourcePrivateOrMissing, SourceGated, RevisionNotFound, TokenInvalid,
        RateLimited, HubUnavailable, SourceUnsafe, NothingToFetch, ...
        """

    def fetch(self, manifest: Manifest, options: O_contra, attempt: Attempt) -> tuple[str, ...] | None:
        """Bring every file of the manifest into the workspace, verified. Safe to repeat.

        Returns the paths of the files that make the model, where these are not just the manifest's: what an archive
        held, say. Raises StageError, or JobCancelled from `attempt.checkpoint`.
        """


class ListingHub(Protocol):
    """What a hub with `listing_filters` can do, too."""

    def list(self, query: ListQuery) -> ListPage:
        """Some of the hub's models, in an order that stays. Raises StageError."""


class GuardedHub(Protocol):
    """What a hub with `checks_credentials` can do, too."""

    def check_credentials(self) -> None:
        """Return if the hub knows the credentials that it was made with.

        Raises TokenInvalid where it does not, HubUnavailable where nobody can tell.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Generic[O]):
    """One form that a model is wanted in. Its target names a type, and its options are complete."""

    target: Target
    options: O
    folder: Path
    """Where the files of the result go: a directory of the workspace that the converter makes."""
    from_base: bool = False
    """Whether the model at hand is not the source, but the form of it that the plugin's `base` names."""


class Converter(Protocol[O]):
    """A tool that brings a fetched model into other forms."""

    def convert(self, model: Path, orders: Sequence[Order[O]], attempt: Attempt) -> tuple[Evidence | None, ...]:
        """Read the fetched files at `model`, write the converted ones, and prove that they run.

        The first order must be fulfilled; the others come along where that is cheap, and are None where they do not.
        Raises StageError: UnsupportedModel, InvalidParameters, OutOfMemory, ConversionFailed, OutputIncomplete,
        VerificationFailed, RemoteCodeRefused.
        """

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        """Write into the model's folder what a model server wants beside the model. Safe to repeat."""

    def register(self, folder: Path, name: str) -> None:
        """List the model in the index that a model server reads in this folder of models. Safe to repeat.

        The caller holds the folder's lock. Raises PublicationRefused when the index cannot be read.
        """

    def versions(self, options: O) -> dict[str, str]:
        """The tools whose versions decide the bytes of a result, for cache keys and manifests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlugin(Generic[O]):
    """What may be asked of a hub. Light: the API imports this, never the hub itself."""

    name: str
    description: str
    options: type[O]
    formats: frozenset[Format]
    implementation: str
    """`module:Class`; the class takes one argument, an Access."""
    extra: str | None = None
    origin: str | None = None
    """The hub that holds the bytes, where this one is another name for part of it."""
    folder: str | None = None
    """The directory below the requested one; the plugin's name where not given."""
    name_pattern: str = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?"
    """What a model's name looks like at this hub. A name becomes part of a path, so keep it strict."""
    preset: Mapping[str, object] = field(default_factory=dict)
    """Options of a plain download through this hub, unless the request says otherwise."""
    settings: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    config_keys: tuple[ConfigKey, ...] = ()
    """What a request may bring along instead of the operator's `settings` and `secrets`."""
    checks_credentials: bool = False
    """Whether the hub is a GuardedHub."""
    listing_filters: frozenset[str] | None = None
    """The filters of a listing; None where the hub is no ListingHub."""
    several: frozenset[str] | None = None
    """None where a request names one model. Otherwise it may name some, with commas, or use one of these words."""
    place: Callable[[str, str | None, O], str] | None = None
    """(name, revision, options) -> the model's folder, relative to the requested one; for a hub with its own rules."""
    shows_folder: bool = False
    """Whether a result names the model's own folder, and not the hub's."""
    finish: Callable[[str, O], str | None] | None = None
    """(name, options) -> the converter that makes the model's usual form of what is fetched, if one has to."""
    opt_in: bool = False
    """Offered only where the operator names it: `all` does not mean it."""

    def bind(self, raw: Mapping[str, object]) -> O:
        """Check the options of a request. Raises InvalidSpec on an ill-typed one.

        Keys that the options do not name are kept in their `extra` field, where they have one.
        """
        known = set(self.options.__struct_fields__)
        extra = {key: value for key, value in raw.items() if key not in known}
        named = {key: value for key, value in raw.items() if key in known and value is not None}
        if extra and "extra" in known:
            given = named.get("extra", {})
            if not isinstance(given, dict):
                raise InvalidSpec(f"Option 'extra' of hub '{self.name}' must be an object")
            named["extra"] = {**given, **extra}
        elif extra:
            raise InvalidSpec(f"Hub '{self.name}' has no option '{min(extra)}'")
        return _bind(self.name, self.options, named)

    def names_several(self, name: str) -> bool:
        """Whether this is not the name of one model."""
        return self.several is not None and ("," in name or name in self.several)

    def load(self, access: Access) -> Hub[O]:
        """Import and make the hub; inside a worker only. Raises PluginNotInstalled."""
        return cast("Hub[O]", _load(self.implementation, self.name, self.extra)(access))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverterPlugin(Generic[O]):
    """What may be asked of a converter. Its fields are data: planning, docs and pages read the same ones."""

    name: str
    description: str
    options: type[O]
    """What decides the converted bytes."""
    serving: type[msgspec.Struct]
    """What a model server is told about the model; it does not change the converted bytes."""
    normalise: Normalise
    """Sort a client's config into what decides the bytes and what a model server is told."""
    reads: frozenset[Format]
    writes: Format
    model_types: frozenset[ModelType]
    precisions: frozenset[Precision]
    implementation: str
    """`module:Class`; the class takes one argument, an Access."""
    extra: str | None = None
    preload: tuple[str, ...] = ()
    """Modules that a convert worker's fork server imports at start."""
    fragile: tuple[str, ...] = ()
    """Modules that may be absent, but break the converter where they are installed and cannot be imported."""
    settings: frozenset[str] = frozenset()
    memory: Callable[[Target, Mapping[str, object]], MemoryRule] | None = None
    """(target, options) -> what is kept free for a conversion before it starts."""
    papers: tuple[str, ...] = ()
    """Patterns of the small files that `examine` reads; they are fetched first."""
    examine: Examine | None = None
    """Find out whether and how a source can be converted; without it, every one of a known type is worth a try."""
    ready_made: Callable[[Source, Target, Mapping[str, object]], str | None] | None = None
    """(source, target, options) -> the one repository of the same hub that may hold this very result already."""
    predict: Callable[[Dossier, Target, Mapping[str, object]], Prediction] | None = None
    """(dossier, target, options) -> what the conversion will need."""
    data: Callable[[Mapping[str, object]], str | None] | None = None
    """options -> the path below MODELS_DIR of other data that they read. Its digest becomes option `dataset_sha256`."""
    finishes: bool = False
    """Whether this only finishes what one hub delivers, and cannot be asked for by itself."""
    opt_in: bool = False
    """Offered only where the operator names it: `all` does not mean it."""
    base: Callable[[Target, Mapping[str, object]], tuple[Target, dict[str, object]] | None] | None = None
    """(target, options) -> another form (target, options) of which this one can be made, too; or None."""
    together: Callable[[Target, Mapping[str, object]], bool] | None = None
    """(target, options) -> whether this order may come along with others of the same source."""

    def bind(self, raw: Mapping[str, object]) -> O:
        """Check the options that decide the bytes. Raises InvalidSpec on an unknown or ill-typed one."""
        return _bind(self.name, self.options, raw)

    def bind_serving(self, raw: Mapping[str, object]) -> msgspec.Struct:
        """Check the options for the model server. Raises InvalidSpec on an unknown or ill-typed one."""
        return _bind(self.name, self.serving, raw)

    def suits(self, fetched: frozenset[Format], target: Target) -> bool:
        """Whether this converter can make `target` out of what a hub delivers."""
        return bool(
            self.reads & fetched
            and self.writes is target.format
            and (target.model_type is None or target.model_type in self.model_types)
            and target.precision in self.precisions
        )

    def load(self, access: Access) -> Converter[O]:
        """Import and make the converter; inside a worker only. Raises PluginNotInstalled."""
        return cast("Converter[O]", _load(self.implementation, self.name, self.extra)(access))


def _bind(plugin: str, options: type[O], raw: Mapping[str, object]) -> O:
    try:
        return msgspec.convert(dict(raw), options, strict=False)
    except msgspec.ValidationError as error:
        msg = f"Invalid option for '{plugin}': {error}"
        raise InvalidSpec(msg) from error


def missing_libraries(extra: str | None) -> str:
    """What to do where a plugin's libraries are not there."""
    named = f"modelferry[{extra}]" if extra else "its libraries"
    return f"Install {named} in the worker's environment."


def _load(implementation: str, plugin: str, extra: str | None) -> type:
    module, _, name = implementation.partition(":")
    try:
        return cast("type", getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        msg = f"Plugin '{plugin}' cannot be loaded here: no module named '{error.name}'"
        raise PluginNotInstalled(msg, hint=missing_libraries(extra)) from error
