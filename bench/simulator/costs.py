"""What operations cost, from measured points, and closed loops of them, by which a cost is found that none tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.simulator.engine import Clock, Cores, Servers, Step, Steps

Point = dict[str, Any]
SECONDS = 6.0
"""How long a closed loop is simulated: long enough for a rate that is right within a per cent or two."""
_ROUNDS = 9


@dataclass(frozen=True)
class Cost:
    """One operation: seconds of processor time by where it is used, and seconds in which nobody works on it."""

    client_s: float = 0.0
    own_s: float = 0.0
    """In a process of ours, of whose threads one at a time runs Python."""
    other_s: float = 0.0
    """In a process of the database, or in a child."""
    idle_s: float = 0.0
    serial: float = 0.0
    """The share of all this, but for the client's, that only one in the whole service does at a time."""

    def steps(self, world: World, process: Servers) -> Steps:
        """The operation in one of our processes."""
        yield from world.cores.work(self.client_s)
        yield from self._part(world, process, 1 - self.serial)
        if self.serial:
            yield world.lock.take
            yield from self._part(world, process, self.serial)
            world.lock.give()

    def _part(self, world: World, process: Servers, share: float) -> Steps:
        if self.own_s * share:
            yield process.take
            yield from world.cores.work(self.own_s * share)
            process.give()
        yield from world.cores.work(self.other_s * share)
        if self.idle_s * share:
            yield world.clock.pause(self.idle_s * share)


class World:
    """One machine with a database on it."""

    def __init__(self, cores: int, slowdown: float) -> None:
        self.clock = Clock()
        self.cores = Cores(self.clock, cores, slowdown)
        self.lock = Servers(self.clock, 1)

    def process(self) -> Servers:
        """A process of ours: one thread of it runs Python at a time."""
        return Servers(self.clock, 1)


@dataclass(frozen=True)
class Machine:
    """The machine on which the points were measured."""

    cores: int
    slowdown: float

    def world(self) -> World:
        """An empty one."""
        return World(self.cores, self.slowdown)

    def rate(self, cost: Cost, *, processes: int, loops: int) -> float:
        """Operations a second of so many processes, each with so many loops that do one after the other."""
        world, done = self.world(), [0]
        for _ in range(processes):
            process = world.process()
            for _ in range(loops):
                world.clock.start(loop(world, process, cost, done))
        world.clock.run(SECONDS)
        return done[0] / SECONDS


def loop(world: World, process: Servers, cost: Cost, done: list[int], *, until: float = SECONDS) -> Iterator[Step]:
    """One after the other, without a pause."""
    while world.clock.now < until:
        yield from cost.steps(world, process)
        done[0] += 1


def of_requests(alone: Point, many: Point, machine: Machine) -> Cost:
    """A request's: processor time under load, idle time as one client alone has it, and how much of it is serial."""
    idle_ms = alone["mean_ms"] - alone["api_cpu_ms"] - alone["database_cpu_ms"]
    cost = Cost(
        client_s=many["client_cpu_ms"] / 1000,
        own_s=many["api_cpu_ms"] / 1000,
        other_s=many["database_cpu_ms"] / 1000,
        idle_s=max(0.0, idle_ms) / 1000,
    )
    return fitted(cost, many["per_s"], lambda tried: machine.rate(tried, processes=1, loops=many["clients"]))


def of_stages(alone: Point, many: Point, machine: Machine) -> Cost:
    """A stage's that does nothing. Its idle time and its serial share are what fits one slot and several."""
    cost = Cost(own_s=many["worker_cpu_ms"] / 1000, other_s=many["database_cpu_ms"] / 1000)
    for _ in range(3):
        cost = _idle_fitted(cost, alone, machine)
        cost = fitted(cost, many["per_s"], lambda tried: machine.rate(tried, processes=1, loops=many["slots"] + 1))
    return cost


def fitted(cost: Cost, per_s: float, rate: Callable[[Cost], float]) -> Cost:
    """With the serial share with which the measured rate comes out; none where it is as slow without."""
    least, most = 0.0, 1.0
    if rate(cost) <= per_s:
        return cost
    for _ in range(_ROUNDS):
        middle = (least + most) / 2
        least, most = (middle, most) if rate(replace(cost, serial=middle)) > per_s else (least, middle)
    return replace(cost, serial=(least + most) / 2)


def _idle_fitted(cost: Cost, alone: Point, machine: Machine) -> Cost:
    # A download worker has a place beside its slots for what fetches nothing.
    least, most = 0.0, 4 / alone["per_s"]
    for _ in range(_ROUNDS):
        middle = (least + most) / 2
        slow = machine.rate(replace(cost, idle_s=middle), processes=1, loops=alone["slots"] + 1) < alone["per_s"]
        least, most = (least, middle) if slow else (middle, most)
    return replace(cost, idle_s=(least + most) / 2)


def find(points: Sequence[Point], part: str, **wanted: object) -> Point | None:
    """The point of a part with these facts."""
    for point in points:
        if point["part"] == part and all(point.get(name) == value for name, value in wanted.items()):
            return point
    return None
