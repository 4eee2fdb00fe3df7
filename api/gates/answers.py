"""Answers about gates, ready to be sent: made once in a while for all who ask, and never on the event loop."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from threading import Lock

import msgspec

from api.gates.standing import Eyes, GateStanding
from api.wire import Problem
from api.wire.gates import GateView
from common.errors import NoSuchGate, ServiceUnavailable
from common.gates import GATE_NAME, no_such_gate

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""So old an answer may be and still be given without a look at the gate."""
STALE_S = 3.0
"""No answer that is older is ever given, whatever keeps the next one from being made."""

_RENEW_S = 0.5
"""From this age on an answer is made anew while it is still being given: so nobody waits who asks often."""
_PATIENCE_S = 0.2
"""How long somebody waits for a new answer where there is an old one that will do."""
_LONGEST_WAIT_S = 5.0
_THREADS = 4
_MOST_KNOWN = 1000
_LONGEST_RETRY_S = 10
_SHORTEST_RETRY_S = 1
_USUAL_RETRY_S = 2

_UNKEPT = {"Cache-Control": "no-store"}
"""Nobody between the service and the one who asks may keep an answer for longer than the service does."""
_NOBODY_KNOWS = "Nobody knows at this moment: the job table or the disk does not answer in time."


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody is told who asks for a gate."""

    at: float
    """When the look at the gate began."""
    status: int
    body: bytes
    headers: dict[str, str]
    lack: str | None
    """Why the gate is not open, or None."""


class GateAnswers:
    """The answers of this process. They may be asked for from any thread, and by the event loop."""

    def __init__(
        self, eyes: Eyes, view: Callable[[GateStanding], GateView], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._eyes = eyes
        self._view = view
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gates")
        self._known: dict[str, Answer] = {}
        self._coming: dict[str, Future[Answer]] = {}
        self._changing = Lock()

    async def answer(self, name: str) -> Answer:
        """What is to be said of a gate now. Never waits on the event loop's own time."""
        known, coming = self._look(name)
        if coming is None:
            return known or self._unknown(name)
        patience = _LONGEST_WAIT_S if known is None else _PATIENCE_S
        # Waited for, and not cancelled with the one who waits: others wait for it too.
        done, _ = await asyncio.wait({asyncio.wrap_future(coming)}, timeout=patience)
        return coming.result() if done else known or self._nobody_knows()

    def answer_now(self, name: str) -> Answer:
        """The same, for a caller in a thread."""
        known, coming = self._look(name)
        if coming is None:
            return known or self._unknown(name)
        try:
            return coming.result(_LONGEST_WAIT_S if known is None else _PATIENCE_S)
        except NotInTime:
            return known or self._nobody_knows()

    def lack(self, name: str) -> str | None:
        """Why a gate is not open, or None where it is."""
        return self.answer_now(name).lack

    def forget(self, name: str) -> None:
        """The gate was changed: what is known of it, and what is being found out, is from before."""
        with self._changing:
            self._known.pop(name, None)
            self._coming.pop(name, None)

    def stop(self) -> None:
        """Make no further answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, name: str) -> tuple[Answer | None, Future[Answer] | None]:
        """The answer that may be given, and the one to wait for, if the first is not fresh."""
        known = self._known.get(name)
        age = STALE_S if known is None else self._clock() - known.at
        if age < _RENEW_S:
            return known, None
        if not GATE_NAME.fullmatch(name):
            return None, None
        coming = self._begun(name)
        if age < FRESH_S:
            return known, None
        return (known if age < STALE_S else None), coming

    def _begun(self, name: str) -> Future[Answer]:
        """The answer that is being made: one for all who wait for it."""
        with self._changing:
            coming = self._coming.get(name)
            if coming is not None:
                return coming
            coming = self._coming[name] = self._threads.submit(self._make, name)
        # Not while the lock is held: of an answer that is there already, the end is told at once, and here.
        coming.add_done_callback(lambda made: self._keep(name, made))
        return coming

    def _make(self, name: str) -> Answer:
        at = self._clock()
        try:
            standing = self._eyes.gate(name)
            if standing is None:
                return self._unknown(name)
            return _told(at, self._view(standing))
        except ServiceUnavailable as error:
            log.warning("gate.unknown", extra={"gate": name, "reason": str(error)})
        except Exception:
            # Whatever it is: a gate that cannot be looked at is not open.
            log.exception("gate.unknown", extra={"gate": name, "reason": "internal"})
        return self._nobody_knows()

    def _keep(self, name: str, made: Future[Answer]) -> None:
        with self._changing:
            if self._coming.get(name) is not made:
                return
            del self._coming[name]
            if made.cancelled():
                return
            # The newest stand last; the oldest goes when there are too many names.
            self._known.pop(name, None)
            self._known[name] = made.result()
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def _unknown(self, name: str) -> Answer:
        return _problem(self._clock(), 404, no_such_gate(name), _UNKEPT)

    def _nobody_knows(self) -> Answer:
        away = ServiceUnavailable(_NOBODY_KNOWS)
        return _problem(self._clock(), 503, away, _UNKEPT | {"Retry-After": str(_USUAL_RETRY_S)})


def _told(at: float, view: GateView) -> Answer:
    headers = _UNKEPT if view.open else _UNKEPT | {"Retry-After": str(_retry_after(view.eta_s))}
    body = msgspec.json.encode(view)
    return Answer(
        at=at, status=200 if view.open else 503, body=body, headers=headers, lack=None if view.open else view.message
    )


def _problem(at: float, status: int, error: NoSuchGate | ServiceUnavailable, headers: dict[str, str]) -> Answer:
    body = msgspec.json.encode(Problem(detail=str(error)))
    return Answer(at=at, status=status, body=body, headers=headers | {"X-Error-Code": error.code}, lack=str(error))


def _retry_after(eta_s: float | None) -> int:
    if eta_s is None:
        return _USUAL_RETRY_S
    return int(min(max(_SHORTEST_RETRY_S, eta_s), _LONGEST_RETRY_S))
