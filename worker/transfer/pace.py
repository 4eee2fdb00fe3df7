"""How hard a transfer pulls: how many connections it opens, and how long it waits after a failure."""

import random
import threading
from dataclasses import dataclass

_FIRST_CONNECTIONS = 4
_WINDOW_S = 0.25
_WORTH_IT = 1.2
"""Twice the connections are kept if they bring this much more."""
_SETTLED_S = 20.0
_EASED_S = 10.0
_EASE_ONCE_S = 1.0
_AT_LIMIT = 0.85
"""From here on it is the limit, and not the connections, that decides how fast a transfer is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a connection or a whole transfer gives up."""

    tries: int = 7
    """How often in a row one block may fail without gaining anything worth mentioning."""
    lies: int = 2
    """The same where the server answers, but cannot be believed."""
    first_s: float = 0.5
    longest_s: float = 30.0
    """Who is told to wait longer than this gives its place in the worker to another job."""
    worth_bytes: int = 64 * 1024
    trickle_s: float = 30.0
    trickle_bps: float = 10_000.0
    """A connection that is slower than this for so long, while others are not, is opened anew."""

    def wait_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row, with jitter so that connections do not come back as one."""
        longest = min(self.longest_s, self.first_s * 2.0 ** (failures - 1))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 # nosec B311 # no secret hangs on it


class Pace:
    """How many connections are worth their cost.

    Where the server limits each connection, sixteen bring four times what four bring; where the line, the disk or the
    processor is the limit, more than four only cost. So it doubles them for as long as that brings clearly more.
    """

    def __init__(self, most: int, now: float) -> None:
        self.connections = min(_FIRST_CONNECTIONS, most)
        self._most = most
        self._since = now
        self._bytes = 0
        self._before: tuple[int, float] | None = None
        """The number of connections before the last doubling, and the rate they had."""
        self._doubted = False
        self._rests_until = now
        self._eased_at = now - _EASE_ONCE_S
        self.silent_until = now
        """Nobody asks for anything before this moment: the hub has said so, to us or to another worker."""
        self.spent_until = now
        """The hub itself grants no request before this moment. Where files are already known to be, they may be had."""
        self._hushing = threading.Lock()

    def rest_s(self, now: float, *, asks_hub: bool) -> float:
        """How long to wait before the next request; not above 0 when it may be made at once."""
        return max(self.silent_until, self.spent_until if asks_hub else now) - now

    def is_resting(self, now: float, longest_s: float) -> bool:
        """Whether lines do nothing because they must not; for longer than this none waits for the hub's leave."""
        return now < self.silent_until or now < self.spent_until <= now + longest_s

    def hush(self, until: float) -> None:
        """Make no request before this moment. The longest wish counts."""
        with self._hushing:
            self.silent_until = max(self.silent_until, until)

    def spare(self, until: float) -> None:
        """Ask the hub itself for nothing before this moment."""
        with self._hushing:
            self.spent_until = max(self.spent_until, until)

    def start_over(self, total_bytes: int, now: float) -> None:
        """The limit is another one: what was seen under the last one is of no use."""
        self._since, self._bytes = now, total_bytes
        self._before = None
        self._doubted = False

    def observe(self, total_bytes: int, now: float, *, busy: bool, limit_bps: float | None = None) -> None:
        """Look at what has arrived so far. `busy` says that there is work for every connection."""
        if not busy or now < self._rests_until:
            self._since, self._bytes = now, total_bytes
        elapsed = now - self._since
        if elapsed < _WINDOW_S:
            return
        rate = (total_bytes - self._bytes) / elapsed
        self._since, self._bytes = now, total_bytes
        if limit_bps is not None and rate >= _AT_LIMIT * limit_bps:
            self._before = None
            self._doubted = False
            return
        self._judge(rate, now)

    def ease(self, now: float) -> None:
        """The server is overloaded, or says that we ask too much: halve the connections, and wait before more."""
        if now - self._eased_at < _EASE_ONCE_S:
            return  # Sixteen connections that are refused at one moment are one reason to ease.
        self._eased_at = now
        self._before = None
        self._rests_until = now + _EASED_S
        self.connections = max(1, self.connections // 2)

    def _judge(self, rate: float, now: float) -> None:
        pays = self._before is None or rate >= self._before[1] * _WORTH_IT
        if not pays and not self._doubted:
            # New connections have hardly begun to bring anything: one more look before they are given up.
            self._doubted = True
            return
        self._doubted = False
        if self._before is not None and not pays:
            self.connections = self._before[0]
            self._before = None
            self._rests_until = now + _SETTLED_S
        elif self.connections < self._most and rate > 0:
            self._before = (self.connections, rate)
            self.connections = min(self._most, self.connections * 2)
