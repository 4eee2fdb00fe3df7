"""A proxy on loopback that passes each new connection to the next of several servers, and can cut all of them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from types import TracebackType
from typing import Self

_READ_BYTES = 65536


class RoundRobin:
    """Use it as a context manager. `taken` holds the port that each connection went to."""

    def __init__(self, ports: list[int]) -> None:
        self.taken: list[int] = []
        self.resting: set[int] = set()
        """The ports that get no new connection, unless all of them rest."""
        self._ports = ports
        self._next = itertools.cycle(ports)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected, or have been without anybody's cutting them."""
        return len(self._open) // 2

    def cut(self) -> None:
        """End every connection now, wherever it stands."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            _close(end)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self._listening)
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = self._connect()
                if server is None:
                    _close(client)
                    continue
                with self._lock:
                    self._open |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        """A connection to the next server that takes one; None where none does."""
        for _ in self._ports:
            port = next(self._next)
            if port in self.resting and not self.resting.issuperset(self._ports):
                continue
            with contextlib.suppress(ConnectionRefusedError):
                server = socket.create_connection(("127.0.0.1", port))
                self.taken.append(port)
                return server
        return None


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(_READ_BYTES):
            sink.sendall(content)
    _close(source)
    _close(sink)


def _close(end: socket.socket) -> None:
    # A close alone would not wake the thread that waits for it.
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
