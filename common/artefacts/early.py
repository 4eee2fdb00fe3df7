"""Digests of files that are complete long before they go into the store: computed while other work goes on."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER_BYTES = 16 * 1024 * 1024
"""Large, so that the thread seldom has to ask for the interpreter, which the work beside it needs."""

_Identity = tuple[int, int, int, int]


class EarlyDigests:
    """Computes sha256 and brings files to the disk, one at a time, in a thread of its own.

    A digest counts only for the very file, unchanged since it was handed in; for any other there is none.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="digest")
        self._begun: dict[Path, tuple[_Identity, Future[str]]] = {}

    def begin(self, file: Path) -> None:
        """Nobody will change this file any more."""
        self._begun[file] = (_identity(file), self._thread.submit(_digest, file))

    def of(self, file: Path) -> str | None:
        """The digest of a file, waited for if need be; None where it was not handed in, or was changed since."""
        identity, future = self._begun.get(file, (None, None))
        if future is None or identity != _identity(file):
            return None
        try:
            return future.result()
        except OSError:
            return None


def _identity(file: Path) -> _Identity:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _digest(file: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER_BYTES))
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            digest.update(buffer[:count])
        os.fsync(content.fileno())
    return digest.hexdigest()
