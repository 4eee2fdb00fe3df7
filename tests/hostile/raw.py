"""A server that speaks no protocol: whoever scripts it sends what it likes, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Play = Callable[["Visit"], None]
"""Answers one request. When it returns, the connection is closed."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, and the connection that it came on."""

    head: bytes
    url: str
    """The server's own address, as those who ask know it."""
    connection: socket.socket

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def send(self, *lines: str | bytes, body: bytes = b"") -> None:
        """A status line and headers, then the body as it is."""
        head = b"\r\n".join(line.encode("latin-1") if isinstance(line, str) else line for line in lines)
        self.connection.sendall(head + b"\r\n\r\n" + body)

    def pour(self, piece: bytes, most_bytes: int) -> None:
        """Send a piece again and again, until the other side has enough or `most_bytes` are sent."""
        for _ in range(most_bytes // len(piece)):
            self.connection.sendall(piece)


class RawServer:
    """One port on loopback. `play` answers every request; `requests` are the heads of all of them."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.requests: list[Visit] = []
        self.url = ""
        """As those who ask know it, where that is another address than this port: TLS may stand before it."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def own_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="raw", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            with connection, suppress(OSError):
                head = _read_head(connection)
                if head:
                    visit = Visit(head, self.url or self.own_url, connection)
                    self.requests.append(visit)
                    self.play(visit)
                    _part(connection)
        finally:
            with self._lock:
                self._open.discard(connection)


def _read_head(connection: socket.socket) -> bytes:
    """The request line and the headers; a body is read and forgotten."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n")[1:] if line.lower().startswith(b"content-length:")), 0
    )
    left = length - len(body)
    while left > 0 and (piece := connection.recv(left)):
        left -= len(piece)
    return head


def _part(connection: socket.socket) -> None:
    """End in good order: a reset would throw away what has not been read yet."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(2.0)
    while connection.recv(65536):
        pass
