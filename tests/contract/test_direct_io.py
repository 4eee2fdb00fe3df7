"""What writes large files past the page cache, on the disk that is here."""

import ctypes
import errno
import hashlib
import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from worker.converters.openvino import direct_io
from worker.converters.openvino.direct_io import BLOCK_BYTES, Bytes, DirectFile

CONTENT = np.random.default_rng(0).integers(0, 256, 3 * BLOCK_BYTES + 4321, dtype=np.uint8)
_LIBC = ctypes.CDLL(None, use_errno=True)


def written(path: Path, content: Bytes = CONTENT, piece: int = BLOCK_BYTES // 3) -> str:
    """Write a file in pieces, and tell its digest."""
    with DirectFile(path) as file:
        for start in range(0, content.size, piece):
            file.put(content[start : start + piece])
    return file.sha256


def assert_whole(path: Path, sha256: str, content: Bytes = CONTENT) -> None:
    assert path.read_bytes() == content.tobytes()
    assert sha256 == hashlib.sha256(content.data).hexdigest()


def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache. Linux: mincore(2)."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        pages = (ctypes.c_ubyte * -(-len(memory) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(memory)
        failed = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(memory)), pages)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in pages) * mmap.PAGESIZE


def require_direct_writes(folder: Path) -> None:
    """Skip where the file system keeps in the cache what is written past it, as one in memory does."""
    file = folder / "probe"
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system knows no direct writes")
    os.pwrite(number, mmap.mmap(-1, BLOCK_BYTES), 0)
    os.close(number)
    if cached_bytes(file):
        pytest.skip("this file system writes through the cache")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignoring = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignoring)


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, CONTENT.size])
@pytest.mark.parametrize("piece", [4095, BLOCK_BYTES // 3, 3 * BLOCK_BYTES])
def test_files_of_any_size_in_pieces_of_any_size_are_whole(tmp_path: Path, size: int, piece: int) -> None:
    path = tmp_path / "file"
    assert_whole(path, written(path, CONTENT[:size], piece), CONTENT[:size])


def test_a_piece_may_change_once_it_was_put(tmp_path: Path) -> None:
    piece = CONTENT.copy()
    with DirectFile(tmp_path / "file") as file:
        file.put(piece)
        piece[:] = 0
    assert_whole(tmp_path / "file", file.sha256)


def test_only_the_end_of_a_file_is_in_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_direct_writes(tmp_path)
    monkeypatch.setattr(direct_io, "_FAST_BYTES_PER_S", 0)
    written(tmp_path / "file")
    assert cached_bytes(tmp_path / "file") <= 2 * mmap.PAGESIZE


def test_a_slow_disk_is_written_to_through_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_direct_writes(tmp_path)
    monkeypatch.setattr(direct_io, "_FAST_BYTES_PER_S", 1e15)
    monkeypatch.setattr(direct_io, "_TRIED_BYTES", BLOCK_BYTES)
    sha256 = written(tmp_path / "file")
    assert cached_bytes(tmp_path / "file") >= CONTENT.size - BLOCK_BYTES
    assert_whole(tmp_path / "file", sha256)


def test_a_file_system_that_refuses_to_open_a_file_so_is_written_to_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def as_some_do(path: Path, flags: int, mode: int = 0o777) -> int:
        number = open_file(path, flags, mode)
        if flags & os.O_DIRECT:
            os.close(number)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return number

    monkeypatch.setattr(os, "open", as_some_do)
    assert_whole(tmp_path / "file", written(tmp_path / "file"))


def test_a_file_system_that_refuses_to_write_so_is_written_to_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As this one does where memory is not aligned."""
    monkeypatch.setattr(direct_io, "_block", lambda: np.empty(BLOCK_BYTES + 8, np.uint8)[1 : 1 + BLOCK_BYTES])
    assert_whole(tmp_path / "file", written(tmp_path / "file"))


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError):
        written(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("limit", [BLOCK_BYTES, 2 * BLOCK_BYTES + 100, CONTENT.size - 1])
def test_a_disk_that_is_full_is_told(tmp_path: Path, limit: int) -> None:
    with files_of_at_most(limit), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        written(tmp_path / "file")


def test_nothing_is_written_any_more_once_a_file_is_closed(tmp_path: Path) -> None:
    """A block that is written late would hit whatever file has the number by then."""
    for _ in range(20):
        with files_of_at_most(BLOCK_BYTES), pytest.raises(OSError, match="too large"):
            written(tmp_path / "file")
        with (tmp_path / "other").open("wb") as other:
            assert other.tell() == (tmp_path / "other").stat().st_size == 0
        (tmp_path / "file").unlink()


def test_a_failure_beside_it_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    def fail() -> None:
        with DirectFile(tmp_path / "file") as file:
            file.put(CONTENT)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("write", "digest"))]
    open_files = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert tmp_path / "file" not in open_files
