"""Shows an artefact at its destination: built beside it, complete with its manifest, and swapped in by one rename."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.artefacts.blobs import StoredFile, plain_files, sha256_of
from common.artefacts.durable import (
    SHARED_FILE_MODE,
    folder_below,
    locked,
    make_folder,
    sync_file,
    sync_folder,
    write_atomically,
    write_file,
)
from common.artefacts.layout import Volume
from common.artefacts.locks import folders_lock_of, index_lock_of, lock_of, place_key
from common.artefacts.manifest import (
    Artefact,
    ArtefactStore,
    PublishedManifest,
    encode_published,
    read_published,
)
from common.artefacts.retire import ASIDE, BUILDING, PLACE, READY, clear_up
from common.artefacts.swap import put_in_place
from common.clock import Clock, utc_now
from common.errors import DestinationInvalid, DestinationOutside, DiskFull, PublicationRefused, is_disk_full
from common.spec import MANIFEST_NAME, Destination, Target, check_distinct, check_file_path
from common.vocabulary import ModelType

STAGING_PREFIX = "publish."

_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY,
}  # fmt: skip


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a published manifest says beside what the artefact knows of itself."""

    name: str
    hub: str
    requested_revision: str | None = None
    model_type: ModelType | None = None
    target: Target | None = None
    serving: dict[str, object] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A file that lists the models of one folder, such as config_all.json.

    `folder` is relative to the destination's root; `update` is given it while no other publication may touch it,
    after the model is in place, also when it was there before: it must be safe to repeat.
    """

    folder: str
    update: Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationPlan:
    """What to publish, and where. `dress` writes into the new directory what a model server wants beside the model."""

    artefact: Artefact
    destination: Destination
    description: Description
    dress: Callable[[Path], None] | None = None
    index: Index | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A model in its place. `kept` is where foreign or edited files of the replaced directory are."""

    path: Path
    reused: bool
    manifest: PublishedManifest
    kept: Path | None = None


def publish(
    store: ArtefactStore, plan: PublicationPlan, *, fence: Callable[[], None], now: Clock = utc_now
) -> Publication:
    """Make the destination hold this artefact, or leave it as it was. Safe to repeat, and to run twice at once.

    `fence` is called right before the one step that others can see, and raises if that must not happen.
    Raises PublicationRefused, ContentLost, DiskFull, and what `fence`, `dress` and `update` raise.
    """
    with _refusals(plan.destination):
        at = _place(store.volume, plan.destination)
        with locked(lock_of(store.volume, at)):
            return _publish_locked(store, plan, at, fence, now)


def staging_of(volume: Volume, at: Path) -> Path:
    """Where the publication to `at` is built."""
    return volume.work / f"{STAGING_PREFIX}{place_key(volume, at)}"


def _publish_locked(
    store: ArtefactStore, plan: PublicationPlan, at: Path, fence: Callable[[], None], now: Clock
) -> Publication:
    volume = store.volume
    staging = staging_of(volume, at)
    clear_up(volume, staging, at, now())
    _check_no_nesting(volume, at)
    make_folder(staging)
    write_atomically(staging / PLACE, os.fsencode(at.relative_to(volume.root)))
    try:
        manifest = _build(store, plan, staging / BUILDING, now)
        standing = _standing(store, at, manifest)
        if standing is None:
            _swap(volume, plan.destination, at, staging, fence)
        else:
            fence()
        if plan.index is not None:
            _update_index(volume, plan.destination, plan.index)
    finally:
        kept = clear_up(volume, staging, at, now())
    return Publication(path=at, reused=standing is not None, manifest=standing or manifest, kept=kept)


def _check_no_nesting(volume: Volume, at: Path) -> None:
    """A model inside another one's directory would vanish with it."""
    for folder in at.relative_to(volume.root).parents:
        if (volume.root / folder / MANIFEST_NAME).exists() and folder != Path():
            raise PublicationRefused(f"'{folder}' is itself a published model")
    for inner, _, files in os.walk(at):
        if MANIFEST_NAME in files and Path(inner) != at:
            raise PublicationRefused(f"'{at.name}' is a folder that holds other published models")


def _build(store: ArtefactStore, plan: PublicationPlan, folder: Path, now: Clock) -> PublishedManifest:
    make_folder(folder)
    store.blobs.lay_out(plan.artefact.files, folder)
    if plan.dress is not None:
        plan.dress(folder)
    manifest = _describe(plan, tuple(_inventory(store, plan.artefact, folder)), now)
    write_file(folder / MANIFEST_NAME, encode_published(manifest))
    return manifest


def _inventory(store: ArtefactStore, artefact: Artefact, folder: Path) -> Iterator[StoredFile]:
    """Every file of the new directory; what is not a link to one of its blobs is digested anew and made durable."""
    known = {file.path: file for file in artefact.files}
    paths = sorted(path.relative_to(folder).as_posix() for path in plain_files(folder))
    check_distinct([check_file_path(path) for path in paths])
    linked = {
        (folder / path).stat().st_ino: file
        for path in paths
        if (file := known.get(path)) is not None and not file.editable and store.blobs.is_blob(folder / path, file)
    }
    for path in paths:
        blob = linked.get((folder / path).stat().st_ino)
        if blob is not None:
            # Under whatever name: its digest is known, and its mode is not ours to change.
            yield msgspec.structs.replace(blob, path=path)
        else:
            sync_file(folder / path, SHARED_FILE_MODE)
            size = (folder / path).stat().st_size
            yield StoredFile(path=path, size=size, sha256=sha256_of(folder / path))


def _describe(plan: PublicationPlan, files: tuple[StoredFile, ...], now: Clock) -> PublishedManifest:
    artefact, description = plan.artefact, plan.description
    return PublishedManifest(
        name=description.name,
        hub=description.hub,
        source=artefact.source,
        requested_revision=description.requested_revision,
        revision=artefact.revision,
        licence=artefact.licence,
        format=artefact.format,
        model_type=description.model_type,
        target=description.target,
        recipe=artefact.recipe,
        serving=description.serving,
        versions=artefact.versions,
        companions=artefact.companions,
        evidence=artefact.evidence,
        artefact=artefact.id,
        files=files,
        published_at=now().isoformat(timespec="milliseconds"),
    )


def _standing(store: ArtefactStore, at: Path, wanted: PublishedManifest) -> PublishedManifest | None:
    """The manifest of what is at the destination, if that is already, and intact, what is wanted there."""
    standing = read_published(at)
    if standing is None or _identity(standing) != _identity(wanted):
        return None
    intact = all(store.blobs.is_intact(at / file.path, file) for file in wanted.files)
    return standing if intact else None


def _identity(manifest: PublishedManifest) -> tuple[object, ...]:
    return (manifest.artefact, manifest.name, manifest.serving, manifest.files)


def _swap(volume: Volume, destination: Destination, at: Path, staging: Path, fence: Callable[[], None]) -> None:
    ready = staging / READY
    with (
        locked(folders_lock_of(volume), shared=True),
        folder_below(volume.root, at.relative_to(volume.root).parts[:-1]) as parent,
    ):
        _finish_folders(staging / BUILDING, os.fstat(parent))
        (staging / BUILDING).rename(ready)
        fence()
        if _place(volume, destination) != at:
            raise PublicationRefused(f"'{destination.folder}' was moved while the model was being published")
        put_in_place(ready, parent, at.name, staging / ASIDE)
        os.fsync(parent)


def _finish_folders(folder: Path, parent: os.stat_result) -> None:
    """Give the new tree the modes, and in a set-group-id folder the group, of a tree that was made in place."""
    inherits = bool(parent.st_mode & stat.S_ISGID)
    for at, _, names in os.walk(folder, topdown=False):
        here = Path(at)
        own = [here / name for name in names if (here / name).stat().st_nlink == 1]
        for path in (*own, here):
            if inherits and path.stat().st_gid != parent.st_gid:
                # Whoever runs us need not be a member of that group.
                with suppress(PermissionError):
                    os.chown(path, -1, parent.st_gid)
        here.chmod(0o775 | (stat.S_ISGID if inherits else 0))
        sync_folder(here)


def _update_index(volume: Volume, destination: Destination, index: Index) -> None:
    folder = volume.published(destination.root, index.folder)
    with locked(index_lock_of(volume, folder)):
        index.update(folder)


def _place(volume: Volume, destination: Destination) -> Path:
    return volume.published(destination.root, destination.folder)


@contextmanager
def _refusals(destination: Destination) -> Iterator[None]:
    try:
        yield
    except (DestinationOutside, DestinationInvalid) as error:
        raise PublicationRefused(f"'{destination.folder}' cannot take the model: {error}") from error
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("The volume of the models is full") from error
        if error.errno in _REFUSED:
            raise PublicationRefused(f"'{destination.folder}' cannot take the model: {error.strerror}") from error
        raise
