"""The content store: every file once, read-only, named by its sha256."""

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import msgspec

from common.artefacts.durable import (
    SHARED_FILE_MODE,
    copy_file,
    link_file,
    make_folder,
    sync_file,
    sync_folder,
)
from common.artefacts.layout import Volume
from common.errors import ContentLost, OutputIncomplete
from common.spec import check_distinct, check_file_path

BLOB_MODE = 0o444

_TEXT_SUFFIXES = frozenset({".json", ".txt", ".md", ".pbtxt", ".jinja", ".yaml", ".yml"})
_TEXT_BYTES = 4 * 1024 * 1024


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an artefact: where it belongs, and which content it has."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_sha256(self.sha256)

    @property
    def editable(self) -> bool:
        """Small text is copied into a published model, not linked: people edit it in place."""
        return PurePosixPath(self.path).suffix.lower() in _TEXT_SUFFIXES and self.size < _TEXT_BYTES


class BlobStore:
    """The blobs of one volume. Any number of threads and processes may use it at once."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def path(self, sha256: str) -> Path:
        """Where this content is, or would be."""
        check_sha256(sha256)
        return self._volume.blobs / sha256[:2] / sha256

    def stored(self, sha256: str, size: int | None = None) -> Path | None:
        """The stored copy of this content; None when there is none, or it has another size than asked for."""
        path = self.path(sha256)
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode) or size not in {None, status.st_size}:
            return None
        return path

    def take(self, file: Path, sha256: str) -> Path:
        """Move a file that was verified to have this sha256 into the store. Safe to repeat."""
        blob = self.path(sha256)
        try:
            size = file.lstat().st_size
        except FileNotFoundError:
            if self.stored(sha256) is None:
                raise
            return blob
        if self.stored(sha256, size) is not None:
            file.unlink()
            return blob
        make_folder(blob.parent)
        sync_file(file, BLOB_MODE)
        self._move(file, blob)
        sync_folder(blob.parent)
        return blob

    def take_unverified(self, file: Path, known: Callable[[Path], str | None] = lambda _: None) -> str:
        """Move a file of unknown content into the store, and say which content it is.

        `known` may tell the digest of the very file where somebody has computed it already.
        """
        sha256 = known(file) or sha256_of(file)
        self.take(file, sha256)
        return sha256

    def take_folder(self, folder: Path, known: Callable[[Path], str | None] = lambda _: None) -> tuple[StoredFile, ...]:
        """Move every file below a folder into the store, and list them by path.

        Raises OutputIncomplete on anything but plain files and folders, and SourceUnsafe on names that
        must not be published; then nothing has been moved.
        """
        paths = sorted(path.relative_to(folder).as_posix() for path in plain_files(folder))
        check_distinct([check_file_path(path) for path in paths])
        return tuple(self._take_one(folder, path, known) for path in paths)

    def link(self, sha256: str, at: Path) -> Path:
        """Show this content at `at`, below a folder of the caller's own. Safe to repeat. Raises ContentLost."""
        blob = self._present(sha256, None)
        make_folder(at.parent)
        fresh = at.with_name(f".{uuid.uuid4().hex}.fresh")
        try:
            link_file(blob, fresh, BLOB_MODE)
            fresh.replace(at)
        finally:
            # A rename between two names of one file leaves both.
            fresh.unlink(missing_ok=True)
        return at

    def lay_out(self, files: Iterable[StoredFile], folder: Path) -> None:
        """Show these files below a folder that holds none of them yet: weights linked, small text as copies."""
        for file in files:
            at = folder / check_file_path(file.path)
            blob = self._present(file.sha256, file.size)
            make_folder(at.parent)
            if file.editable:
                copy_file(blob, at, SHARED_FILE_MODE)
            else:
                link_file(blob, at, BLOB_MODE)

    def is_intact(self, path: Path, file: StoredFile) -> bool:
        """Whether there is a plain file of just this content; one that is the blob itself need not be read."""
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        return self.is_blob(path, file) or sha256_of(path) == file.sha256

    def is_blob(self, path: Path, file: StoredFile) -> bool:
        """Whether the file at `path` is a name of the blob itself."""
        blob = self.stored(file.sha256, file.size)
        return blob is not None and path.samefile(blob)

    def condemn(self, sha256: str, inode: int) -> bool:
        """Take a blob that was seen not to be what its name says out of the store, if it is this inode still.

        Published models that show it keep it; nobody is given it any more, so that it is fetched anew.
        """
        blob = self.path(sha256)
        aside = self._volume.work / f"spoilt.{uuid.uuid4().hex}"
        try:
            if blob.lstat().st_ino != inode:
                return False
            blob.rename(aside)
        except FileNotFoundError:
            return False
        spoilt = aside.lstat().st_ino == inode
        if spoilt:
            make_folder(self._volume.spoilt)
            aside.rename(self._spoilt(sha256, inode))
            self.forget_spoilt(sha256, inode)
        else:
            # A good one has taken its place in this moment.
            with suppress(FileExistsError):
                os.link(aside, blob)
            aside.unlink()
        sync_folder(blob.parent)
        return spoilt

    def is_condemned(self, path: Path, file: StoredFile) -> bool:
        """Whether the file at `path` is a name of a blob of ours that was condemned."""
        try:
            inode = path.lstat().st_ino
            return self._spoilt(file.sha256, inode).lstat().st_ino == inode
        except (FileNotFoundError, NotADirectoryError):
            return False

    def forget_spoilt(self, sha256: str, inode: int) -> None:
        """Let go of condemned content that no published model shows any more."""
        spoilt = self._spoilt(sha256, inode)
        with suppress(FileNotFoundError):
            if spoilt.lstat().st_nlink == 1:
                spoilt.unlink()

    def _spoilt(self, sha256: str, inode: int) -> Path:
        return self._volume.spoilt / f"{check_sha256(sha256)}.{inode}"

    def _present(self, sha256: str, size: int | None) -> Path:
        blob = self.stored(sha256, size)
        if blob is None:
            msg = f"The content {sha256} is not in the content store any more"
            raise ContentLost(msg)
        return blob

    def _take_one(self, folder: Path, path: str, known: Callable[[Path], str | None]) -> StoredFile:
        size = (folder / path).stat().st_size
        return StoredFile(path=path, size=size, sha256=self.take_unverified(folder / path, known))

    def _move(self, file: Path, blob: Path) -> None:
        try:
            file.replace(blob)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_across(file, blob)

    def _move_across(self, file: Path, blob: Path) -> None:
        fresh = self._volume.work / f"take.{uuid.uuid4().hex}"
        try:
            copy_file(file, fresh, BLOB_MODE)
            fresh.replace(blob)
        finally:
            fresh.unlink(missing_ok=True)
        file.unlink()


def sha256_of(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def plain_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder. Raises OutputIncomplete on a symbolic link, a socket or the like."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from plain_files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            else:
                msg = f"'{entry.name}' is not a plain file"
                raise OutputIncomplete(msg)


def check_sha256(sha256: str) -> str:
    """Return `sha256` if it is one, in lower-case hex: it becomes part of a path."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        msg = f"{sha256[:80]!r} is not a sha256"
        raise ValueError(msg)
    return sha256
