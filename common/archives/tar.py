"""Tar archives, with any compression that Python reads: what their members are, and their content."""

import bz2
import gzip
import importlib
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, Protocol, cast

from common.archives.limits import BROKEN, DANGEROUS, PIECE_BYTES, TORN, Member, Meter, Stream, reading
from common.errors import IntegrityMismatch, SourceUnsafe

_MOST_HEADER_BYTES = 64 * 1024
"""What one member may say about itself."""
_XZ_MEMORY_BYTES = 256 * 1024 * 1024
_LONG_NUMBER = re.compile(rb"\d{100}")
_BLOCK = tarfile.BLOCKSIZE


class _TarStream:
    """What tarfile reads its headers from: counted, only forward, and never much for one member."""

    def __init__(self, stream: Stream, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter
        self._position = 0
        self.header_bytes = 0
        """How much of the present member's header was read. To be set to 0 before the next one."""
        self.last = b""
        """What was read last."""

    def tell(self) -> int:
        """How much was read or skipped."""
        return self._position

    def seek(self, position: int) -> None:
        """Skip. Raises EOFError at the end, ValueError where a header points back."""
        if position < self._position:
            raise ValueError
        while self._position < position:
            if not self.content(position - self._position):
                raise EOFError

    def read(self, size: int) -> bytes:
        """Part of a header, whole where it is there."""
        self.header_bytes += size
        if size < 0 or self.header_bytes > _MOST_HEADER_BYTES:
            raise SourceUnsafe("The archive holds a header without end", hint=DANGEROUS)
        found = b""
        while len(found) < size and (piece := self.content(size - len(found))):
            found += piece
        if len(found) > _BLOCK and _LONG_NUMBER.search(found):
            # The library takes quadratic time for such a header.
            raise SourceUnsafe("The archive holds a header that makes no sense", hint=DANGEROUS)
        self.last = found
        return found

    def content(self, size: int) -> bytes:
        """At most so many bytes of what lies between the headers; none at the end."""
        piece = self._stream.read(min(size, PIECE_BYTES))
        self._position += len(piece)
        self._meter.unpacked(len(piece))
        return piece


def tar_members(packed: Stream, meter: Meter) -> Iterator[Member]:
    """What a tar holds, in order. Raises SourceUnsafe, IntegrityMismatch."""
    stream = _TarStream(packed, meter)
    with reading():
        tar = tarfile.TarFile(fileobj=cast("BinaryIO", stream), encoding="utf-8", errors="surrogateescape")
    while True:
        stream.header_bytes = 0
        with reading():
            info = tar.next()
        if info is None:
            break
        if not (info.isdir() or (info.isreg() and not info.issparse())) or info.size < 0:
            raise SourceUnsafe(f"The archive holds a link or a device: {info.name[:200]!r}", hint=DANGEROUS)
        yield Member(info.name, info.isdir(), info.size, partial(_tar_pieces, stream, info))
    with reading():
        _check_end(stream)


def _tar_pieces(stream: _TarStream, info: tarfile.TarInfo) -> Iterator[bytes]:
    with reading():
        stream.seek(info.offset_data)
    left = info.size
    while left:
        with reading():
            piece = stream.content(left)
        if not piece:
            return
        left -= len(piece)
        yield piece


def _check_end(stream: _TarStream) -> None:
    """Raise IntegrityMismatch unless the archive has its end mark, and nothing behind it."""
    if stream.last != bytes(_BLOCK):
        raise IntegrityMismatch("The archive is cut short: its end mark is missing", hint=TORN)
    while piece := stream.content(PIECE_BYTES):
        if piece.strip(b"\x00"):
            raise IntegrityMismatch("The archive has something behind its end", hint=TORN)


def decompressed(file: BinaryIO, start: bytes) -> Stream | None:
    """The content of a file that starts so; None where it is not compressed. Raises SourceUnsafe."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if start.startswith(b"BZh"):
        return _Decompressed(file, bz2.BZ2Decompressor)
    if start.startswith(b"\xfd7zXZ\x00"):
        return _Decompressed(file, partial(lzma.LZMADecompressor, format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            zstd = importlib.import_module("compression.zstd")
        except ImportError as error:
            raise SourceUnsafe(
                "The archive is compressed with zstd, which this Python cannot read", hint="Offer it as tar.gz."
            ) from error
        return cast("Stream", zstd.ZstdFile(file))
    return None


def is_tar_header(block: bytes) -> bool:
    """Whether a file that starts with this block is a tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, *BROKEN):
        return block == bytes(_BLOCK)
    return True


class _Decompressor(Protocol):
    """What bz2 and lzma call a decompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Decompressed:
    """The content of one or more compressed streams.

    The library's own files let anything stand behind the last stream, and xz ask for any amount of memory.
    """

    def __init__(self, file: BinaryIO, fresh: Callable[[], _Decompressor]) -> None:
        self._file = file
        self._fresh = fresh
        self._decompressor = fresh()

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end. Raises EOFError where the last stream has no end."""
        while True:
            packed = b""
            if self._decompressor.eof:
                packed = (self._decompressor.unused_data or self._file.read(PIECE_BYTES)).lstrip(b"\x00")
                if not packed:
                    return b""
                self._decompressor = self._fresh()
            elif self._decompressor.needs_input:
                packed = self._file.read(PIECE_BYTES)
                if not packed:
                    raise EOFError
            piece = self._decompressor.decompress(packed, size)
            if piece:
                return piece
