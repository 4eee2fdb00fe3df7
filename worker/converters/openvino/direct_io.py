"""Writes large files from beginning to end, past the page cache where the disk is as fast as that is.

Through the cache each gigabyte takes a gigabyte of memory and is copied twice, before the disk has any of it. A slow
disk is better written to through the cache all the same: it goes on while others work, and what reads the file next
does not have to wait for it. Linux: open(2), O_DIRECT.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from common.log import SharedThreads

BLOCK_BYTES = 16 * 1024 * 1024
"""A multiple of what any disk wants places, sizes and addresses to be aligned to."""
_MOST_BEGUN = 4
"""So many blocks may wait to be written, or for their digest."""
_TRIED_BYTES = 8 * BLOCK_BYTES
_FAST_BYTES_PER_S = 5e8

Bytes = npt.NDArray[np.uint8]


class DirectFile:
    """A new file that grows at its end, by threads of its own while the next block is made. Used as a context."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, FileExistsError among them."""
        self._file = _opened(path)
        self._writing = SharedThreads(1, thread_name_prefix="write")
        self._digesting = SharedThreads(1, thread_name_prefix="digest")
        self._digest = hashlib.sha256()
        self._begun: deque[tuple[Bytes, Future[None], Future[None]]] = deque()
        self._block = _block()
        self._filled = 0
        self._offset = 0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._begin()
                while self._begun:
                    self._oldest_block()
        finally:
            self._digesting.shutdown()
            # It knows the file by its number, which will be another file's once this one is closed.
            self._writing.shutdown()
            os.close(self._file)

    @property
    def sha256(self) -> str:
        """Of the whole file, once the context is left."""
        return self._digest.hexdigest()

    def put(self, content: Bytes) -> None:
        """Write a copy of these bytes next. Raises OSError, also for what was put before."""
        start = 0
        while start < content.size:
            part = content[start : start + BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + part.size] = part
            self._filled += part.size
            start += part.size
            if self._filled == BLOCK_BYTES:
                self._begin()
                self._block = _block() if len(self._begun) < _MOST_BEGUN else self._oldest_block()

    def _begin(self) -> None:
        """Write the block as far as it is filled. Only the last one of a file is not full."""
        content = self._block[: self._filled]
        writing = self._writing.submit(self._write, content, self._offset)
        self._begun.append((self._block, writing, self._digesting.submit(self._digest.update, content.data)))
        self._offset += self._filled
        self._filled = 0

    def _oldest_block(self) -> Bytes:
        """The block that was begun first, now that it is done with."""
        block, writing, digesting = self._begun.popleft()
        writing.result()
        digesting.result()
        return block

    def _write(self, content: Bytes, offset: int) -> None:
        if content.size < BLOCK_BYTES or self._is_slow(offset):
            _go_through_cache(self._file)
        began = time.monotonic()
        done = 0
        while done < content.size:
            try:
                done += os.pwrite(self._file, content.data[done:], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _go_through_cache(self._file):
                    raise
        self._seconds += time.monotonic() - began

    def _is_slow(self, written: int) -> bool:
        return written >= _TRIED_BYTES and written < self._seconds * _FAST_BYTES_PER_S


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Some file systems make the file before they say that they cannot.
    path.unlink(missing_ok=True)
    return os.open(path, flags, 0o666)


def _go_through_cache(file: int) -> bool:
    """Write as to any other file from now on; false where that was so already."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)


def _block() -> Bytes:
    return np.frombuffer(mmap.mmap(-1, BLOCK_BYTES), np.uint8)
