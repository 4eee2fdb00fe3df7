"""When something that is done again and again is due next."""

import time


class Cadence:
    """Remembers of several things when they were done last. For one thread."""

    def __init__(self) -> None:
        self._done_at: dict[str, float] = {}

    def is_due(self, what: str, every_s: float) -> bool:
        """Whether it is time for this again; then it counts as done now. The first time it is."""
        now = time.monotonic()
        if what in self._done_at and now - self._done_at[what] < every_s:
            return False
        self._done_at[what] = now
        return True
