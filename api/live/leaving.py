"""Ends the streams when the process is asked to end: a web server waits for its open answers before it says so."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def before_the_end(act: Callable[[], None]) -> None:
    """Do this first when SIGINT or SIGTERM comes, and then what the server does. Only the main thread can see to it.

    The server has set its own handlers by then: this is called when it starts the application.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        _precede(number, act)


def _precede(number: int, act: Callable[[], None]) -> None:
    former = signal.getsignal(number)
    if not callable(former):
        return

    def handle(caught: int, frame: FrameType | None) -> None:
        act()
        former(caught, frame)

    signal.signal(number, handle)
