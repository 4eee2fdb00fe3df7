"""Messages between two processes: JSON, each with its length before it, over a Unix socket."""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")

_HEADER_BYTES = 4
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_READ_BYTES = 64 * 1024
_MOST_FILES = 8


class ChannelClosed(Exception):
    """The other end is closed; nothing more will come or go."""


class ChannelBroken(ChannelClosed):
    """What came is no message."""


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket, request: bytes = b"") -> None:
        self.request = request
        """In a child: what it was asked to do."""
        self._end = end
        self._sending = threading.Lock()
        self._received = bytearray()
        self._files: deque[int] = deque()

    def send(self, message: object) -> None:
        """Send a message. Waits while the other end does not read. Raises ChannelClosed."""
        self.send_frame(msgspec.json.encode(message))

    def receive(self, decoder: msgspec.json.Decoder[T], timeout_s: float | None = None) -> T | None:
        """The next message; None when there is none within the time. Raises ChannelClosed, ChannelBroken."""
        frame = self.receive_frame(timeout_s)
        if frame is None:
            return None
        try:
            return decoder.decode(frame)
        except msgspec.DecodeError as error:
            raise ChannelBroken(str(error)) from error

    def messages(self, decoder: msgspec.json.Decoder[T]) -> Iterator[T]:
        """Every message until the other end closes. Raises ChannelBroken."""
        while True:
            try:
                message = self.receive(decoder)
            except ChannelBroken:
                raise
            except ChannelClosed:
                return
            if message is not None:
                yield message

    def send_frame(self, content: bytes, files: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors of open files beside them. Raises ChannelClosed."""
        frame = len(content).to_bytes(_HEADER_BYTES) + content
        try:
            with self._sending:
                sent = socket.send_fds(self._end, [frame], files) if files else 0
                self._end.sendall(memoryview(frame)[sent:])
        except OSError as error:
            raise ChannelClosed from error

    def receive_frame(self, timeout_s: float | None = None) -> bytes | None:
        """The next bytes; None when there are none within the time. Raises ChannelClosed, ChannelBroken."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (frame := self._next_frame()) is None:
            if not self._wait(deadline):
                return None
            self._read()
        return frame

    def received_files(self, count: int) -> tuple[int, ...]:
        """The descriptors that came with a frame, in their order; they are the caller's to close."""
        return tuple(self._files.popleft() for _ in range(count))

    def fileno(self) -> int:
        """For `select` and the like; messages that were received together are not seen by it."""
        return self._end.fileno()

    def finish_sending(self) -> None:
        """Let the other end see that nothing more will come."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end. Safe to repeat."""
        self._end.close()

    def _next_frame(self) -> bytes | None:
        if len(self._received) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(self._received[:_HEADER_BYTES])
        if end > _MAX_FRAME_BYTES:
            raise ChannelBroken(f"A message of {end} bytes")
        if len(self._received) < end:
            return None
        frame = bytes(self._received[_HEADER_BYTES:end])
        del self._received[:end]
        return frame

    def _wait(self, deadline: float | None) -> bool:
        poll = select.poll()
        try:
            poll.register(self._end, select.POLLIN)
        except (OSError, ValueError) as error:
            raise ChannelClosed from error
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return bool(poll.poll(left))

    def _read(self) -> None:
        try:
            content, files, _, _ = socket.recv_fds(self._end, _READ_BYTES, _MOST_FILES, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ChannelClosed from error
        if not content:
            raise ChannelClosed
        self._received += content
        self._files.extend(files)
