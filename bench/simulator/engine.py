"""A clock, servers with queues, and wires that are shared: what a simulation of discrete events is made of.

Whatever happens in the simulated world is a generator of steps. A step is told how to go on, and does so some time:

    def visitor(clock, till):
        yield till.take
        yield clock.pause(2.0)
        till.give()
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Resume = Callable[[], None]
Step = Callable[[Resume], None]
Steps = Iterator[Step]


class Clock:
    """Simulated time, and what is due in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Resume]] = []
        self._order = itertools.count()

    def after(self, seconds: float, call: Resume) -> None:
        """Have something happen later. Of what is due at the same moment, what was asked for first comes first."""
        heapq.heappush(self._due, (self.now + seconds, next(self._order), call))

    def pause(self, seconds: float) -> Step:
        """A step that takes its time and nothing else."""
        return lambda resume: self.after(seconds, resume)

    def start(self, steps: Steps) -> None:
        """Begin with a chain of steps now."""

        def resume() -> None:
            step = next(steps, None)
            if step is not None:
                step(resume)

        resume()

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing is due any more, or to a moment."""
        while self._due and self._due[0][0] <= until:
            self.now, _, call = heapq.heappop(self._due)
            call()
        if until < math.inf:
            self.now = max(self.now, until)


@dataclass
class Watch:
    """How many there were of something over time: its integral."""

    clock: Clock
    level: int = 0
    area: float = 0.0
    _since: float = 0.0

    def change(self, by: int) -> None:
        """So many more, or fewer, from now on."""
        self.area += self.level * (self.clock.now - self._since)
        self._since, self.level = self.clock.now, self.level + by

    def mean(self) -> float:
        """The level over all the time so far."""
        self.change(0)
        return self.area / self.clock.now if self.clock.now else 0.0


class Servers:
    """So many are served at once; the others wait in the order in which they came."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.count = count
        self.served = 0
        self._clock = clock
        self._waiting: deque[Resume] = deque()
        self._busy, self._queue = Watch(clock), Watch(clock)

    def take(self, resume: Resume) -> None:
        """A step that goes on when a server is free; `give` frees it again."""
        if self._busy.level < self.count:
            self._busy.change(1)
            resume()
        else:
            self._queue.change(1)
            self._waiting.append(resume)

    def give(self) -> None:
        """Free a server: whoever has waited longest has it now."""
        self.served += 1
        if self._waiting:
            self._queue.change(-1)
            # At this moment, but not inside of whoever gives: chains of steps must not grow into each other.
            self._clock.after(0.0, self._waiting.popleft())
        else:
            self._busy.change(-1)

    @property
    def busy(self) -> int:
        """How many servers have somebody now."""
        return self._busy.level

    @property
    def has_free(self) -> bool:
        """Whether one of several servers has nobody now."""
        return self.count > 1 and self._busy.level < self.count

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits now."""
        return bool(self._waiting)

    @property
    def utilisation(self) -> float:
        """The share of all servers' time in which they had somebody."""
        return self._busy.mean() / self.count

    @property
    def waiting(self) -> float:
        """How many have waited, over all the time so far."""
        return self._queue.mean()


class Cores(Servers):
    """The processor of one machine. The busier it is, the slower each core: caches, memory and threads are shared."""

    def __init__(self, clock: Clock, count: int, slowdown: float = 1.0) -> None:
        """`slowdown` is how much longer the same work takes while all cores are busy."""
        super().__init__(clock, count)
        self._slowdown = slowdown

    def work(self, seconds: float, *, slice_s: float = 0.01) -> Steps:
        """Steps that use a core for so long, and let others have it after each slice."""
        while seconds > 0:
            turn = min(seconds, slice_s)
            yield self.take
            yield self._clock.pause(turn * self._factor())
            self.give()
            seconds -= turn

    def _factor(self) -> float:
        """Between 1 for the only busy core and all of the slowdown when none is free."""
        if self.count == 1:
            return self._slowdown
        return 1 + (self._slowdown - 1) * (self.busy - 1) / (self.count - 1)


@dataclass
class _Transfer:
    left: float
    wires: Mapping[str, float]
    """Name -> bytes a second, that all transfers over it share."""
    resume: Resume
    rate: float = 0.0


@dataclass
class Wires:
    """Transfers that share limits: each has an equal part of every wire it uses, and goes as fast as its slowest."""

    clock: Clock
    moved: float = 0.0
    _running: list[_Transfer] = field(default_factory=list)
    _since: float = 0.0
    _turn: int = 0

    def move(self, size: float, wires: Mapping[str, float]) -> Step:
        """A step that goes on when so many bytes have gone over all of these wires."""

        def begin(resume: Resume) -> None:
            self._advance()
            self._running.append(_Transfer(size, wires, resume))
            self._plan()

        return begin

    def _advance(self) -> None:
        passed = self.clock.now - self._since
        self._since = self.clock.now
        for transfer in self._running:
            transfer.left -= transfer.rate * passed
            self.moved += transfer.rate * passed

    def _plan(self) -> None:
        """Work out anew how fast each one is, and look again when the first will be done."""
        users: dict[str, int] = {}
        for transfer in self._running:
            for wire in transfer.wires:
                users[wire] = users.get(wire, 0) + 1
        for transfer in self._running:
            transfer.rate = min(rate / users[wire] for wire, rate in transfer.wires.items())
        self._turn += 1
        turn = self._turn
        if self._running:
            self.clock.after(max(0.0, min(one.left / one.rate for one in self._running)), lambda: self._look(turn))

    def _look(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        done = [transfer for transfer in self._running if transfer.left <= 1e-6 * max(1.0, transfer.rate)]
        self._running = [transfer for transfer in self._running if transfer not in done]
        self._plan()
        for transfer in done:
            transfer.resume()


def quantile(values: list[float], share: float) -> float:
    """The value that this share of all values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
