"""What is known of content: records of artefacts in the content store, and the manifests of published models."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from common.artefacts.blobs import BlobStore, StoredFile, sha256_of
from common.artefacts.durable import write_atomically
from common.artefacts.layout import PRIVATE_NAME, Volume
from common.errors import ContentLost, SourceUnsafe
from common.spec import MANIFEST_NAME, Evidence, Manifest, Source, Target, check_distinct, check_file_path
from common.vocabulary import Format, ModelType

Kind = Literal["source", "converted"]

_SCHEMA = 1
_KEY_CHARS = 32
_MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
_UNREADABLE = (OSError, ValueError, RecursionError, msgspec.DecodeError, SourceUnsafe)


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """A set of files in the content store, and how they came to be. `id` names everything that decides the content."""

    id: str
    kind: Kind
    format: Format
    source: Source
    revision: str
    licence: str | None
    files: tuple[StoredFile, ...]
    target: Target | None = None
    recipe: dict[str, object] = {}
    input: str | None = None
    """The artefact that a converted one was made of."""
    companions: dict[str, str] = {}
    """Other models that are part of it, or were used: folder of the source -> `name@revision`."""
    versions: dict[str, str] = {}
    evidence: Evidence | None = None
    created_at: str

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


class PublishedManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `.modelferry.json` in a published directory: what this is, and every file that belongs to it."""

    schema: int = _SCHEMA
    name: str
    hub: str
    source: Source
    requested_revision: str | None
    revision: str
    licence: str | None
    format: Format
    model_type: ModelType | None
    target: Target | None
    recipe: dict[str, object]
    serving: dict[str, object]
    versions: dict[str, str]
    companions: dict[str, str] = {}
    evidence: Evidence | None = None
    artefact: str
    files: tuple[StoredFile, ...]
    published_at: str

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


def source_key(manifest: Manifest) -> str:
    """The artefact id of these files of this source at this revision."""
    files = sorted(
        (file.path, [file.digest.algorithm, file.digest.value] if file.digest else file.size) for file in manifest.files
    )
    return _key("source", [manifest.source.hub, manifest.source.name, manifest.revision, files])


def part_key(whole: str, name: str) -> str:
    """The artefact id of one of the models that another artefact holds."""
    return _key("source", [whole, name])


def converted_key(input_id: str, target: Target, recipe: Mapping[str, object], versions: Mapping[str, str]) -> str:
    """The artefact id of what these tools make of an artefact by this recipe."""
    return _key("converted", [input_id, target, dict(recipe), dict(versions)])


class ArtefactStore:
    """The records of artefacts of one volume, beside their blobs."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.blobs = BlobStore(volume)

    def save(self, artefact: Artefact) -> None:
        """Record an artefact whose blobs are stored. Safe to repeat. Raises ContentLost, or SourceUnsafe."""
        _check_files(artefact.files)
        for file in artefact.files:
            if self.blobs.stored(file.sha256, file.size) is None:
                raise ContentLost(f"'{file.path}' is not in the content store")
        write_atomically(self._record(artefact.id), msgspec.json.format(msgspec.json.encode(artefact)))

    def load(self, artefact_id: str, *, complete: bool = True) -> Artefact | None:
        """The record of an artefact; None where there is none that can be used.

        With `complete`, only one whose every blob is there in its right size: a hit of the cache.
        """
        record = self._record(artefact_id)
        try:
            artefact = msgspec.json.decode(_read_document(record), type=Artefact)
            _check_files(artefact.files)
        except _UNREADABLE:
            # An unreadable record is a missing one: the work is done again and the record rewritten.
            return None
        if artefact.id != artefact_id:
            return None
        if complete and any(self.blobs.stored(file.sha256, file.size) is None for file in artefact.files):
            return None
        return artefact

    def _record(self, artefact_id: str) -> Path:
        if not artefact_id.replace("-", "").isalnum() or not artefact_id.isascii():
            raise ValueError(f"{artefact_id[:80]!r} is not the id of an artefact")
        return self.volume.artefacts / f"{artefact_id}.json"


def read_published(folder: Path) -> PublishedManifest | None:
    """The manifest of a published directory; None where there is none, or none that can be trusted."""
    try:
        manifest = msgspec.json.decode(_read_document(folder / MANIFEST_NAME), type=PublishedManifest)
        _check_files(manifest.files)
    except _UNREADABLE:
        return None
    return manifest if manifest.schema == _SCHEMA else None


def check_published(folder: Path, *, rehash: bool = False) -> list[str]:
    """What is wrong with a published directory; with `rehash`, every file is read and its digest compared."""
    manifest = read_published(folder)
    if manifest is None:
        return [f"There is no usable {MANIFEST_NAME}"]
    found = (_problem_of(folder / file.path, file, rehash=rehash) for file in manifest.files)
    return [problem for problem in found if problem is not None]


def find_published(volume: Volume) -> Iterator[tuple[Path, PublishedManifest]]:
    """Every published model on the volume, in the order of the paths. Follows no symbolic link."""
    for at, folders, files in os.walk(volume.root):
        folder = Path(at)
        if folder == volume.root:
            folders[:] = [name for name in folders if name != PRIVATE_NAME]
        folders.sort()
        manifest = read_published(folder) if MANIFEST_NAME in files else None
        if manifest is not None:
            folders.clear()
            yield folder, manifest


def encode_published(manifest: PublishedManifest) -> bytes:
    """The text of `.modelferry.json`, for people as well."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def _problem_of(path: Path, file: StoredFile, *, rehash: bool) -> str | None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{file.path} is not a plain file"
        if status.st_size != file.size:
            return f"{file.path} has {status.st_size} bytes instead of {file.size}"
        if rehash and sha256_of(path) != file.sha256:
            return f"{file.path} has another content than was published"
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
    return None


def _key(kind: Kind, decisive: list[object]) -> str:
    canonical = msgspec.json.encode([kind, *decisive], order="deterministic")
    return f"{kind}-{hashlib.sha256(canonical).hexdigest()[:_KEY_CHARS]}"


def _check_files(files: tuple[StoredFile, ...]) -> None:
    check_distinct([check_file_path(file.path) for file in files])


def _read_document(path: Path) -> bytes:
    """The content of a file that somebody else may have put there: plain, and not without end."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as document:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_DOCUMENT_BYTES:
            raise ValueError(f"{path.name} is not a document of ours")
        return document.read()
