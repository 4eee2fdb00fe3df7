"""What was measured from end to end, foretold from what was measured of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.simulator.costs import (
    SECONDS,
    Cost,
    Machine,
    Point,
    find,
    loop,
    of_requests,
    of_sqlite_stages,
    of_stages,
)
from bench.simulator.engine import Servers, Step

LINGER_S = 0.4


@dataclass(frozen=True)
class Verdict:
    """One scenario: what comes out of the simulation, and what was measured."""

    name: str
    unit: str
    foretold: float
    measured: float
    fitted: bool = False
    """Whether a parameter was chosen so that this one comes out: then it proves nothing."""

    @property
    def error(self) -> float:
        return self.foretold / self.measured - 1


def verdicts(points: Sequence[Point], machine: Machine) -> Iterator[Verdict]:
    """Every scenario whose points are there."""
    for database in ("sqlite", "postgres"):
        stage = stage_cost(points, database, machine)
        costs = {part: request_cost(points, part, database, machine, stage) for part in ("submit", "poll")}
        for part, cost in costs.items():
            yield from _requests(points, part, database, machine, cost)
        if costs["submit"] and costs["poll"]:
            yield from _mixed(points, database, machine, costs["submit"], costs["poll"])
        if stage:
            yield from _stages(points, database, machine, stage)


def request_cost(
    points: Sequence[Point], part: str, database: str, machine: Machine, stage: Cost | None
) -> Cost | None:
    """What a request costs, where it was measured."""
    alone = find(points, part, database=database, apis=1, clients=1)
    many = next((point for point in points if _is_flat_out(point, part, database, 1)), None)
    writes = part == "submit" and database == "sqlite" and stage
    return of_requests(alone, many, machine, stage.handover_s if writes else None) if alone and many else None


def stage_cost(points: Sequence[Point], database: str, machine: Machine) -> Cost | None:
    """What a stage costs that does nothing, where it was measured."""
    alone = find(points, "claims", database=database, workers=1, slots=1)
    many = find_crowd(points, database, 1)
    two = find_crowd(points, database, 2)
    if database == "sqlite":
        return of_sqlite_stages(many, two, machine) if many and two else None
    return of_stages(alone, many, machine) if alone and many else None


def find_crowd(points: Sequence[Point], database: str, workers: int) -> Point | None:
    """The claims of so many workers with several slots."""
    return next(
        (
            point
            for point in points
            if (point["part"], point.get("database"), point.get("workers")) == ("claims", database, workers)
            and point["slots"] > 1
        ),
        None,
    )


def _is_flat_out(point: Point, part: str, database: str, apis: int) -> bool:
    given = (point["part"], point.get("database"), point.get("apis"), point.get("every_s"))
    return given == (part, database, apis, None) and point["clients"] > 1


def _requests(
    points: Sequence[Point], part: str, database: str, machine: Machine, cost: Cost | None
) -> Iterator[Verdict]:
    for apis in (1, 2):
        point = next((point for point in points if _is_flat_out(point, part, database, apis)), None)
        if point and cost:
            foretold = machine.rate(cost, processes=apis, loops=point["clients"] // apis)
            yield Verdict(f"{part} {database}, {apis} API", "/s", foretold, point["per_s"], fitted=apis == 1)


def _mixed(points: Sequence[Point], database: str, machine: Machine, submit: Cost, poll: Cost) -> Iterator[Verdict]:
    """POSTs without a pause, beside clients that ask at their times."""
    point = find(points, "mixed", database=database)
    if not point:
        return
    world, done = machine.world(), [0]
    api = world.process()
    for _ in range(point["clients"]):
        world.clock.start(loop(world, api, submit, done))

    def poller(first_s: float) -> Iterator[Step]:
        yield world.clock.pause(first_s)
        while world.clock.now < SECONDS:
            began = world.clock.now
            yield from poll.steps(world, api)
            yield world.clock.pause(max(0.0, 0.5 - (world.clock.now - began)))

    for number in range(point["pollers"]):
        world.clock.start(poller(0.5 * number / point["pollers"]))
    world.clock.run(SECONDS)
    yield Verdict(f"submit {database}, beside {point['pollers']} pollers", "/s", done[0] / SECONDS, point["per_s"])


def _stages(points: Sequence[Point], database: str, machine: Machine, cost: Cost) -> Iterator[Verdict]:
    used = 2 if database == "sqlite" else 1
    for workers in (1, 2, 4):
        point = find_crowd(points, database, workers)
        if point:
            foretold = machine.rate(cost, processes=workers, loops=point["slots"] + 1)
            yield Verdict(
                f"claims {database}, {workers} workers", "/s", foretold, point["per_s"], fitted=workers <= used
            )
    child = find(points, "child", database=database)
    if child:
        # What a stage with a child costs more than one without is used by the child.
        more = max(0.0, child["worker_cpu_ms"] + child["database_cpu_ms"] - 1000 * (cost.own_s + cost.other_s))
        whole = replace(cost, child_s=more / 1000)
        foretold = machine.rate(whole, processes=1, loops=child["slots"] + 1)
        yield Verdict(f"stages with a child {database}, 1 worker", "/s", foretold, child["per_s"])
        for workers in (1, 2):
            point = find(points, "pool", database=database, workers=workers)
            if point:
                seconds = _burst(machine, whole, workers, point)
                yield Verdict(f"a burst {database}, {workers} workers", "s", seconds, point["seconds"])


def _burst(machine: Machine, cost: Cost, workers: int, point: Point) -> float:
    """How long it takes from the first claim until the last of the stages is done, each of which lasts a while."""
    world = machine.world()
    left, last = [point["stages"]], [0.0]

    def slot(process: Servers) -> Iterator[Step]:
        while left[0] > 0:
            left[0] -= 1
            yield from cost.steps(world, process)
            yield world.clock.pause(LINGER_S)
            last[0] = world.clock.now

    for _ in range(workers):
        process = world.process()
        for _ in range(point["slots"] + 1):
            world.clock.start(slot(process))
    world.clock.run()
    return last[0]
