"""The models on the volume as the disk has them now: our own, and those that somebody dropped in by hand."""

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from common.artefacts.layout import Volume
from common.artefacts.manifest import PublishedManifest, read_published
from common.errors import NoSuchModel
from common.spec import MANIFEST_NAME

UPLOADED = "user-uploaded"
"""The hub that a model has that a client has sent."""

_MODEL_SUFFIXES = (".safetensors", ".gguf", ".onnx")
_PARTED = "model_index.json"
"""What a model of several folders has above them."""
_EDITED = ".pbtxt"
"""Graphs of the model server, which people change in place: one that was edited is as good as before."""
_LOOKS = 4
"""How often a folder is looked at that might be a stranger's."""
_SETTLED_NS = 2_000_000_000
"""A file younger than this may change again without its times changing: file systems count in ticks."""


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that holds a model, in short. What only a manifest tells is None where there is none."""

    id: str
    folder: str
    """Relative to MODELS_DIR, which itself is ''."""
    name: str
    managed: bool
    """Whether Modelferry has published it."""
    hub: str | None = None
    revision: str | None = None
    precision: str | None = None
    device: str | None = None
    model_type: str | None = None
    format: str | None = None
    licence: str | None = None
    artefact: str | None = None
    published_at: str | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What can be seen of a model's files without reading them."""

    bytes: int
    files: int
    newest_ns: int = 0
    """The time of the last change of the content of any file that is not there to be changed."""
    problems: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    """Files that were changed in place, and are there to be."""


class _Seen(NamedTuple):
    """A manifest, and by what it is known again as the same file."""

    identity: tuple[int, ...]
    model: LocalModel


class Library:
    """Every model on one volume. Only what manifests say that were not touched since is remembered of it."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._seen: dict[str, _Seen] = {}

    def models(self) -> list[LocalModel]:
        """All of them, in the order of their paths. Follows no symbolic link, and looks into no dot folder."""
        seen: dict[str, _Seen] = {}
        found = sorted(self._walk(seen), key=lambda model: model.folder.split("/"))
        # In one step: two who walk at once may each leave what they have seen.
        self._seen = seen
        return found

    def model(self, model_id: str) -> LocalModel:
        """The model of this id. Raises NoSuchModel."""
        known = next((seen.model for seen in list(self._seen.values()) if seen.model.id == model_id), None)
        if known is not None:
            now = self._published(known.folder, {})
            if now is not None:
                return now
        found = next((model for model in self.models() if model.id == model_id), None)
        if found is None:
            raise NoSuchModel(f"There is no model {model_id[:80]!r} on the volume")
        return found

    def path(self, model: LocalModel) -> Path:
        """The model's directory."""
        return self.volume.root / model.folder

    def manifest(self, model: LocalModel) -> PublishedManifest:
        """What was published. Raises NoSuchModel if it has gone meanwhile."""
        manifest = read_published(self.path(model))
        if manifest is None:
            raise NoSuchModel(f"The model {model.id} is no longer on the volume")
        return manifest

    def standing(self, model: LocalModel) -> Standing:
        """How the model's files are right now. Of a model that has gone, that it has."""
        if not model.managed:
            return _foreign_standing(self.path(model), deep=bool(model.folder))
        manifest = read_published(self.path(model))
        if manifest is None:
            return Standing(bytes=0, files=0, problems=(f"There is no usable {MANIFEST_NAME}",))
        return standing_of(self.path(model), manifest)

    def _walk(self, seen: dict[str, _Seen]) -> Iterator[LocalModel]:
        root = os.fspath(self.volume.root)
        waiting = [("", False)]
        while waiting:
            folder, inside = waiting.pop()
            files, folders, model = self._look(folder, f"{root}/{folder}", seen)
            if model is not None:
                yield model
                continue
            if not inside and _holds_model(files):
                yield _foreign(folder)
                # Its folders are part of it, but what lies loose in MODELS_DIR has nothing to do with those beside it.
                inside = bool(folder)
            waiting += [(f"{folder}/{name}".removeprefix("/"), inside) for name in folders]

    def _look(self, folder: str, at: str, seen: dict[str, _Seen]) -> tuple[list[str], list[str], LocalModel | None]:
        """The files and folders in a folder, and our model if it is one.

        What seems to be a stranger's is looked at again: one of ours may have come or gone in this moment.
        """
        files, folders = _entries(at)
        for _ in range(_LOOKS):
            model = self._published(folder, seen) if folder and MANIFEST_NAME in files else None
            if model is not None or not _holds_model(files):
                return files, folders, model
            before, (files, folders) = files, _entries(at)
            if files == before and MANIFEST_NAME not in files:
                break
        return files, folders, None

    def _published(self, folder: str, seen: dict[str, _Seen]) -> LocalModel | None:
        try:
            status = os.lstat(f"{self.volume.models_dir}/{folder}/{MANIFEST_NAME}")
        except OSError:
            return None
        identity = identity_of(status)
        known = self._seen.get(folder)
        if known is None or known.identity != identity:
            manifest = read_published(self.volume.root / folder)
            if manifest is None:
                return None
            known = _Seen(identity, summary(folder, manifest))
        if has_settled(status):
            seen[folder] = known
        return known.model


def model_id(folder: str) -> str:
    """The id of the model in this folder, relative to MODELS_DIR. It lasts as long as the place does."""
    return f"m-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """By what a file is known again as the very same, with the same content."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def has_settled(status: os.stat_result) -> bool:
    """Whether the file cannot change any more without becoming another one by its identity."""
    return time.time_ns() - status.st_ctime_ns > _SETTLED_NS


def standing_of(folder: Path, manifest: PublishedManifest) -> Standing:
    """How the files of a published directory are, by their sizes."""
    problems, edited, newest, count, size = [], [], 0, 0, 0
    for file in manifest.files:
        status = _plain(folder / file.path)
        if status is None:
            problems.append(f"{file.path} is missing, or not a plain file")
            continue
        count, size = count + 1, size + status.st_size
        if not may_be_edited(file.path):
            newest = max(newest, status.st_mtime_ns)
        if status.st_size == file.size:
            continue
        if may_be_edited(file.path):
            edited.append(file.path)
        else:
            problems.append(f"{file.path} has {status.st_size} bytes instead of {file.size}")
    return Standing(bytes=size, files=count, newest_ns=newest, problems=tuple(problems), edited=tuple(edited))


def may_be_edited(path: str) -> bool:
    """Whether people change this file of a published model in place."""
    return path.endswith(_EDITED)


def summary(folder: str, manifest: PublishedManifest) -> LocalModel:
    """What a manifest says of the model in this folder, relative to MODELS_DIR."""
    target = manifest.target
    told = manifest.recipe.get("precision") if manifest.hub == UPLOADED else None
    precision = target.precision.value if target else (told if isinstance(told, str) else None)
    return LocalModel(
        id=model_id(folder),
        folder=folder,
        name=manifest.name,
        managed=True,
        hub=manifest.hub,
        revision=manifest.revision,
        precision=precision,
        device=target.device if target else None,
        model_type=manifest.model_type,
        format=manifest.format,
        licence=manifest.licence,
        artefact=manifest.artefact,
        published_at=manifest.published_at,
    )


def _foreign(folder: str) -> LocalModel:
    return LocalModel(id=model_id(folder), folder=folder, name=PurePosixPath(folder).name or ".", managed=False)


def _holds_model(files: Iterable[str]) -> bool:
    names = {name.lower() for name in files}
    return any(
        name.endswith(_MODEL_SUFFIXES)
        or name == _PARTED
        or (name.endswith(".xml") and f"{name.removesuffix('.xml')}.bin" in names)
        for name in names
    )


def _entries(folder: str | Path) -> tuple[list[str], list[str]]:
    """The names of the plain files and of the folders in a folder; none if it has gone or nobody may read it."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
    except OSError:
        return [], []
    return files, folders


def _foreign_standing(folder: Path, *, deep: bool) -> Standing:
    """The files of a directory that is not ours, without the models of ours that lie below it."""
    count, size, newest = 0, 0, 0
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        files, folders = _entries(at)
        for status in filter(None, (_plain(at / name) for name in files)):
            count, size, newest = count + 1, size + status.st_size, max(newest, status.st_mtime_ns)
        if deep:
            waiting += [at / name for name in folders if read_published(at / name) is None]
    return Standing(bytes=size, files=count, newest_ns=newest)


def _plain(path: Path) -> os.stat_result | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
