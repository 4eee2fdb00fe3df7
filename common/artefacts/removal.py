"""Removes a published model: aside in one step, off the list of its folder, then away, with the folders it empties."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from common.artefacts.durable import (
    folder_below,
    locked_if_free,
    make_folder,
    sync_folder,
    write_atomically,
)
from common.artefacts.layout import Volume
from common.artefacts.locks import folders_lock_of, lock_of
from common.artefacts.manifest import PublishedManifest, read_published
from common.artefacts.publish import staging_of
from common.artefacts.retire import PLACE, READY, UNLISTED, clear_up
from common.artefacts.served import INDEX_NAME
from common.clock import Clock, utc_now
from common.errors import DestinationInvalid, DestinationOutside, ModelBusy, NoSuchModel, PublicationRefused

_PRUNE_S = 2.0
_PRUNE_POLL_S = 0.02


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has gone. Folders are relative to MODELS_DIR."""

    folder: str
    manifest: PublishedManifest
    kept: str | None = None
    """Where the files are that were not as Modelferry had published them."""
    kept_files: tuple[str, ...] = ()


def remove(volume: Volume, folder: str, *, fence: Callable[[], None], now: Clock = utc_now) -> Removal:
    """Remove the model that is published in this folder of the volume. What of it is not ours is kept aside.

    It is there whole until one rename, and gone after it; what a crash leaves then, the next sweep clears away.
    `fence` is called while nobody can publish there, and raises if the model must stay.
    Raises NoSuchModel, ModelBusy, PublicationRefused, and what `fence` raises.
    """
    try:
        at = volume.published("", folder)
    except (DestinationOutside, DestinationInvalid) as error:
        raise NoSuchModel(f"'{folder}' is no place of a model any more") from error
    with locked_if_free(lock_of(volume, at)) as free:
        if not free:
            raise ModelBusy(f"'{folder}' is being published this instant. Try again shortly.")
        removal = _remove_locked(volume, at, fence, now)
    _prune(volume, at.parent)
    return removal


def _remove_locked(volume: Volume, at: Path, fence: Callable[[], None], now: Clock) -> Removal:
    staging = staging_of(volume, at)
    clear_up(volume, staging, at, now())
    manifest = read_published(at)
    if manifest is None:
        raise NoSuchModel(f"'{at.relative_to(volume.root)}' holds no published model any more")
    fence()
    make_folder(staging)
    write_atomically(staging / PLACE, os.fsencode(at.relative_to(volume.root)))
    listed = _listed_as(volume, at, manifest)
    if listed is not None:
        write_atomically(staging / UNLISTED, os.fsencode(listed))
    try:
        _take_away(volume, at, staging / READY)
    finally:
        kept = clear_up(volume, staging, at, now())
    return Removal(
        folder=at.relative_to(volume.root).as_posix(),
        manifest=manifest,
        kept=None if kept is None else kept.relative_to(volume.root).as_posix(),
        kept_files=_files_of(kept),
    )


def _take_away(volume: Volume, at: Path, ready: Path) -> None:
    try:
        with folder_below(volume.root, at.relative_to(volume.root).parts[:-1]) as parent:
            os.rename(at.name, ready, src_dir_fd=parent)
            os.fsync(parent)
    except OSError as error:
        raise PublicationRefused(f"'{at.name}' cannot be removed: {error.strerror}") from error
    sync_folder(ready.parent)


def _listed_as(volume: Volume, at: Path, manifest: PublishedManifest) -> str | None:
    """The name that a list of the model server may have for it."""
    name = manifest.name
    inside = at.relative_to(volume.root).as_posix()
    if inside != name and not inside.endswith(f"/{name}"):
        return None
    return name if (at.parents[name.count("/")] / INDEX_NAME).exists() else None


def _files_of(kept: Path | None) -> tuple[str, ...]:
    if kept is None:
        return ()
    return tuple(sorted(path.relative_to(kept).as_posix() for path in kept.rglob("*") if not path.is_dir()))


def _prune(volume: Volume, folder: Path) -> None:
    """Remove this folder and those above it as far as they are empty, unless others keep making folders."""
    deadline = time.monotonic() + _PRUNE_S
    while time.monotonic() < deadline:
        with locked_if_free(folders_lock_of(volume)) as alone:
            if alone:
                _remove_empty(volume.root, folder)
                return
        time.sleep(_PRUNE_POLL_S)


def _remove_empty(root: Path, folder: Path) -> None:
    with suppress(OSError):
        for at in (folder, *folder.parents):
            if at == root:
                return
            at.rmdir()
