"""Reads an event stream as the HTML standard tells, whatever pieces it comes in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST_BYTES = 64 * 1024 * 1024
"""The most that one event may have: a snapshot of very many jobs fits."""

_END_OF_LINE = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event has more bytes than anybody wants to keep."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One event as it came."""

    event: str
    data: str
    id: str
    """The id of this event, or of the last one before it that had one."""


class EventReader:
    """Takes the bytes of one stream and gives its events. What a cut leaves unfinished is no event."""

    def __init__(self, last_id: str = "", *, most_bytes: int = MOST_BYTES) -> None:
        self.last_id = last_id
        """Of the events that have come."""
        self.retry_ms: int | None = None
        """How long the other side wants to be left alone before a reconnect, if it has said so."""
        self._most_bytes = most_bytes
        self._id = last_id
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0
        self._line = bytearray()
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that end in this piece. Raises EventTooLarge."""
        if self._after_cr and chunk:
            # The other half of a CR LF whose first half was the end of the last piece.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        begin = 0
        for end in _END_OF_LINE.finditer(chunk):
            line = self._line + chunk[begin : end.start()]
            self._line = bytearray()
            begin = end.end()
            self._after_cr = begin == len(chunk) and end.group() == b"\r"
            event = self._take(bytes(line))
            if event is not None:
                yield event
        self._line += chunk[begin:]
        self._check_size(len(self._line))

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._dispatched()
        if not line.startswith(b":"):
            name, _, value = line.partition(b":")
            self._set(name, value.removeprefix(b" "))
        return None

    def _set(self, name: bytes, value: bytes) -> None:
        match name:
            case b"data":
                self._size += len(value) + 1
                self._check_size(0)
                self._data.append(value)
            case b"event":
                self._event = _text(value)
            case b"id" if b"\0" not in value:
                self._id = _text(value)
            case b"retry" if re.fullmatch(rb"[0-9]{1,9}", value):
                self.retry_ms = int(value)
            case _:
                pass

    def _dispatched(self) -> ServerSentEvent | None:
        name, data = self._event or "message", self._data
        self._event, self._data, self._size = "", [], 0
        self.last_id = self._id
        return ServerSentEvent(name, _text(b"\n".join(data)), self.last_id) if data else None

    def _check_size(self, line: int) -> None:
        if self._size + line > self._most_bytes:
            raise EventTooLarge(f"An event has more than {self._most_bytes} bytes")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
