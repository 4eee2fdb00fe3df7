"""Clears away what a publication replaced or left half-done, and never deletes what is not ours."""

import logging
import os
import shutil
import uuid
from datetime import datetime
from pathlib import Path

from common.artefacts.blobs import BlobStore
from common.artefacts.durable import folder_below, locked, sync_folder
from common.artefacts.layout import Volume
from common.artefacts.locks import folders_lock_of, index_lock_of
from common.artefacts.manifest import PublishedManifest, read_published
from common.artefacts.served import unregister_model
from common.errors import PublicationRefused
from common.spec import MANIFEST_NAME

BUILDING = "building"
"""A directory in the making: of no worth to anybody."""
READY = "ready"
"""A finished directory, and after the exchange the one that it replaced."""
ASIDE = "aside"
"""The replaced directory, where names cannot be exchanged."""
PLACE = "destination"
"""A file that says where all this belongs."""
UNLISTED = "unlisted"
"""A file with the name under which a model that leaves for good may be listed beside its folder."""

log = logging.getLogger(__name__)


def clear_up(volume: Volume, staging: Path, at: Path, now: datetime) -> Path | None:
    """Undo or finish whatever a publication to `at`, or a removal from there, left in its staging folder.

    The lock of the place is held.

    Returns where foreign content of the replaced directory is kept, or None.
    """
    aside = staging / ASIDE
    if aside.is_dir() and not os.path.lexists(at):
        with (
            locked(folders_lock_of(volume), shared=True),
            folder_below(volume.root, at.relative_to(volume.root).parts[:-1]) as parent,
        ):
            os.rename(aside, at.name, dst_dir_fd=parent)
            os.fsync(parent)
    _take_off_the_list(volume, staging, at)
    kept = [retire(volume, staging / name, at.name, now) for name in (READY, ASIDE)]
    if staging.exists():
        shutil.rmtree(staging)
    return next((folder for folder in kept if folder is not None), None)


def retire(volume: Volume, folder: Path, name: str, now: datetime) -> Path | None:
    """Delete a replaced directory as far as it is ours; keep the rest below `replaced`, and say where."""
    if not folder.is_dir():
        return None
    manifest = read_published(folder)
    if manifest is not None:
        _delete_intact(BlobStore(volume), folder, manifest)
        # The last: until here a crash leaves a directory that is known to be ours.
        (folder / MANIFEST_NAME).unlink()
    _remove_empty(folder)
    return _keep(volume, folder, name, now) if folder.exists() else None


def _take_off_the_list(volume: Volume, staging: Path, at: Path) -> None:
    """End what a removal has begun: the list of the folder above does not name the model any more."""
    try:
        name = os.fsdecode((staging / UNLISTED).read_bytes())
    except FileNotFoundError:
        return
    folder = at.parents[name.count("/")]
    with locked(index_lock_of(volume, folder)):
        try:
            unregister_model(folder, name)
        except PublicationRefused as error:
            # Somebody has made another file of the list: it is not ours to mend.
            log.warning("model.not_unlisted", extra={"folder": str(folder), "reason": str(error)})


def _delete_intact(blobs: BlobStore, folder: Path, manifest: PublishedManifest) -> None:
    """Delete the files that are just as they were published, but none beyond a symbolic link."""
    real = Path(os.path.realpath(folder))
    for file in manifest.files:
        path = real / file.path
        if Path(os.path.realpath(path)) != path:
            continue
        if blobs.is_condemned(path, file):
            inode = path.lstat().st_ino
            path.unlink()
            blobs.forget_spoilt(file.sha256, inode)
        elif blobs.is_intact(path, file):
            path.unlink()


def _remove_empty(folder: Path) -> None:
    for at, _, _ in os.walk(folder, topdown=False):
        if not any(Path(at).iterdir()):
            Path(at).rmdir()


def _keep(volume: Volume, folder: Path, name: str, now: datetime) -> Path:
    # Two publications may retire equal names within one second.
    place = volume.replaced / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}-{name[:180]}"
    folder.rename(place)
    sync_folder(volume.replaced)
    return place
