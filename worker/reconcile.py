"""The reconciler: finds what was lost, makes the queues agree with the table, and clears up. Any number may run."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.artefacts.layout import Volume
from common.artefacts.sweep import sweep
from common.broker import Broker
from common.errors import ServiceUnavailable
from common.metrics.instruments import ReconcilerInstruments
from common.store.retention import Retention
from common.store.stages import StageStore
from common.vocabulary import Pool
from worker.cadence import Cadence
from worker.identity import is_dead

log = logging.getLogger(__name__)

_MOST_TICKETS = 50
_SWEEP_EVERY_S = 300.0
_PRUNE_EVERY_S = 60.0
_MOST_BATCHES = 20


@dataclass
class Reconciler:
    """One loop over the table: dead workers, expired leases, missing tickets, old jobs, leftovers on disk."""

    store: StageStore
    retention: Retention
    broker: Broker
    volume: Volume
    lease_s: float
    every_s: float
    instruments: ReconcilerInstruments = field(default_factory=ReconcilerInstruments.apart)
    beat: Callable[[], None] = lambda: None
    """Is called after each round."""
    _stopped: threading.Event = field(default_factory=threading.Event)
    _in_contact_since: float | None = None
    _last_contact: float = 0.0
    _ahead_s: float = 0.0
    """By how much the database's clock is ahead of this process's own, which nobody can put forward or back."""
    _cadence: Cadence = field(default_factory=Cadence)

    def run(self) -> None:
        """Reconcile until stopped."""
        while not self._stopped.is_set():
            self.once()
            self.beat()
            self._stopped.wait(self.every_s)

    def stop(self) -> None:
        """End the loop after the round that is running."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stopped.is_set()

    def once(self) -> None:
        """One round. A database that is away makes it a short one."""
        try:
            self._note_contact()
            self._take_back()
            for pool in Pool:
                self._send_missing_tickets(pool)
            if self._cadence.is_due("prune", _PRUNE_EVERY_S):
                self._prune()
            if self._cadence.is_due("sweep", _SWEEP_EVERY_S):
                self._sweep()
        except ServiceUnavailable:
            self._in_contact_since = None

    def _note_contact(self) -> None:
        """Since when leases can be trusted: the database has been in reach, and its clock has not leapt."""
        clock = self.store.now()
        now = time.monotonic()
        leapt_s = (clock - now) - self._ahead_s
        self._ahead_s = clock - now
        cut_off = now - self._last_contact > 4 * self.every_s
        if self._in_contact_since is None or cut_off or abs(leapt_s) > self.lease_s / 2:
            if self._in_contact_since is not None:
                log.warning("leases.doubted", extra={"clock_leapt_s": f"{leapt_s:.1f}"})
            self._in_contact_since = now
        self._last_contact = now

    def _take_back(self) -> None:
        dead = [owner for owner in self.store.owners() if is_dead(owner)]
        lost = self.store.reap_owners(dead)
        # After an outage every lease looks expired, because nobody could prolong one, and so it is when the clock was
        # put forward. Workers get a full lease to show that they live before anything is taken from them.
        in_contact_s = time.monotonic() - (self._in_contact_since or time.monotonic())
        if in_contact_s >= self.lease_s:
            lost += self.store.reap()
        self.instruments.taken_back(len(lost))
        for stage_id in lost:
            log.warning("stage.taken_back", extra={"stage": stage_id})

    def _send_missing_tickets(self, pool: Pool) -> None:
        waiting = self.broker.depth(pool)
        if waiting is None:
            return
        missing = self.store.claimable(pool, most=waiting + _MOST_TICKETS) - waiting
        for _ in range(missing):
            if not self.broker.enqueue(pool):
                return
        if missing > 0:
            log.info("tickets.sent", extra={"pool": pool, "count": missing})

    def _prune(self) -> None:
        forgotten = 0
        for _ in range(_MOST_BATCHES):
            if self._stopped.is_set():
                break
            batch = self.retention.prune()
            forgotten += batch
            if not batch:
                break
        if forgotten:
            log.info("jobs.forgotten", extra={"count": forgotten})

    def _sweep(self) -> None:
        live = {f"{stage_id}.{attempt}" for stage_id, attempt in self.store.running()}
        try:
            for path in sweep(self.volume, live):
                log.info("workspace.swept", extra={"workspace": path.name})
        except OSError as error:
            # Leftovers cost space. They must not keep lost stages from being found.
            log.warning("sweep.failed", extra={"reason": str(error)})
