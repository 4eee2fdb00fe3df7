"""The end of the web process in order: first nobody is sent here any more, then streams end, then the server does."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_LINGER_S = 10.0
_LEAST_PATIENCE_S = 4.0

_GOING = "This process is going away; ask another one."


def linger_s(drain_s: float) -> float:
    """How long a process that is asked to end answers as before, so that whoever shares out requests can notice."""
    return min(drain_s / 2, _LONGEST_LINGER_S)


def patience_s(drain_s: float) -> float:
    """How long it waits after that for requests that are on their way: a client that does not read cannot hold it."""
    return max(drain_s - linger_s(drain_s), _LEAST_PATIENCE_S)


class Leaving:
    """Knows whether the process is asked to end. `farewell` is what is done before the server closes its doors.

    On SIGINT or SIGTERM it is not ready any more, at once. Everything else goes on for `linger_s`; then the farewell is
    said, and the server does what it does without us. A second signal ends the lingering.
    """

    def __init__(self, linger_s: float, farewell: Callable[[], None]) -> None:
        self._linger_s = linger_s
        self._farewell = farewell
        self._begun = threading.Event()
        self._lingering: threading.Timer | None = None

    @property
    def begun(self) -> bool:
        """Whether it is asked to end."""
        return self._begun.is_set()

    def lack(self) -> str | None:
        """Why nobody should be sent here, or None."""
        return _GOING if self.begun else None

    def watch(self) -> None:
        """Heed the signals from now on. Only the main thread can see to it.

        The server has set its own handlers by then: this is called when it starts the application.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._precede(number)

    def _precede(self, number: int) -> None:
        former = signal.getsignal(number)
        if not callable(former):
            return

        def go(caught: int, frame: FrameType | None) -> None:
            self._farewell()
            former(caught, frame)

        def handle(caught: int, frame: FrameType | None) -> None:
            if self._lingering is not None:
                self._lingering.cancel()
            if self.begun or self._linger_s <= 0:
                self._begun.set()
                go(caught, frame)
                return
            self._begun.set()
            log.info("api.leaving", extra={"answers_for_s": f"{self._linger_s:.1f}"})
            self._lingering = threading.Timer(self._linger_s, go, (caught, None))
            self._lingering.daemon = True
            self._lingering.start()

        signal.signal(number, handle)


class LastAnswers(ASGIMiddleware):
    """Closes each connection behind its answer once the process is asked to end: the next request goes elsewhere."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Looks at the beginning of each answer."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and self._leaving.begun:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await next_app(scope, receive, told)
