"""Zip archives: what their members are, and their content."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from common.archives.limits import DANGEROUS, PIECE_BYTES, TORN, ArchiveLimits, Member, Meter, reading
from common.errors import IntegrityMismatch, SourceUnsafe

_DIRECTORY_BYTES_PER_FILE = 256
_LEAST_DIRECTORY_BYTES = 1024 * 1024
_ZIP_ENCRYPTED = 0x1
_ZIP_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


class _ZipSource(io.FileIO):
    """The file of a zip, whose directory is read in one go: never much more than the allowed files can take."""

    most_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file. Raises SourceUnsafe where too much is wanted at once."""
        wanted = -1 if size is None else size
        if wanted > self.most_bytes:
            raise SourceUnsafe("The archive holds far too many files", hint=DANGEROUS)
        return super().read(wanted) or b""


def zip_members(file: BinaryIO, limits: ArchiveLimits, meter: Meter) -> Iterator[Member]:
    """What a zip holds, in the order of its directory. Raises SourceUnsafe, IntegrityMismatch."""
    source = _ZipSource(file.fileno(), closefd=False)
    source.most_bytes = max(_LEAST_DIRECTORY_BYTES, limits.most_files * _DIRECTORY_BYTES_PER_FILE)
    with reading():
        archive = zipfile.ZipFile(source)
    _check_zip_end(source, archive)
    for info in archive.infolist():
        _check_zip_member(info)
        is_folder = info.filename.endswith("/")
        yield Member(info.filename, is_folder, info.file_size, partial(_zip_pieces, archive, info, meter))


def _check_zip_end(source: _ZipSource, archive: zipfile.ZipFile) -> None:
    """Raise IntegrityMismatch unless the archive's directory is the end of the file."""
    size = os.fstat(source.fileno()).st_size
    end = size - len(archive.comment) - 22
    source.seek(max(0, end))
    if source.read(4) != b"PK\x05\x06":
        raise IntegrityMismatch("The archive has something behind its end", hint=TORN)


def _check_zip_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR} or "\x00" in info.orig_filename:
        raise SourceUnsafe(f"The archive holds a link or a device: {info.filename[:200]!r}", hint=DANGEROUS)
    if info.flag_bits & _ZIP_ENCRYPTED:
        raise SourceUnsafe("The archive is encrypted", hint="Offer it without a password.")
    if info.compress_type not in _ZIP_METHODS:
        raise SourceUnsafe(
            "The archive is compressed in a way that is not unpacked here",
            hint="Offer it as a zip with the usual compression, or as tar.gz.",
        )


def _zip_pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> Iterator[bytes]:
    with reading():
        content = archive.open(info)
    with content:
        while True:
            with reading():
                piece = content.read(PIECE_BYTES)
            if not piece:
                return
            meter.unpacked(len(piece))
            yield piece
