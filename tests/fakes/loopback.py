"""Serves one origin over HTTP/1.1 on loopback: a thread per connection, file bodies sent by the kernel."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from io import BufferedIOBase
from types import TracebackType
from typing import Self

from tests.fakes.exchange import FileRange, HangUp, Pace, Pause, Piece, Reply, Request
from tests.fakes.traffic import RecordedRequest, RequestLog

CHUNK_BYTES = 256 * 1024

Answer = Callable[[Request], Reply]


class _Standing:
    """What is started and stopped."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class OnLoopback(_Standing):
    """Stands on one server on loopback, or on several. Start it, or use it as a context manager."""

    _server: LoopbackServer

    def servers(self) -> Iterable[LoopbackServer]:
        """What starts and stops together."""
        return (self._server,)

    def start(self) -> None:
        for server in self.servers():
            server.start()

    def stop(self) -> None:
        """Close all ports and connections. What was put there, the faults, and the port numbers stay."""
        for server in self.servers():
            server.stop()


class LoopbackServer(_Standing):
    """One listening port. It may be stopped and started again, and keeps its port when it is."""

    def __init__(
        self,
        origin: str,
        answer: Answer,
        log: RequestLog,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        pace: Pace | None = None,
    ) -> None:
        self.origin = origin
        self.host = host
        self.port = port
        self._answer = answer
        self._log = log
        self._pace = pace
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        listener = socket.create_server((self.host, self.port), backlog=1024)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._stopping.clear()
        self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Close the port and every connection; replies under way are cut."""
        if self._listener is None:
            return
        self._stopping.set()
        _wake(self._listener)
        with self._lock:
            for connection in self._connections:
                _shut(connection)
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=5)
        self._listener = None

    def _spawn(self, work: Callable[[socket.socket], None], subject: socket.socket) -> None:
        thread = threading.Thread(target=self._work, args=(work, subject), name=f"fake-{self.origin}", daemon=True)
        # Begun under the lock: whoever stops the server joins only threads that have started.
        with self._lock:
            self._threads.add(thread)
            thread.start()

    def _work(self, work: Callable[[socket.socket], None], subject: socket.socket) -> None:
        try:
            with subject:
                work(subject)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            if self._stopping.is_set():
                connection.close()
                return
            self._spawn(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(connection)
        self._log.connected(self.origin)
        try:
            with connection.makefile("rb") as stream:
                while not self._stopping.is_set() and self._exchange(connection, stream):
                    pass
        except (OSError, _HungUp):
            pass  # The client went away, or was sent away: nobody is left to be told.
        finally:
            with self._lock:
                self._connections.discard(connection)
            self._log.disconnected(self.origin)

    def _exchange(self, connection: socket.socket, stream: BufferedIOBase) -> bool:
        """Answer one request; False where the connection must not be used again."""
        request, keep_alive = _read_request(self.origin, stream)
        if request is None:
            return False
        recorded = self._log.received(request)
        try:
            reply = self._answer(request)
            if reply.header("Content-Length") is None:
                keep_alive = False
            self._send(connection, request, reply, recorded, keep_alive=keep_alive)
        finally:
            self._log.finished(recorded)
        return keep_alive

    def _send(
        self,
        connection: socket.socket,
        request: Request,
        reply: Reply,
        recorded: RecordedRequest,
        *,
        keep_alive: bool,
    ) -> None:
        self._rest(reply.delay_s)
        if reply.status == 0:
            self._hang_up(connection, reply.pieces)
        recorded.status = reply.status
        connection.sendall(_head(reply, keep_alive=keep_alive))
        if request.method == "HEAD":
            return
        sender = _Sender(connection, reply.pace or self._pace, self._rest, lambda n: self._log.sent(recorded, n))
        for piece in reply.pieces:
            match piece:
                case Pause(seconds):
                    self._rest(seconds)
                case HangUp():
                    self._hang_up(connection, (piece,))
                case _:
                    sender.send(piece)

    def _hang_up(self, connection: socket.socket, pieces: tuple[Piece, ...]) -> None:
        if HangUp(reset=True) in pieces:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _HungUp

    def _rest(self, seconds: float) -> None:
        if seconds > 0 and self._stopping.wait(seconds):
            raise _HungUp


class _HungUp(Exception):
    """The conversation is over although the client expects more."""


class _Sender:
    """Sends body pieces, not faster than its pace, and reports each byte before the client can see it."""

    def __init__(
        self,
        connection: socket.socket,
        pace: Pace | None,
        rest: Callable[[float], None],
        report: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._pace = pace
        self._rest = rest
        self._report = report
        self._due_s = time.monotonic()

    def send(self, piece: Piece) -> None:
        if isinstance(piece, bytes):
            self._send_bytes(memoryview(piece))
        elif isinstance(piece, FileRange):
            self._send_file(piece)

    def _send_bytes(self, left: memoryview) -> None:
        while left:
            part = left[: self._chunk_bytes()]
            left = left[self._counted(len(part), partial(self._connection.send, part)) :]

    def _send_file(self, piece: FileRange) -> None:
        offset, end = piece.offset, piece.offset + piece.length
        with piece.path.open("rb") as file:
            send = partial(os.sendfile, self._connection.fileno(), file.fileno())
            while offset < end:
                count = min(end - offset, self._chunk_bytes())
                sent = self._counted(count, partial(send, offset, count))
                if sent == 0:
                    raise _HungUp  # The file has become shorter than was promised.
                offset += sent

    def _counted(self, count: int, send: Callable[[], int]) -> int:
        """Send up to `count` bytes. They are reported first, so that no client has a byte that no counter knows."""
        self._report(count)
        sent = 0
        try:
            sent = send()
        finally:
            if sent != count:
                self._report(sent - count)
        self._keep_pace()
        return sent

    def _chunk_bytes(self) -> int:
        return CHUNK_BYTES if self._pace is None else self._pace.chunk_bytes

    def _keep_pace(self) -> None:
        if self._pace is not None:
            self._due_s += self._pace.interval_s
            self._rest(self._due_s - time.monotonic())


def _read_request(origin: str, stream: BufferedIOBase) -> tuple[Request | None, bool]:
    first = stream.read(1)
    if not first.strip():
        return None, False
    if not first.isalpha():
        raise _HungUp  # This is not HTTP, but TLS, say, in which a line may never end.
    line = first + stream.readline(65536)
    try:
        method, target, version = line.decode("latin-1").split()
        parsed = http.client.parse_headers(stream)
    except (ValueError, http.client.HTTPException) as error:
        raise _HungUp from error  # This is not HTTP.
    headers = {name.lower(): value for name, value in parsed.items()}
    body = stream.read(int(headers.get("content-length", "0")))
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    request = Request(origin=origin, method=method, target=target, headers=headers, body=body)
    return request, keep_alive


def _head(reply: Reply, *, keep_alive: bool) -> bytes:
    known = {status.value: status.phrase for status in HTTPStatus}
    lines = [f"HTTP/1.1 {reply.status} {known.get(reply.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _wake(listener: socket.socket) -> None:
    """End a blocking accept: closing the socket under it does not, on every system."""
    # Who has just served somebody may have seen already that it is to stop.
    with suppress(OSError):
        host, port = listener.getsockname()[:2]
        socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), timeout=5).close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # It may be closed already.
        connection.shutdown(socket.SHUT_RDWR)
