"""The unfinished copy of one content on disk: it remembers through any crash what has arrived."""

import ctypes
import errno
import fcntl
import functools
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from common.errors import DiskFull, is_disk_full

_CANNOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Ranges:
    """Disjoint stretches of a file, `start <= offset < stop`, in order."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._spans: list[tuple[int, int]] = []
        for start, stop in spans:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._spans)

    @property
    def covered(self) -> int:
        """How many bytes the stretches hold together."""
        return sum(stop - start for start, stop in self._spans)

    @property
    def prefix(self) -> int:
        """Up to where everything from the first byte on is covered."""
        return self._spans[0][1] if self._spans and self._spans[0][0] == 0 else 0

    def add(self, start: int, stop: int) -> None:
        """Cover one more stretch; what touches or overlaps becomes one."""
        if start >= stop:
            return
        first = bisect_left(self._spans, start, key=lambda span: span[1])
        last = bisect_right(self._spans, stop, key=lambda span: span[0])
        if first < last:
            start = min(start, self._spans[first][0])
            stop = max(stop, self._spans[last - 1][1])
        self._spans[first:last] = [(start, stop)]

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """What is missing of a file of this size."""
        edges = [0, *(edge for span in self._spans for edge in span), size]
        return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


class Journal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known about a part, or about the content that a part has become."""

    inode: int = 0
    """The part that `ranges` speaks of. A journal that outlived its part must not describe the next one."""
    size: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    sha256: str | None = None
    """Set once the content is in the content store: its name there."""

    def fits(self, inode: int, size: int | None) -> bool:
        """Whether `ranges` can be believed for a part with this inode and size."""
        edges = [edge for span in self.ranges for edge in span]
        in_order = edges == sorted(set(edges)) and all(0 <= edge <= (size or 0) for edge in edges)
        return in_order and self.inode == inode and self.size == size


class Part:
    """A part that this process alone writes to, from `claim` to `close`. One thread at a time writes its journal."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._inode = os.fstat(fd).st_ino
        self._journal = _journal_path(path)

    @property
    def length(self) -> int:
        """How long the file is, whatever it holds."""
        return os.fstat(self._fd).st_size

    def reserve(self, size: int) -> None:
        """Take the room for the whole file now, where the file system can; a part is never made shorter.

        Raises DiskFull.
        """
        if self.length >= size:
            return
        with _disk_full(self.path):
            try:
                _fallocate(self._fd, size)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
                os.ftruncate(self._fd, size)

    def recall(self, size: int | None) -> Ranges:
        """What an earlier process has left here of a file of this size."""
        journal = read_journal(self.path)
        if size is None or self.length != size or not journal.fits(self._inode, size):
            return Ranges()
        return Ranges(journal.ranges)

    def write(self, data: memoryview, offset: int) -> None:
        """Put bytes in their place. Raises DiskFull."""
        with _disk_full(self.path):
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset + written)

    def read(self, into: memoryview, offset: int) -> int:
        """Read back into a buffer; returns how much there was."""
        return os.preadv(self._fd, [into], offset)

    def save(self, ranges: Iterable[tuple[int, int]], size: int | None) -> None:
        """Write down what has arrived. It is a rename, so a crash leaves the old journal or the new one."""
        self._note(Journal(inode=self._inode, size=size, ranges=tuple(ranges)))

    def retire(self, sha256: str | None) -> None:
        """Forget the journal of a part that has gone to the content store.

        A content that is not named by its sha256 leaves a note there instead, so that it is found again.
        """
        if sha256 is None:
            self._journal.unlink(missing_ok=True)
        else:
            self._note(Journal(sha256=sha256))

    def discard(self) -> None:
        """Remove the part. Its journal may stay: it will fit no other part."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the part."""
        os.close(self._fd)

    def _note(self, journal: Journal) -> None:
        # Once this part has gone to the content store, another transfer may be at the next one of the same key.
        fresh = self._journal.with_suffix(f".{self._inode}.new")
        with _disk_full(self.path):
            fresh.write_bytes(msgspec.json.encode(journal))
            fresh.replace(self._journal)


def claim(folder: Path, key: str) -> Part | None:
    """The part of this key, made if need be; None while another transfer has it."""
    path = part_path(folder, key)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        try:
            locked = _lock(fd)
            if locked and _is_still(path, fd):
                return Part(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if not locked:
            return None


def part_path(folder: Path, key: str) -> Path:
    """Where the part of this key is, or would be."""
    return folder / f"{key}.part"


def read_journal(part: Path) -> Journal:
    """The journal of a part; an empty one where there is none that can be read."""
    try:
        return msgspec.json.decode(_journal_path(part).read_bytes(), type=Journal)
    except (OSError, msgspec.DecodeError):
        return Journal()


def held_bytes(folder: Path, key: str) -> int:
    """How much room on the volume the part of this key takes already."""
    try:
        return part_path(folder, key).stat().st_blocks * 512
    except OSError:
        return 0


def free_bytes(folder: Path) -> int:
    """What the volume has left for us."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@contextmanager
def _disk_full(path: Path) -> Iterator[None]:
    """Turn the system's word for a full disk or quota into ours."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        msg = f"The volume of the models takes no more: {error.strerror}, with {free_bytes(path.parent)} bytes free"
        raise DiskFull(msg) from error


def _journal_path(part: Path) -> Path:
    return part.with_suffix(".json")


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Without locks two transfers may write the same bytes twice, which costs traffic and harms nothing.
        if error.errno not in _CANNOT_LOCK:
            raise
    return True


def _is_still(path: Path, fd: int) -> bool:
    """Whether the locked file is the one of this name: its last owner may have moved or removed it meanwhile."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _fallocate(fd: int, size: int) -> None:
    # os.posix_fallocate would write into every block where the file system (an NFS before 4.2, many FUSE ones) cannot
    # reserve: hours for a large model. The system call itself says so at once.
    fallocate = _fallocate_call()
    if fallocate is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@functools.cache
def _fallocate_call() -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
