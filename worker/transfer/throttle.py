"""Keeps a transfer within the bandwidth it is given: all its lines ask here before they read."""

import threading
import time

_SLOT_S = 0.02
_LEAST_BYTES = 1024
_BURST_S = 0.1
"""What lines did not use is theirs for so long: more would let them run above the limit after each pause."""
_SHORT_S = 0.25
"""Who waits looks up so often, because the limit may have changed."""


class Throttle:
    """So many bytes per second for all lines together. Any thread may ask; one sets the limit.

    Lines have their turn in the order in which they ask, in pieces so small that each has several turns a second.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.bytes_per_s: float | None = None
        """None is no limit."""
        self._stop = stop
        self._granted = 0
        """How many bytes the lines have asked for, and not given back."""
        self._released = 0.0
        """How many of those they may have read by `_at`."""
        self._at = 0.0
        self._lock = threading.Lock()

    def limit(self, bytes_per_s: float | None) -> bool:
        """Go on at this rate, also for those who wait. Returns whether it is another one than before."""
        rate = None if bytes_per_s is None else max(1.0, bytes_per_s)
        if rate == self.bytes_per_s:
            return False
        now = time.monotonic()
        with self._lock:
            if self.bytes_per_s is None:
                self._released, self._at = self._granted, now
            self._release(now)
            self.bytes_per_s = rate
        return True

    def take(self, most: int) -> int:
        """Wait until something may be read; returns how much, `most` at most. What does not come is to be given back.

        Ends early when the transfer is stopped.
        """
        rate = self.bytes_per_s
        if rate is None:
            return most
        with self._lock:
            count = min(most, max(_LEAST_BYTES, int(rate * _SLOT_S)))
            self._granted += count
            turn = self._granted
        while (rest_s := self._rest_s(turn)) > 0 and not self._stop.wait(min(rest_s, _SHORT_S)):
            pass
        return count

    def give_back(self, count: int) -> None:
        """So many bytes that were taken did not come: whoever waits may have them."""
        if count and self.bytes_per_s is not None:
            with self._lock:
                self._released += count

    def _rest_s(self, turn: int) -> float:
        now = time.monotonic()
        with self._lock:
            if self.bytes_per_s is None:
                return 0.0
            self._release(now)
            return (turn - self._released) / self.bytes_per_s

    def _release(self, now: float) -> None:
        if self.bytes_per_s is not None:
            spare = self._granted + self.bytes_per_s * _BURST_S
            self._released = min(spare, self._released + self.bytes_per_s * (now - self._at))
            self._at = now
