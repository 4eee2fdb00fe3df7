"""Reads a published model again, remembers what came of it, and takes spoilt content out of the content store."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from common.artefacts.blobs import BlobStore, StoredFile
from common.artefacts.durable import make_folder, write_atomically
from common.artefacts.layout import Volume
from common.artefacts.library import Library, LocalModel, Standing, may_be_edited
from common.clock import Clock, utc_now
from common.errors import ModelBusy

State = Literal["unchecked", "good", "spoilt"]

_BLOCK_BYTES = 4 * 1024 * 1024


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What came of reading every file of a model. It is void for another model, and once a file has changed."""

    artefact: str
    published_at: str
    newest_ns: int
    state: Literal["good", "spoilt"]
    verified_at: str
    checked_files: int
    bytes: int
    seconds: float
    problems: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    content_removed: int = 0
    """How many files of the content store were found spoilt too, and taken out of it."""


def verify(
    library: Library, model: LocalModel, *, checkpoint: Callable[[], None], now: Clock = utc_now
) -> Verification:
    """Read every file of a published model and compare its digest. `checkpoint` may raise to end it.

    Raises NoSuchModel, or ModelBusy if the model was replaced meanwhile; then nothing is remembered.
    """
    manifest = library.manifest(model)
    newest_ns = library.standing(model).newest_ns
    begun = time.monotonic()
    folder = library.path(model)
    findings = [_read(folder / file.path, file, checkpoint) for file in manifest.files]
    again = library.manifest(model)
    if (again.artefact, again.published_at) != (manifest.artefact, manifest.published_at):
        raise ModelBusy(f"The model {model.id} was replaced while it was being read. Verify it again.")
    problems = tuple(finding.problem for finding in findings if finding.problem is not None)
    verification = Verification(
        artefact=manifest.artefact,
        published_at=manifest.published_at,
        newest_ns=newest_ns,
        state="spoilt" if problems else "good",
        verified_at=now().isoformat(timespec="milliseconds"),
        checked_files=len(findings),
        bytes=sum(finding.bytes for finding in findings),
        seconds=round(time.monotonic() - begun, 3),
        problems=problems,
        edited=tuple(finding.path for finding in findings if finding.edited),
        content_removed=sum(_condemn(library.volume, finding) for finding in findings),
    )
    make_folder(library.volume.verified)
    write_atomically(_record(library.volume, model.id), msgspec.json.format(msgspec.json.encode(verification)))
    return verification


def remembered(volume: Volume, model: LocalModel, standing: Standing) -> Verification | None:
    """The last verification of just this model with just these files; None where there is none."""
    try:
        known = msgspec.json.decode(_record(volume, model.id).read_bytes(), type=Verification)
    except (OSError, msgspec.DecodeError):
        return None
    same = (known.artefact, known.published_at, known.newest_ns)
    return known if same == (model.artefact, model.published_at, standing.newest_ns) else None


def state_of(standing: Standing, verification: Verification | None) -> State:
    """Missing files and wrong sizes count at once, everything else from the last verification."""
    if standing.problems:
        return "spoilt"
    return verification.state if verification else "unchecked"


def forget(volume: Volume, model_id: str) -> None:
    """The model has gone."""
    with suppress(FileNotFoundError):
        _record(volume, model_id).unlink()


class _Finding(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    bytes: int = 0
    problem: str | None = None
    edited: bool = False
    spoilt: tuple[str, int] | None = None
    """The digest that the file should have, and its inode, if it holds other content."""


def _read(path: Path, file: StoredFile, checkpoint: Callable[[], None]) -> _Finding:
    checkpoint()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _Finding(path=file.path, problem=f"{file.path} cannot be read: {error.strerror}")
    with os.fdopen(handle, "rb", buffering=0) as content:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return _Finding(path=file.path, problem=f"{file.path} is not a plain file")
        size, inode = status.st_size, status.st_ino
        if size != file.size:
            return _other(file, f"{file.path} has {size} bytes instead of {file.size}", inode, 0)
        digest = hashlib.sha256()
        done = 0
        try:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                checkpoint()
        except OSError as error:
            problem = f"{file.path} cannot be read: {error.strerror}"
            unreadable = (file.sha256, inode) if error.errno == errno.EIO else None
            return _Finding(path=file.path, bytes=done, problem=problem, spoilt=unreadable)
    if digest.hexdigest() == file.sha256:
        return _Finding(path=file.path, bytes=done)
    return _other(file, f"{file.path} has another content than was published", inode, done)


def _other(file: StoredFile, problem: str, inode: int, done: int) -> _Finding:
    if may_be_edited(file.path):
        return _Finding(path=file.path, bytes=done, edited=True)
    return _Finding(path=file.path, bytes=done, problem=problem, spoilt=(file.sha256, inode))


def _condemn(volume: Volume, finding: _Finding) -> bool:
    return finding.spoilt is not None and BlobStore(volume).condemn(*finding.spoilt)


def _record(volume: Volume, model_id: str) -> Path:
    return volume.verified / f"{model_id}.json"
