"""The values that describe a wish: which model, in which form, to which place. Frozen and closed."""

import re
import unicodedata
from pathlib import PurePosixPath

import msgspec

from common.errors import SourceUnsafe
from common.vocabulary import DigestAlgorithm, Format, ModelType, Operation, Phase, Precision, Priority

MANIFEST_NAME = ".modelferry.json"

_HEX_LENGTH = {DigestAlgorithm.SHA256: 64, DigestAlgorithm.SHA384: 96, DigestAlgorithm.GIT_SHA1: 40}
_MAX_PART_BYTES = 255
_MAX_PATH_BYTES = 1024
_LARGEST_FILE_BYTES = 8 * 1024**4


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all closed values."""


class Digest(Spec, frozen=True):
    """The name of some content: algorithm and lower-case hex."""

    algorithm: DigestAlgorithm
    value: str

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"[0-9a-f]{{{_HEX_LENGTH[self.algorithm]}}}", self.value):
            msg = f"'{self.value[:80]!r}' is not a {self.algorithm} digest"
            raise SourceUnsafe(msg)


class RemoteFile(Spec, frozen=True):
    """One file of a source. `path` is relative, with '/', and has passed `check_file_path`."""

    path: str
    size: int | None
    digest: Digest | None
    url: str

    def __post_init__(self) -> None:
        if self.size is not None and not 0 <= self.size <= _LARGEST_FILE_BYTES:
            raise SourceUnsafe(f"The hub lists an impossible size for {self.path[:200]!r}")


class Source(Spec, frozen=True):
    """Which model: hub, name, and the revision as the user gave it (None is the hub's default)."""

    hub: str
    name: str
    revision: str | None = None


class Manifest(Spec, frozen=True):
    """A source pinned to an immutable revision, with its files."""

    source: Source
    revision: str
    format: Format
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    made_of: tuple[str, ...] = ()
    """The models that this one was made of, by its own words."""
    companions: dict[str, str] = {}
    """Other models whose files are among these: folder -> `name@revision`."""
    facts: dict[str, object] = {}
    """What a client is told in the job's result beside what is true of every model: names of the contract's keys."""

    @property
    def total_bytes(self) -> int | None:
        """The sum of all sizes, or None when the hub does not tell one of them."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class Target(Spec, frozen=True):
    """Which form is wanted. `device` is upper case: CPU, GPU, NPU or HETERO:a,b."""

    format: Format
    model_type: ModelType | None
    """None is whatever the model turns out to be."""
    precision: Precision
    device: str


class Destination(Spec, frozen=True):
    """Where a model is published: MODELS_DIR/root/folder.

    `root` is the directory the client asked for, `folder` the model's own directory below it.
    """

    root: str
    folder: str


class MemoryRule(Spec, frozen=True):
    """How much memory a conversion will need at its peak, from the size of what it reads. In bytes."""

    base_bytes: int
    per_byte: float

    def peak_bytes(self, source_bytes: int) -> int:
        """The prediction for a source of this size."""
        return self.base_bytes + int(self.per_byte * source_bytes)


class Similarity(Spec, frozen=True):
    """How much a converted model's answers resemble those of its source, over a few inputs. 1 is equal."""

    measure: str
    """`cosine`; `top1`: how often the likeliest token is the same; `kl`: the exponential of minus the divergence."""
    value: float
    samples: int


class Evidence(Spec, frozen=True):
    """How a conversion went, and what was seen of its result."""

    engine: str
    """What did the work, such as `fast` or `strict`."""
    profile: str
    """The Python environment that did it."""
    forms: int = 1
    """How many precisions came from the same load and trace of the source."""
    seconds: dict[str, float] = {}
    """How long each step took."""
    peak_memory_bytes: int = 0
    """The most memory that the process had, the libraries included; of all that it made in one go."""
    checks: tuple[str, ...] = ()
    """What was proven, in words."""
    similarity: Similarity | None = None


class Listing(Spec, frozen=True, tag="list"):
    """Which models the hub has."""

    filters: dict[str, object] = {}
    limit: int = 50
    offset: int = 0


class CredentialCheck(Spec, frozen=True, tag="check_credentials"):
    """Whether the hub knows the credentials that it would be asked with."""


Question = Listing | CredentialCheck
"""What a hub can be asked beside for a model."""


class JobSpec(Spec, frozen=True):
    """One wish: a model, present in one form, at one place. It has been validated in full."""

    hub: str
    """The hub as the client named it; `source.hub` is the one that holds the bytes."""
    operation: Operation
    source: Source
    model_type: ModelType | None
    target: Target | None
    converter: str | None
    destination: Destination
    hub_options: dict[str, object]
    converter_options: dict[str, object]
    serving_options: dict[str, object]
    memory: MemoryRule | None = None
    """Of the conversion."""
    examined: bool = False
    """Whether the source is judged before it is fetched."""
    ready_made: str | None = None
    """The one repository that may hold the conversion's result already."""
    finisher: str | None = None
    """The converter that brings what the hub delivers into the form that a download of it has."""
    parted: bool = False
    """Whether several models were named in one wish: each has a folder of its own in that of the destination."""
    shelf: str = ""
    """The folder that the result names, relative to the destination's root; where empty, the one above the model's."""
    together: bool = False
    """Whether the conversion may come along with others of the same source."""
    served: bool = True
    """Of a conversion: whether a model server is to find it, by files beside it and an entry in its folder's list."""
    secret: str | None = None
    """The name of the credentials that came with the request; they themselves are kept sealed, elsewhere."""
    question: Question | None = None
    """What is to be asked; then nothing is fetched, and the source has no name."""
    priority: Priority = Priority.NORMAL
    config: dict[str, object] = {}
    """The client's own options, as they came; shown, never acted on."""


class Progress(Spec, frozen=True):
    """How far a stage is. Bytes are of the files in transfer; None means that nobody knows."""

    phase: Phase
    bytes_done: int = 0
    bytes_total: int | None = None
    files_done: int = 0
    files_total: int | None = None
    bytes_resumed: int = 0
    """How many of `bytes_done` an earlier attempt had fetched, or the content store held."""
    speed_bps: float | None = None
    """Bytes per second, smoothed. Filled in by the supervisor, not by plugins."""


def check_file_path(path: str) -> str:
    """Return `path` if it may be joined below a directory of ours.

    Raises SourceUnsafe on an absolute path, a part that climbs, a backslash, a control character, an
    over-long name, or a name that Modelferry or a hub's client keeps for itself.
    """
    parts = path.split("/")
    for part in parts:
        if part in {"", ".", ".."} or len(part.encode("utf-8", "surrogatepass")) > _MAX_PART_BYTES:
            raise SourceUnsafe(_unsafe(path))
    if "\\" in path or any(unicodedata.category(char) in {"Cc", "Cs"} for char in path):
        raise SourceUnsafe(_unsafe(path))
    if len(path.encode("utf-8")) > _MAX_PATH_BYTES or PurePosixPath(path).is_absolute():
        raise SourceUnsafe(_unsafe(path))
    if parts[0].casefold() in {".modelferry", ".cache"} or parts[-1].casefold() == MANIFEST_NAME:
        raise SourceUnsafe(_unsafe(path))
    return path


def check_distinct(paths: list[str]) -> None:
    """Raise SourceUnsafe when two paths would be one file on some file system, or one is the other's folder."""
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for path in paths:
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            msg = f"The hub lists two files of one name: {path[:200]!r}"
            raise SourceUnsafe(msg)
        seen[key] = path
        folders.update(str(parent) for parent in PurePosixPath(key).parents)
    clash = folders & seen.keys()
    if clash:
        msg = f"The hub lists a file that is also a folder: {min(clash)[:200]!r}"
        raise SourceUnsafe(msg)


def _unsafe(path: str) -> str:
    return f"The hub lists a dangerous file name: {path[:200]!r}"
