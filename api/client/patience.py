"""How long one goes on trying, and how often."""

import time
from collections.abc import Callable

from api.client.errors import NotUnderstood, Refused, TimedOut, Unreachable

GRACE_S = 60.0
"""A service that restarts is back by then."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_PASSING = frozenset({429, 502, 503, 504})
"""Answers of a service that is not there right now, or of what stands before it."""


class Patience:
    """Time until a deadline, if there is one, and trust in a service that does not answer for a while."""

    def __init__(self, timeout_s: float | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._timeout_s = timeout_s
        self._until = None if timeout_s is None else now() + timeout_s
        self._alone_since: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    @property
    def left_s(self) -> float:
        """Until the deadline; never less than 0."""
        return float("inf") if self._until is None else max(0.0, self._until - self._now())

    def check(self, what: str) -> None:
        """Raises TimedOut once the deadline has come."""
        if self.left_s <= 0:
            raise TimedOut(f"{what} within {self._timeout_s:g} seconds")

    def answered(self) -> None:
        """The service is there."""
        self._alone_since = None

    def failed(self, error: Refused | Unreachable) -> None:
        """Raises the error again if it will not pass, or has not passed for too long."""
        passing = error.status in _PASSING if isinstance(error, Refused) else not isinstance(error, NotUnderstood)
        now = self._now()
        if self._alone_since is None:
            self._alone_since = now
        if not passing or now - self._alone_since > GRACE_S:
            raise error

    def pause_s(self) -> float:
        """How long to wait before the next question: longer each time, and never beyond the deadline."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
        return min(pause_s, self.left_s)
