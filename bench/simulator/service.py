"""A whole service under a load that nobody has measured: jobs come, are fetched, converted and published."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench.simulator.costs import Cost, Machine, Point, World, find
from bench.simulator.engine import Servers, Step, Wires, quantile
from bench.simulator.scenarios import find_crowd, request_cost, stage_cost

_SLICE_S = 0.01
"""Who has worked for so long on a core lets others have it, as the system sees to it."""


@dataclass(frozen=True)
class Plan:
    """A service and its load."""

    seconds: float = 600.0
    jobs_per_s: float = 0.5
    burst: int = 0
    """Jobs that come all at once in the beginning."""
    gb: float = 1.0
    """The size of a model; sizes differ at random around it."""
    converted: float = 0.0
    """The share of jobs that convert."""
    precision: str = "int8"
    pollers: int = 0
    polls_per_s: float = 0.5
    """Of each poller."""
    apis: int = 1
    download_workers: int = 1
    download_slots: int = 4
    convert_workers: int = 1
    convert_slots: int = 1
    hub_gb_per_s: float = 0.125
    volume_gb_per_s: float = 1.0
    database: str = "postgres"
    seed: int = 1


@dataclass
class Outcome:
    """What has become of a plan."""

    came: int = 0
    done: int = 0
    waits: list[float] = field(default_factory=list)
    """From the request until its fetch begins."""
    lasted: list[float] = field(default_factory=list)
    """From the request until the model is there."""
    polled: list[float] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)

    def report(self, seconds: float) -> dict[str, object]:
        """In words for a machine."""
        used = {name: round(share, 3) for name, share in sorted(self.used.items(), key=lambda item: -item[1])}
        return {
            "jobs_came": self.came,
            "jobs_done": self.done,
            "jobs_per_s": round(self.done / seconds, 3),
            "wait_s": {"p50": round(quantile(self.waits, 0.5), 3), "p99": round(quantile(self.waits, 0.99), 3)},
            "job_s": {"p50": round(quantile(self.lasted, 0.5), 2), "p99": round(quantile(self.lasted, 0.99), 2)},
            "poll_ms": {
                "p50": round(1000 * quantile(self.polled, 0.5), 2),
                "p99": round(1000 * quantile(self.polled, 0.99), 2),
            },
            "used": used,
            "first_to_fill_up": next(iter(used)),
        }


@dataclass(frozen=True)
class Prices:
    """What a service's parts cost, from measured points."""

    submit: Cost
    poll: Cost
    stage: Cost
    move_cpu_s_per_gb: float
    convert_s_per_gb: float

    @classmethod
    def of(cls, points: Sequence[Point], machine: Machine, plan: Plan) -> Prices:
        """Raises KeyError, which names a part, where that was not measured."""

        stage = stage_cost(points, plan.database, machine)
        if stage is None:
            raise KeyError("claims")

        def request(part: str) -> Cost:
            cost = request_cost(points, part, plan.database, machine, stage)
            if cost is None:
                raise KeyError(part)
            return replace(cost, client_s=0.0)

        four = find_crowd(points, plan.database, 1) or {}
        child = _needed(points, "child", database=plan.database)
        more = child["worker_cpu_ms"] - four["worker_cpu_ms"]
        return cls(
            submit=request("submit"),
            poll=request("poll"),
            stage=replace(stage, child_s=max(0.0, more) / 1000),
            move_cpu_s_per_gb=_needed(points, "moving")["cpu_s_per_gb"],
            convert_s_per_gb=_convert_s_per_gb(points, plan.precision),
        )


def _needed(points: Sequence[Point], part: str, **wanted: object) -> Point:
    point = find(points, part, **wanted)
    if point is None:
        raise KeyError(part)
    return point


def _convert_s_per_gb(points: Sequence[Point], precision: str) -> float:
    # The last one: the first of a precision is made with cold libraries.
    found = [point for point in points if point["part"] == "converting" and point["precision"] == precision]
    if not found:
        raise KeyError("converting")
    return float(found[-1]["seconds"] / found[-1]["gb"])


def simulate(plan: Plan, prices: Prices, machine: Machine) -> Outcome:
    """Run the plan. All processes share one machine like the measured one, but for its cores where it has more."""
    return _Service(plan, prices, machine.world()).run()


class _Service:
    """The simulated world, and everything in it."""

    def __init__(self, plan: Plan, prices: Prices, world: World) -> None:
        self._plan, self._prices, self._world = plan, prices, world
        self._chance = random.Random(plan.seed)
        self._wires = Wires(world.clock)
        self._apis = [world.process() for _ in range(plan.apis)]
        self._workers = [world.process() for _ in range(plan.download_workers)]
        self._fetching = Servers(world.clock, plan.download_workers * plan.download_slots)
        self._converting = Servers(world.clock, plan.convert_workers * plan.convert_slots)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        clock, plan = self._world.clock, self._plan
        clock.start(self._arrivals())
        for _ in range(plan.burst):
            clock.start(self._job())
        for number in range(plan.pollers):
            clock.start(self._poller(number / max(1, plan.pollers) / plan.polls_per_s))
        clock.run(plan.seconds)
        self.outcome.used = {
            "cores": self._world.cores.utilisation,
            "the busiest API": max(api.utilisation for api in self._apis),
            "the busiest download worker": max(worker.utilisation for worker in self._workers),
            "the database's lock": self._world.lock.utilisation,
            "download slots": self._fetching.utilisation,
            "convert slots": self._converting.utilisation,
            "the line to the hub": self._wires.moved / (plan.hub_gb_per_s * plan.seconds),
        }
        return self.outcome

    def _arrivals(self) -> Iterator[Step]:
        while self._plan.jobs_per_s > 0 and self._world.clock.now < self._plan.seconds:
            yield self._world.clock.pause(self._chance.expovariate(self._plan.jobs_per_s))
            self._world.clock.start(self._job())

    def _job(self) -> Iterator[Step]:
        plan, world, outcome = self._plan, self._world, self.outcome
        came, gb = world.clock.now, plan.gb * self._chance.uniform(0.5, 1.5)
        outcome.came += 1
        yield from self._prices.submit.steps(world, self._chance.choice(self._apis))
        yield self._fetching.take
        outcome.waits.append(world.clock.now - came)
        worker = self._chance.choice(self._workers)
        yield from self._prices.stage.steps(world, worker)
        world.clock.start(world.cores.work(gb * self._prices.move_cpu_s_per_gb, slice_s=_SLICE_S))
        yield self._wires.move(gb, {"hub": plan.hub_gb_per_s, "volume": plan.volume_gb_per_s})
        self._fetching.give()
        if self._chance.random() < plan.converted:
            yield self._converting.take
            yield from self._prices.stage.steps(world, worker)
            yield from world.cores.work(gb * self._prices.convert_s_per_gb, slice_s=_SLICE_S)
            self._converting.give()
        yield from self._prices.stage.steps(world, worker)
        outcome.done += 1
        outcome.lasted.append(world.clock.now - came)

    def _poller(self, first_s: float) -> Iterator[Step]:
        world = self._world
        yield world.clock.pause(first_s)
        while world.clock.now < self._plan.seconds:
            began = world.clock.now
            yield from self._prices.poll.steps(world, self._chance.choice(self._apis))
            self.outcome.polled.append(world.clock.now - began)
            yield world.clock.pause(max(0.0, 1 / self._plan.polls_per_s - (world.clock.now - began)))
