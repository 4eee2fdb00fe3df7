"""Jobs that are waited for in a thread, so that the main one can be interrupted and look after a service."""

import queue
import threading
from collections.abc import Callable, Sequence

from api.cli.bars import Display
from api.client import Client
from api.wire import JobView
from common.errors import ModelferryError

_TICK_S = 0.2


def nothing() -> None:
    """What is to be done beside the waiting, where there is nothing."""


def follow(
    connect: Callable[[], Client],
    ids: Sequence[str],
    display: Display,
    *,
    timeout_s: float | None = None,
    tend: Callable[[], None] = nothing,
) -> list[JobView]:
    """The jobs once all of them have ended; meanwhile they are shown.

    `tend` is called several times a second, and what it raises ends the waiting. Raises TimedOut, Refused for a job
    that is unknown, and Unreachable when nobody has answered for a while.
    """
    waiting = _Waiting(connect, ids, timeout_s)
    with display:
        waiting.start()
        while not waiting.over:
            tend()
            for job in waiting.changes(_TICK_S):
                display.show(job)
    return waiting.result()


class _Waiting:
    """The thread. It holds nothing that would have to be let go of, and so may be left alone at any time."""

    def __init__(self, connect: Callable[[], Client], ids: Sequence[str], timeout_s: float | None) -> None:
        self._connect = connect
        self._ids = list(dict.fromkeys(ids))
        self._timeout_s = timeout_s
        # None is the end.
        self._changes: queue.SimpleQueue[JobView | None] = queue.SimpleQueue()
        self._outcome: list[JobView] | ModelferryError | None = None
        self.over = False

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._wait, name="waiting", daemon=True).start()

    def changes(self, timeout_s: float) -> list[JobView]:
        """The jobs that have changed, after waiting for a first one this long."""
        found: list[JobView] = []
        try:
            while (job := self._changes.get(timeout=0 if found else timeout_s)) is not None:
                found.append(job)
            self.over = True
        except queue.Empty:
            pass
        return found

    def result(self) -> list[JobView]:
        """The jobs. Raises what has come between."""
        if isinstance(self._outcome, list):
            return self._outcome
        raise self._outcome or RuntimeError("the thread that waits has died")

    def _wait(self) -> None:
        try:
            with self._connect() as client:
                self._outcome = client.wait_all(self._ids, timeout_s=self._timeout_s, on_progress=self._changes.put)
        except ModelferryError as error:
            self._outcome = error
        finally:
            self._changes.put(None)
