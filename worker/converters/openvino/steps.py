"""Measures how long the steps of a conversion take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.tracing import past


class Steps:
    """The seconds of each step so far. What several orders share is in the time of each of them."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._mark = time.monotonic()

    def ended(self, step: str) -> None:
        """Count the time since the last mark as this step's."""
        now = time.monotonic()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._mark
        past(f"convert: {step}", now - self._mark)
        self._mark = now

    def restart(self) -> None:
        """What came before is nobody's time."""
        self._mark = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time inside as this step's. What came before is nobody's."""
        self.restart()
        try:
            yield
        finally:
            self.ended(name)

    def rounded(self) -> dict[str, float]:
        """In milliseconds' precision, for the record."""
        return {name: round(value, 3) for name, value in self.seconds.items()}
