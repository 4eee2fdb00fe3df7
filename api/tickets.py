"""Sends tickets aside from the requests that cause them: a queue that is slow or away costs no client anything."""

import logging
from collections import Counter
from threading import Condition, Thread

from common.broker import Broker
from common.vocabulary import Pool

log = logging.getLogger(__name__)

_MOST_WAITING = 16
"""More tickets than this wake nobody: if so many wait, then every worker is busy, or away."""
_BETWEEN_BURSTS_S = 0.01
_AFTER_A_FAILURE_S = 1.0
_LAST_BURST_S = 3.0


class TicketSender:
    """One thread, begun with the first ticket. A ticket that cannot be sent is dropped: the reconciler sends it later.

    A ticket too few only costs delay: a worker that ends a stage looks for the next one by itself.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._noted: Counter[Pool] = Counter()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._stopped = False

    def announce(self, pool: Pool, stages: int) -> None:
        """Say that a pool has so many new stages. Returns at once."""
        if stages == 0:
            return
        with self._changed:
            self._noted[pool] += stages
            if self._thread is None and not self._stopped:
                self._thread = Thread(target=self._run, name="tickets", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Send what was noted, and end. Waits only for a moment for a queue that does not answer."""
        with self._changed:
            self._stopped = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join(_LAST_BURST_S)

    def _run(self) -> None:
        while noted := self._next():
            sent = all(self._burst(pool, stages) for pool, stages in noted.items())
            self._pause(_BETWEEN_BURSTS_S if sent else _AFTER_A_FAILURE_S)

    def _next(self) -> Counter[Pool]:
        """What was noted since the last burst, as soon as there is something; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._noted or self._stopped)
            noted, self._noted = self._noted, Counter()
            return noted

    def _burst(self, pool: Pool, stages: int) -> bool:
        waiting = self._broker.depth(pool)
        if waiting is None:
            log.warning("tickets.dropped", extra={"pool": pool, "stages": stages})
            return False
        return all(self._broker.enqueue(pool) for _ in range(min(stages, _MOST_WAITING - waiting)))

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, timeout=seconds)
