"""What all workers together leave to the fetches of this one: asked for once for all slots, and passed on when new."""

import logging
import threading
import time
from dataclasses import dataclass, field

from common.errors import ServiceUnavailable
from common.plugins import Allowance
from common.store.limits import LimitStore

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_AWAY_S = 5.0
_LOOK_S = 0.5
_NEWS_S = 0.5
_NEWS_SHARE = 0.01
"""A rate that differs by less than this, or a silence by less than that, is no news to a transfer."""


@dataclass
class Allowances:
    """The newest answer of the job table. Any thread may ask; nobody waits for another's question."""

    limits: LimitStore
    _known: tuple[dict[str, Allowance], float] = ({}, 0.0)
    """What the table last said, and when."""
    _next_at: float = 0.0
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def of(self, hub: str) -> Allowance:
        """What a fetch from this hub may do now. While the database is away, what it last said still holds."""
        if time.monotonic() >= self._next_at or hub not in self._known[0]:
            self._refresh()
        allowances, asked_at = self._known
        known = allowances.get(hub, Allowance())
        left_s = max(0.0, known.silent_s - (time.monotonic() - asked_at))
        return Allowance(bytes_per_s=known.bytes_per_s, silent_s=left_s)

    def close_hub(self, hub: str, wait_s: float, reason: str) -> None:
        """Let no worker ask this hub for anything for so long. While the database is away, nobody else hears of it."""
        try:
            self.limits.close_hub(hub, wait_s, reason)
        except ServiceUnavailable:
            log.warning("hub.not_closed", extra={"hub": hub, "wait_s": f"{wait_s:.1f}"})
        else:
            log.info("hub.closed", extra={"hub": hub, "wait_s": f"{wait_s:.1f}"})
        self._next_at = 0.0

    def _refresh(self) -> None:
        if not self._asking.acquire(blocking=False):
            return
        pause_s = _AWAY_S
        try:
            now = time.monotonic()
            self._known = self.limits.allowances(), now
            pause_s = _EVERY_S
        except ServiceUnavailable:
            log.debug("allowances.unknown")
        finally:
            self._next_at = time.monotonic() + pause_s
            self._asking.release()


@dataclass
class Tidings:
    """What one child has been told, so that it is told again only when that has changed."""

    _told: Allowance = field(default_factory=Allowance)
    _told_at: float = 0.0
    _next_at: float = 0.0

    def wait_s(self) -> float:
        """In how many seconds there may be news."""
        return max(0.0, self._next_at - time.monotonic())

    def news(self, allowances: Allowances, hub: str) -> Allowance | None:
        """What the child does not know yet. `told` is to be called when it has been sent."""
        now = time.monotonic()
        if now < self._next_at:
            return None
        self._next_at = now + _LOOK_S
        allowance = allowances.of(hub)
        silence_left_s = max(0.0, self._told.silent_s - (now - self._told_at))
        same_silence = abs(allowance.silent_s - silence_left_s) < _NEWS_S
        return None if same_silence and _is_same(allowance.bytes_per_s, self._told.bytes_per_s) else allowance

    def told(self, allowance: Allowance) -> None:
        """The child knows this now."""
        self._told, self._told_at = allowance, time.monotonic()


def _is_same(rate: float | None, other: float | None) -> bool:
    if rate is None or other is None:
        return rate is other
    return abs(rate - other) <= _NEWS_SHARE * other
