"""One HTTP exchange as values: a request that came in, and a reply that can be cut, slowed and spoilt before it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file on disk, sent by the kernel."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence in the middle of a body."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """The end of the connection, by a reset where `reset` is set."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """A speed: so many bytes at once, then a rest."""

    chunk_bytes: int
    interval_s: float

    @classmethod
    def of_rate(cls, bytes_per_s: int) -> Pace:
        chunk_bytes = max(1, min(65536, bytes_per_s // 20))
        return cls(chunk_bytes, chunk_bytes / bytes_per_s)


Piece = bytes | FileRange | Pause | HangUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked of one origin."""

    origin: str
    method: str
    target: str
    headers: Headers
    body: bytes = b""

    @property
    def raw_path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def segments(self) -> list[str]:
        """The decoded parts of the path; an encoded slash stays inside its part."""
        return [unquote(part) for part in self.raw_path.split("/")[1:]]

    @property
    def query(self) -> dict[str, list[str]]:
        values_by_name: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.target.partition("?")[2], keep_blank_values=True):
            values_by_name.setdefault(name, []).append(value)
        return values_by_name

    @property
    def address(self) -> str:
        """The host and port that the client believes it speaks to."""
        return self.headers.get("host", "127.0.0.1")

    def asks(self, name: str) -> str | None:
        return self.query.get(name, [None])[0]

    def without_header(self, name: str) -> Request:
        return replace(self, headers={key: value for key, value in self.headers.items() if key != name.lower()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent back: headers first, then the pieces of the body in turn."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[Piece, ...] = ()
    offset: int = 0
    delay_s: float = 0.0
    pace: Pace | None = None

    @property
    def body_bytes(self) -> int:
        return sum(piece_length(piece) for piece in self.pieces)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def without_header(self, name: str) -> Reply:
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() != name.lower()))

    def with_header(self, name: str, value: str) -> Reply:
        rest = self.without_header(name)
        return replace(rest, headers=(*rest.headers, (name, value)))


def reply_with(status: int, body: bytes = b"", headers: Headers | None = None) -> Reply:
    """A reply with a body in memory."""
    named = {"Content-Length": str(len(body)), **(headers or {})}
    return Reply(status=status, headers=tuple(named.items()), pieces=(body,) if body else ())


def reply_with_json(document: object, headers: Headers | None = None, status: int = 200) -> Reply:
    body = json.dumps(document).encode()
    return reply_with(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def reply_with_file(request: Request, content: bytes | Path, size: int, headers: Headers) -> Reply:
    """A reply with a whole file, or with the range of it that was asked for."""
    named = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    wanted = _wanted_range(request, size, headers.get("ETag"))
    if wanted is None:
        named["Content-Length"] = str(size)
        return Reply(status=200, headers=tuple(named.items()), pieces=_part(content, 0, size))
    start, stop = wanted
    if start >= stop:
        return reply_with(416, headers={**headers, "Content-Range": f"bytes */{size}"})
    named["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    named["Content-Length"] = str(stop - start)
    pieces = _part(content, start, stop - start)
    return Reply(status=206, headers=tuple(named.items()), pieces=pieces, offset=start)


def piece_length(piece: Piece) -> int:
    match piece:
        case bytes():
            return len(piece)
        case FileRange(length=length):
            return length
        case _:
            return 0


def split(pieces: Iterable[Piece], at: int) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Divide a body into its first `at` bytes and the rest."""
    head: list[Piece] = []
    tail: list[Piece] = []
    left = at
    for piece in pieces:
        length = piece_length(piece)
        if tail or (length and left == 0):
            tail.append(piece)
        elif length <= left:
            head.append(piece)
            left -= length
        else:
            first, second = _halves(piece, left)
            head.append(first)
            tail.append(second)
            left = 0
    return tuple(head), tuple(tail)


def read(piece: Piece) -> bytes:
    """The bytes of one piece, in memory."""
    match piece:
        case bytes():
            return piece
        case FileRange(path, offset, length):
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        case _:
            return b""


def range_start(header: str | None) -> int | None:
    """Where a Range header begins, or None where there is none to speak of."""
    found = re.match(r"bytes=(\d+)-", header or "")
    return int(found[1]) if found else None


def _wanted_range(request: Request, size: int, etag: str | None) -> tuple[int, int] | None:
    """The asked range as (start, stop), empty where it cannot be satisfied, None where the whole file is due."""
    condition = request.headers.get("if-range")
    if condition is not None and condition != etag:
        return None
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    last = int(found[2]) if found[2] else size - 1
    if last < int(found[1]):
        # An end before the start makes the header invalid, and an invalid header is ignored.
        return None if found[2] else (size, size)
    return int(found[1]), min(last + 1, size)


def _part(content: bytes | Path, offset: int, length: int) -> tuple[Piece, ...]:
    if length == 0:
        return ()
    if isinstance(content, bytes):
        return (content[offset : offset + length],)
    return (FileRange(content, offset, length),)


def _halves(piece: Piece, at: int) -> tuple[Piece, Piece]:
    match piece:
        case bytes():
            return piece[:at], piece[at:]
        case FileRange(path, offset, length):
            return FileRange(path, offset, at), FileRange(path, offset + at, length - at)
        case _:
            raise AssertionError(f"{piece} has no halves")
