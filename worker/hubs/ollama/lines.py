"""One long answer of a server, line by line, that can be left at any moment."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress

from common.errors import HubUnavailable, SourceUnsafe
from worker.net import Network
from worker.net.connection import Broken, Connection, Question

_TICK_S = 0.1
_FAREWELL_S = 0.3
_MOST_LINE_BYTES = 64 * 1024
_MOST_WAITING = 1000

Refuse = Callable[[int, bytes], Exception]
"""(status, first line) -> what it means that the server does not answer 200."""


class Lines:
    """Asks once and hands on each line of the answer as it comes. `breathe` is called ten times a second at least.

    A thread reads, because a server may say nothing for minutes; whatever `breathe` raises ends the call and closes
    the connection. `silent_s` is for how long no line has come.
    """

    def __init__(self, question: Question, network: Network, breathe: Callable[[], None], refuse: Refuse) -> None:
        self.silent_s = 0.0
        self._question = question
        self._connection = Connection(network, None)
        self._breathe = breathe
        self._refuse = refuse
        self._inbox: queue.Queue[bytes | BaseException | None] = queue.Queue(_MOST_WAITING)
        self._left = threading.Event()

    def __iter__(self) -> Generator[bytes]:
        """Every line that is not empty. Raises HubUnavailable, SourceUnsafe, and what `refuse` makes of a refusal."""
        reader = threading.Thread(target=self._work, name="lines", daemon=True)
        reader.start()
        try:
            yield from self._received()
        finally:
            self._leave(reader)

    def _received(self) -> Generator[bytes]:
        heard_at = time.monotonic()
        while True:
            self.silent_s = time.monotonic() - heard_at
            self._breathe()
            try:
                item = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            heard_at = time.monotonic()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _leave(self, reader: threading.Thread) -> None:
        self._left.set()
        deadline = time.monotonic() + _FAREWELL_S
        while reader.is_alive() and time.monotonic() < deadline:
            self._connection.abort()
            reader.join(0.02)

    # What the reading thread does

    def _work(self) -> None:
        try:
            self._read()
            self._put(None)
        except Broken as broken:
            self._put(HubUnavailable(f"The connection to the Ollama server failed: {broken}"))
        except BaseException as error:  # noqa: BLE001 - the thread that waits for the lines raises it
            self._put(error)
        finally:
            self._connection.close()

    def _read(self) -> None:
        answer = self._connection.ask(self._question)
        # One byte at a time: of more, a body in chunks would be held back until there are as many.
        byte, line = memoryview(bytearray(1)), bytearray()
        while not self._left.is_set() and answer.read_into(byte):
            if byte[0] != ord("\n"):
                line += byte
            elif line.strip():
                self._judge(answer.status, bytes(line))
                line.clear()
            if len(line) > _MOST_LINE_BYTES:
                raise SourceUnsafe("The Ollama server sends a line without an end")
        self._judge(answer.status, bytes(line))

    def _judge(self, status: int, line: bytes) -> None:
        if status != 200:
            raise self._refuse(status, line)
        if line.strip():
            self._put(line)

    def _put(self, item: bytes | BaseException | None) -> None:
        while not self._left.is_set():
            with suppress(queue.Full):
                self._inbox.put(item, timeout=_TICK_S)
                return
