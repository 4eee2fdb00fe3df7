"""The deliverer: sends what the ends of jobs have left for webhooks, again and again if need be. Any number may run.

A message may come more than once: whoever is killed between its answer and the note of it sends it again, under the
same `webhook-id`.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from common.clock import Clock, utc_now
from common.errors import CredentialsLost, ServiceUnavailable, SourceUnsafe, StageError
from common.plugins import NetworkRules
from common.records import Parcel
from common.seals import Seal
from common.store.deliveries import MOST_ATTEMPTS, MOST_WISHED_S, DeliveryStore, longest_wait_s
from common.webhooks import Box, may_be_plain, signature
from worker.cadence import Cadence
from worker.net import Broken, Connection, Network, Question, ended_at, wished_wait

log = logging.getLogger(__name__)

_SENDERS = 8
_AT_ONCE = 4
"""So many messages go to one webhook at once, and so many senders are left to all that have failed last."""
_CONNECT_S = 5.0
_CALL_S = 15.0
_MOST_BYTES = 4 * 1024
_LEAST_WAIT_S = 1.0
_BRING_BACK_EVERY_S = 15.0
_PRUNE_EVERY_S = 300.0
_GRACE_S = 3.0

_GONE = 410


class Verdict(NamedTuple):
    """What a receiver has answered, or why it has not."""

    status: int | None = None
    error: str | None = None
    """Empty where it has taken the message."""
    wished_s: float = 0.0


_OUR_FAULT = Verdict(error="It was not sent: a fault in Modelferry; the reconciler's log has the traceback")


@dataclass
class Deliverer:
    """One loop that takes what is due, and a few threads that send it."""

    store: DeliveryStore
    seal: Seal
    rules: NetworkRules
    now: Clock = utc_now
    jitter: Callable[[], float] = random.random
    every_s: float = 1.0
    call_s: float = _CALL_S
    told: Callable[[str], None] = lambda _outcome: None
    """Is told how each attempt ends: `delivered`, `refused`, `given_up` or `switched_off`."""
    beat: Callable[[], None] = lambda: None
    """Is called at each round of the loop."""
    _stopped: threading.Event = field(default_factory=threading.Event)
    _awake: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: Counter[str] = field(default_factory=Counter)
    """Webhook -> how many messages are on the way to it."""
    _troubled: set[str] = field(default_factory=set)
    """The webhooks that did not take the last message."""
    _open: set[Connection] = field(default_factory=set)
    _cadence: Cadence = field(default_factory=Cadence)

    def __post_init__(self) -> None:
        self._network = Network(_CONNECT_S, self.call_s, self.rules, trusted=False, redirects=False)
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="webhook")
        self._loop = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Deliver until stopped."""
        self._loop.start()

    def stop(self) -> None:
        """End soon: what is on the way gets a moment, and is broken off then."""
        self._stopped.set()
        self._awake.set()
        self._loop.join()
        until = time.monotonic() + _GRACE_S
        while self._on_the_way() and time.monotonic() < until:
            time.sleep(0.05)
        while self._on_the_way():
            self._break_off()
            time.sleep(0.05)
        self._senders.shutdown()

    def once(self) -> None:
        """Send what is due, as far as senders are free. Does not wait for them. Raises ServiceUnavailable."""
        if self._cadence.is_due("bring_back", _BRING_BACK_EVERY_S):
            self.store.bring_back()
        if self._cadence.is_due("prune", _PRUNE_EVERY_S):
            self._prune()
        while not self._stopped.is_set() and self._on_the_way() < _SENDERS:
            parcel = self.store.claim(self._full())
            if parcel is None:
                return
            with self._lock:
                self._busy[parcel.webhook_id] += 1
            self._senders.submit(self._deliver, parcel)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._awake.clear()
            self.beat()
            try:
                self.once()
            except ServiceUnavailable:
                # The database has said so itself. It is asked again.
                pass
            except Exception:
                log.exception("webhooks.failed")
            self._awake.wait(self.every_s)

    def _prune(self) -> None:
        forgotten = 0
        while not self._stopped.is_set() and (batch := self.store.prune()):
            forgotten += batch
        if forgotten:
            log.info("deliveries.forgotten", extra={"count": forgotten})

    def _on_the_way(self) -> int:
        with self._lock:
            return self._busy.total()

    def _full(self) -> set[str]:
        """The webhooks to which nothing more may be sent just now, so that something is left for the others."""
        with self._lock:
            full = {of for of, count in self._busy.items() if count >= (1 if of in self._troubled else _AT_ONCE)}
            if sum(count for of, count in self._busy.items() if of in self._troubled) >= _AT_ONCE:
                full |= self._troubled
            return full

    def _deliver(self, parcel: Parcel) -> None:
        verdict = _OUR_FAULT
        try:
            verdict = self._attempted(parcel)
            self._note(parcel, verdict)
        except Exception:
            # It is still held, and comes back.
            log.exception("delivery.broken", extra=_named(parcel))
        finally:
            with self._lock:
                self._busy -= Counter([parcel.webhook_id])
                (self._troubled.add if verdict.error else self._troubled.discard)(parcel.webhook_id)
            self._awake.set()

    def _attempted(self, parcel: Parcel) -> Verdict:
        try:
            return self._sent(parcel)
        except Exception:
            log.exception("delivery.broken", extra=_named(parcel))
            return _OUR_FAULT

    def _sent(self, parcel: Parcel) -> Verdict:
        try:
            box = Box.opened(self.seal, parcel.webhook_id, parcel.sealed)
            secrets = [box.secret, *self._former(parcel)]
        except CredentialsLost:
            return Verdict(error="What was sealed for this webhook cannot be read: it was sealed with another key")
        if not box.url.lower().startswith("https:") and not may_be_plain(box.url, self.rules.private_hosts):
            return Verdict(error="http is for hosts alone that the operator has named in MODELFERRY_PRIVATE_HOSTS")
        return self._posted(box.url, self._headers(parcel, secrets), parcel.body.encode())

    def _former(self, parcel: Parcel) -> list[str]:
        return [] if parcel.former is None else [Box.opened(self.seal, parcel.webhook_id, parcel.former).secret]

    def _headers(self, parcel: Parcel, secrets: list[str]) -> dict[str, str]:
        seconds = int(self.now().timestamp())
        signed = [signature(secret, parcel.delivery_id, seconds, parcel.body) for secret in secrets]
        return {
            "Content-Type": "application/json",
            "webhook-id": parcel.delivery_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(signed),
        }

    def _posted(self, url: str, headers: dict[str, str], body: bytes) -> Verdict:
        """One POST, which ends in time whatever the receiver does. Of its answer the status alone counts."""
        connection = Connection(self._network, None)
        deadline = time.monotonic() + self.call_s
        with self._lock:
            self._open.add(connection)
        try:
            with ended_at(deadline, connection):
                answer = connection.ask(Question("POST", url, url, headers, body))
                wished_s = wished_wait(answer.headers, self.now) or 0.0
                _read_a_little(answer.read_into)
        except Broken as broken:
            if self._stopped.is_set():
                return Verdict(error="It was broken off, because the service was stopping")
            if time.monotonic() >= deadline:
                return Verdict(error=f"It took more than {self.call_s:.0f} s")
            return Verdict(error=f"It cannot be reached: {broken}")
        except SourceUnsafe:
            return Verdict(error="Its address is inside a private network, and not named in MODELFERRY_PRIVATE_HOSTS")
        except StageError:
            return Verdict(error="The proxy, or the certificates to trust, cannot be used; see docs/connections.md")
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
        return _judged(answer.status, wished_s)

    def _break_off(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            connection.abort()

    def _note(self, parcel: Parcel, verdict: Verdict) -> None:
        fields = {**_named(parcel), "attempt": parcel.attempt, "status": verdict.status}
        try:
            self._noted(parcel, verdict)
        except ServiceUnavailable:
            # It is still held, and comes back: better twice than not at all.
            log.warning("delivery.not_noted", extra=fields)
            return
        if verdict.error is None:
            log.info("delivery.delivered", extra=fields)
        else:
            log.warning("delivery.refused", extra={**fields, "reason": verdict.error})

    def _noted(self, parcel: Parcel, verdict: Verdict) -> None:
        if verdict.error is None and verdict.status is not None:
            self.store.delivered(parcel, verdict.status)
            self.told("delivered")
        elif verdict.status == _GONE:
            self.store.switch_off(parcel, verdict.error or "", verdict.status)
            self.told("switched_off")
        elif parcel.attempt >= MOST_ATTEMPTS:
            self.store.give_up(parcel, verdict.error or "", verdict.status)
            self.told("given_up")
        else:
            self.store.put_off(parcel, self._wait_s(parcel.attempt, verdict), verdict.error or "", verdict.status)
            self.told("refused")

    def _wait_s(self, attempt: int, verdict: Verdict) -> float:
        wait_s = max(_LEAST_WAIT_S, longest_wait_s(attempt) * self.jitter())
        return max(wait_s, min(verdict.wished_s, MOST_WISHED_S))


def _judged(status: int, wished_s: float) -> Verdict:
    if 200 <= status < 300:
        return Verdict(status)
    if status == _GONE:
        return Verdict(status, "It answered 410: it wants to hear nothing any more, and was switched off")
    if 300 <= status < 400:
        return Verdict(status, f"It answered {status}: redirects are not followed", wished_s)
    return Verdict(status, f"It answered {status}", wished_s)


def _read_a_little(read_into: Callable[[memoryview], int]) -> None:
    """Let the receiver say its answer to the end if it is short; nobody looks at it."""
    left = memoryview(bytearray(_MOST_BYTES))
    try:
        while left and (count := read_into(left)):
            left = left[count:]
    except Broken:
        pass


def _named(parcel: Parcel) -> dict[str, object]:
    return {"webhook": parcel.webhook_id, "delivery": parcel.delivery_id}
