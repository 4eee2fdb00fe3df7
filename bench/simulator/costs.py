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
    """In a process of the database."""
    child_s: float = 0.0
    """In a process of its own, which shares nothing but the cores."""
    idle_s: float = 0.0
    serial: float = 0.0
    """The share of it, but for the client's and the child's, that only one in the whole service does at a time."""
    handover_s: float = 0.0
    """How long that lock lies idle when another process gets it than the one that had it: SQLite's waiters sleep."""
    contended: float = 0.0
    """How much longer a process's own part takes while others wait in it and a core is free: its threads wake up there
    and take the interpreter from each other."""

    def steps(self, world: World, process: Servers) -> Steps:
        """The operation in one of our processes."""
        yield from world.cores.work(self.client_s)
        yield from world.cores.work(self.child_s)
        yield from self._part(world, process, 1 - self.serial)
        if self.serial:
            yield world.lock.take
            if world.holder not in {None, process}:
                yield world.clock.pause(self.handover_s)
            world.holder = process
            yield from self._part(world, process, self.serial)
            world.lock.give()

    def _part(self, world: World, process: Servers, share: float) -> Steps:
        if self.own_s * share:
            yield process.take
            crowded = (process.has_waiting or world.lock.has_waiting) and world.cores.has_free
            yield from world.cores.work(self.own_s * share * (1 + self.contended * crowded))
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
        self.holder: Servers | None = None
        """The process that had the lock last."""

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


def of_requests(alone: Point, many: Point, machine: Machine, handover_s: float | None = None) -> Cost:
    """A request's, as one client alone has it, and how much more it takes in a crowd.

    With `handover_s` it writes to SQLite: one at a time in the whole service.
    """
    idle_ms = alone["mean_ms"] - alone["api_cpu_ms"] - alone["database_cpu_ms"] - alone["client_cpu_ms"]
    cost = Cost(
        client_s=alone["client_cpu_ms"] / 1000,
        own_s=alone["api_cpu_ms"] / 1000,
        other_s=alone["database_cpu_ms"] / 1000,
        idle_s=max(0.0, idle_ms) / 1000,
        serial=0.0 if handover_s is None else 1.0,
        handover_s=handover_s or 0.0,
    )

    def rate(contended: float) -> float:
        return machine.rate(replace(cost, contended=contended), processes=1, loops=many["clients"])

    return replace(cost, contended=_sought(rate, many["per_s"], most=4.0))


def of_stages(alone: Point, many: Point, machine: Machine) -> Cost:
    """A stage's that does nothing. Its idle time and its serial share are what fits one slot and several."""
    cost = Cost(own_s=many["worker_cpu_ms"] / 1000, other_s=many["database_cpu_ms"] / 1000)
    for _ in range(3):
        cost = _idle_fitted(cost, alone, machine)
        cost = fitted(cost, many["per_s"], lambda tried: machine.rate(tried, processes=1, loops=many["slots"] + 1))
    return cost


def of_sqlite_stages(many: Point, two: Point, machine: Machine) -> Cost:
    """The same on SQLite, where one writes at a time: idle time fits one worker, and the handover two of them."""
    loops = many["slots"] + 1
    cost = Cost(own_s=many["worker_cpu_ms"] / 1000, serial=1.0)
    idle_s = _sought(
        lambda tried: machine.rate(replace(cost, idle_s=tried), processes=1, loops=loops),
        many["per_s"],
        most=1 / many["per_s"],
    )
    cost = replace(cost, idle_s=idle_s)
    handover_s = _sought(
        lambda tried: machine.rate(replace(cost, handover_s=tried), processes=2, loops=loops),
        two["per_s"],
        most=4 / two["per_s"],
    )
    return replace(cost, handover_s=handover_s)


def _sought(rate: Callable[[float], float], per_s: float, *, most: float) -> float:
    """The value with which the measured rate comes out, which is the lower the larger the value is."""
    least = 0.0
    if rate(least) <= per_s:
        return least
    for _ in range(_ROUNDS):
        middle = (least + most) / 2
        least, most = (middle, most) if rate(middle) > per_s else (least, middle)
    return (least + most) / 2


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
