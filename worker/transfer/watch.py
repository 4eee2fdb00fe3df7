"""Notices connections that have fallen asleep, and transfers in which nothing moves any more."""

from collections.abc import Iterable, Iterator

from worker.transfer.content import Block
from worker.transfer.line import Line
from worker.transfer.pace import Patience

_MUCH_FASTER = 4


class Watch:
    """Looks at the lines of one transfer from time to time."""

    def __init__(self, patience: Patience, stall_s: float, now: float) -> None:
        self._patience = patience
        self._stall_s = stall_s
        self._started_at = self._moved_at = now
        self._received = 0
        self._marks: dict[Line, tuple[Block, float, int]] = {}
        """Per line: its block, how long it had been at work, and with how many bytes it was last found to be awake."""

    def has_moved(self, received: int) -> bool:
        """Whether anything has arrived since the last look."""
        before, self._received = self._received, received
        return received != before

    def moved(self, now: float) -> None:
        """All is well: bytes arrive, or there is a good reason why they do not."""
        self._moved_at = now

    def has_stalled(self, now: float) -> bool:
        """Whether all has not been well for too long."""
        return now - self._moved_at > self._stall_s

    def rest(self, now: float) -> None:
        """Nobody is to ask for anything just now: whoever does nothing is no sleeper."""
        self._marks = {}
        self.moved(now)

    def sleepers(self, lines: Iterable[Line], received: int, now: float) -> Iterator[Line]:
        """Lines that trickle although the others show that it can be faster."""
        usual_bps = received / max(1e-3, now - self._started_at) / max(1, len(self._marks))
        marks = self._marks
        self._marks = {}
        for line in lines:
            block = line.block
            if block is None:
                continue
            # A line that may not read is not asleep: only the time in which it may counts.
            at_work_s = now - line.idle_s
            known, since, count = marks.get(line, (None, at_work_s, 0))
            if known is not block:
                since, count = at_work_s, line.received
            elif at_work_s - since >= self._patience.trickle_s:
                rate_bps = (line.received - count) / (at_work_s - since)
                if rate_bps < self._patience.trickle_bps and usual_bps > _MUCH_FASTER * rate_bps:
                    yield line
                since, count = at_work_s, line.received
            self._marks[line] = (block, since, count)
