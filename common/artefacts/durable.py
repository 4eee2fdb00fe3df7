"""Folders, files and locks on the volume that keep what they promise through a crash and for a group of users."""

import errno
import fcntl
import itertools
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_MODE = 0o775
SHARED_FILE_MODE = 0o664

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_LINK_TRIES = 3


def make_folder(path: Path) -> None:
    """Make a folder and its parents: writable by the group whatever the umask, the set-group-id bit inherited."""
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    if missing:
        with folder_below(missing[-1].parent, [folder.name for folder in reversed(missing)]):
            return


@contextmanager
def folder_below(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Open the folder at these parts below `root`, making what is missing, and follow no symbolic link on the way."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(root, flags)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, FOLDER_MODE, dir_fd=folder)
                _open_to_group(folder, part)
                os.fsync(folder)
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _open_to_group(parent: int, name: str) -> None:
    """Give a folder of ours the usual mode, and keep the set-group-id bit that it inherited."""
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.fchmod(folder, FOLDER_MODE | (os.fstat(folder).st_mode & stat.S_ISGID))
    finally:
        os.close(folder)


def write_atomically(path: Path, data: bytes, mode: int = SHARED_FILE_MODE) -> None:
    """Write a file so that readers, and a power cut, leave the old content or the new one."""
    fresh = path.with_name(f".{uuid.uuid4().hex}.fresh")
    try:
        write_file(fresh, data, mode)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int = SHARED_FILE_MODE) -> None:
    """Write a new file to the disk itself."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def copy_file(source: Path, at: Path, mode: int) -> None:
    """Copy the content to a new file, down to the disk."""
    with source.open("rb") as reading, at.open("xb") as writing:
        shutil.copyfileobj(reading, writing, 4 * 1024 * 1024)
        writing.flush()
        os.fchmod(writing.fileno(), mode)
        os.fsync(writing.fileno())


def link_file(source: Path, at: Path, copy_mode: int) -> bool:
    """Make `at` a new name of `source`. False: this file system cannot, and `at` is a copy."""
    try:
        _link(source, at)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy_file(source, at, copy_mode)
        return False
    return True


def _link(source: Path, at: Path) -> None:
    """One try is not enough: a file that another one takes the place of in this very moment cannot be linked."""
    for _ in range(_LINK_TRIES - 1):
        try:
            os.link(source, at)
        except FileNotFoundError:
            continue
        return
    os.link(source, at)


def sync_file(path: Path, mode: int) -> None:
    """Set the mode of a file and bring it to the disk."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(file, mode)
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold this lock against every other thread and process; wait for it as long as it takes.

    `shared`: only against those who want it alone.
    """
    # A lock file is never removed: who waits for it and who comes next must see the same file.
    with _open_lock(lock) as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(lock: Path) -> Iterator[bool]:
    """Hold this lock if nobody else does, and say whether it is held."""
    with _open_lock(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _open_lock(lock: Path) -> Iterator[int]:
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, SHARED_FILE_MODE)
    try:
        if os.fstat(file).st_uid == os.geteuid():
            os.fchmod(file, SHARED_FILE_MODE)
        yield file
    finally:
        os.close(file)
