"""What may come out of an archive, and the words for what may not."""

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from common.errors import IntegrityMismatch, SourceUnsafe

PIECE_BYTES = 1024 * 1024
_FREE_OF_RATIO_BYTES = 8 * 1024 * 1024
"""So much may come out of any archive, however small it is."""
BROKEN = (
    EOFError, ArithmeticError, LookupError, RecursionError, NotImplementedError, ValueError, struct.error,
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
DANGEROUS = "The archive holds a file name or a kind of file that must not be unpacked. Do not use this source."
TOO_LARGE = "An operator can raise MODELFERRY_MAX_UNPACKED_MB if the archive is to be trusted."
TORN = "The archive is damaged or was cut short where it came from. Try again, or report it to who offers it."


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What may come out of one archive."""

    most_bytes: int
    most_files: int = 100_000
    """Folders and what is left out count as well."""
    most_ratio: int = 200
    """So many bytes may come of one byte of the archive; looked at after the first megabytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a folder in an archive, under the name that the archive gives it."""

    name: str
    is_folder: bool
    size: int
    """As the archive promises it."""
    pieces: Callable[[], Iterator[bytes]]
    """Reads the content, once."""


class Stream(Protocol):
    """What an archive is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""


class Meter:
    """Counts what comes out of an archive, and stops what has no end."""

    def __init__(self, packed_bytes: int, limits: ArchiveLimits, checkpoint: Callable[[], None]) -> None:
        self._limits = limits
        self._most_unpacked = max(_FREE_OF_RATIO_BYTES, packed_bytes * limits.most_ratio)
        self._checkpoint = checkpoint
        self._members = 0
        self._unpacked = 0
        self._written = 0

    def member(self) -> None:
        """One more file or folder. Raises SourceUnsafe."""
        self._checkpoint()
        self._members += 1
        if self._members > self._limits.most_files:
            raise SourceUnsafe(f"The archive holds more than {self._limits.most_files} files", hint=DANGEROUS)

    def unpacked(self, count: int) -> None:
        """So many bytes more came out, headers and what is left out included. Raises SourceUnsafe."""
        self._checkpoint()
        self._unpacked += count
        if self._unpacked > self._most_unpacked:
            raise SourceUnsafe(
                f"More than {self._limits.most_ratio} bytes come of each byte of the archive", hint=DANGEROUS
            )

    def written(self, count: int) -> None:
        """So many bytes more are to be kept. Raises SourceUnsafe."""
        self._written += count
        if self._written > self._limits.most_bytes:
            raise SourceUnsafe(f"The archive holds more than {self._limits.most_bytes} bytes", hint=TOO_LARGE)


@contextmanager
def reading() -> Iterator[None]:
    """Around every look into the archive: whatever a library makes of a broken one is a broken archive."""
    try:
        yield
    except BROKEN as error:
        raise IntegrityMismatch(f"The archive is broken: {type(error).__name__}", hint=TORN) from error
    except OSError as error:
        # Libraries raise it without a number, or seek to where nothing can be.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise IntegrityMismatch("The archive is broken: it cannot be read to its end", hint=TORN) from error
