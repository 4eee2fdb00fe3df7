"""Digests of files that are complete long before they go into the store: computed while other work goes on."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER_BYTES = 16 * 1024 * 1024
"""Large, so that the thread seldom has to ask for the interpreter, which the work beside it needs."""

Identity = tuple[int, int, int, int]


class EarlyDigests:
    """Computes sha256 of files, and brings them to the disk meanwhile, one at a time, in threads of their own.

    A digest counts only for the very file, unchanged since it was handed in; for any other there is none.
    """

    def __init__(self) -> None:
        self._digesting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="digest")
        self._syncing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")
        self._begun: dict[Path, tuple[Identity, Future[str], Future[None]]] = {}

    def begin(self, file: Path, sha256: str | None = None) -> None:
        """Nobody will change this file any more. Whoever wrote it may know its digest."""
        syncing = self._syncing.submit(_sync, file)
        digesting = self._digesting.submit(_digest, file) if sha256 is None else _known(sha256)
        self._begun[file] = (identity_of(file), digesting, syncing)

    def of(self, file: Path) -> str | None:
        """The digest of a file, waited for if need be; None where it was not handed in, or was changed since."""
        begun = self._begun.get(file)
        if begun is None or begun[0] != identity_of(file):
            return None
        _, digest, synced = begun
        try:
            synced.result()
            return digest.result()
        except OSError:
            return None


def identity_of(file: Path) -> Identity:
    """By what a file is known again as the very same, unchanged."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _known(sha256: str) -> Future[str]:
    known = Future[str]()
    known.set_result(sha256)
    return known


def _digest(file: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER_BYTES))
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb", buffering=0) as content:
        os.fsync(content.fileno())
