"""The simulator of bench/ against what is known in closed form, and against what must hold of any simulation."""

import json
import math
import random
from collections.abc import Iterator

import pytest

from bench.simulate import RESULTS, measured_machine
from bench.simulator.costs import Cost, Machine
from bench.simulator.engine import Clock, Cores, Servers, Step, Wires, quantile
from bench.simulator.service import Plan, Prices, simulate


def queue(
    servers: int, per_s: float, service_s: float, *, jobs: int, fixed: bool = False
) -> tuple[list[float], Servers, Clock]:
    """Arrivals at random; services at random, or all alike. How long each one waited."""
    clock, chance, waits = Clock(), random.Random(7), []
    desk = Servers(clock, servers)

    def visitor() -> Iterator[Step]:
        came = clock.now
        yield desk.take
        waits.append(clock.now - came)
        yield clock.pause(service_s if fixed else chance.expovariate(1 / service_s))
        desk.give()

    def arrivals() -> Iterator[Step]:
        for _ in range(jobs):
            yield clock.pause(chance.expovariate(per_s))
            clock.start(visitor())

    clock.start(arrivals())
    clock.run()
    return waits, desk, clock


def erlang_c(servers: int, load: float) -> float:
    """The chance to have to wait."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.5), (1, 0.8), (2, 0.7), (4, 0.85), (8, 0.7)])
def test_the_waits_of_a_queue_with_several_servers(servers: int, busy: float) -> None:
    per_s = busy * servers
    waits, desk, _ = queue(servers, per_s, 1.0, jobs=150_000)
    expected = erlang_c(servers, per_s) / (servers - per_s)
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.06)
    assert desk.utilisation == pytest.approx(busy, rel=0.02)
    # Whoever waits, waits an exponential time.
    expected_p99 = max(0.0, math.log(100 * erlang_c(servers, per_s)) / (servers - per_s))
    assert quantile(waits, 0.99) == pytest.approx(expected_p99, rel=0.1)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_services_that_are_all_alike_halve_the_wait(busy: float) -> None:
    waits, _, _ = queue(1, busy, 1.0, jobs=150_000, fixed=True)
    assert sum(waits) / len(waits) == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.7), (3, 0.9)])
def test_little(servers: int, busy: float) -> None:
    """As many wait as come in the time that one waits."""
    waits, desk, clock = queue(servers, busy * servers, 1.0, jobs=20_000)
    assert desk.waiting == pytest.approx(len(waits) / clock.now * sum(waits) / len(waits), rel=1e-9)


def test_nobody_is_lost_and_nobody_is_served_twice() -> None:
    waits, desk, _ = queue(3, 10.0, 1.0, jobs=5_000)
    assert len(waits) == desk.served == 5_000
    assert desk.busy == 0


def test_the_same_again() -> None:
    assert queue(2, 1.5, 1.0, jobs=500)[0] == queue(2, 1.5, 1.0, jobs=500)[0]


class TestCores:
    def work(self, count: int, jobs: int, slowdown: float) -> float:
        clock = Clock()
        cores = Cores(clock, count, slowdown)
        for _ in range(jobs):
            clock.start(cores.work(1.0))
        clock.run()
        return clock.now

    def test_one_is_as_fast_as_it_is(self) -> None:
        assert self.work(2, 1, 1.5) == pytest.approx(1.0)

    def test_two_on_two_cores_are_slowed_down(self) -> None:
        assert self.work(2, 2, 1.5) == pytest.approx(1.5, rel=0.02)

    def test_four_on_two_cores_take_twice_as_long(self) -> None:
        assert self.work(2, 4, 1.0) == pytest.approx(2.0, rel=0.02)

    def test_a_short_one_does_not_wait_for_a_long_one(self) -> None:
        clock, ended = Clock(), []
        cores = Cores(clock, 1)

        def short() -> Iterator[Step]:
            yield from cores.work(0.02)
            ended.append(clock.now)

        clock.start(cores.work(10.0))
        clock.start(short())
        clock.run()
        assert ended[0] < 0.06


class TestWires:
    def moved(self, *transfers: tuple[float, dict[str, float]]) -> list[float]:
        clock, ended = Clock(), [0.0] * len(transfers)
        wires = Wires(clock)

        def transfer(number: int, size: float, over: dict[str, float]) -> Iterator[Step]:
            yield wires.move(size, over)
            ended[number] = clock.now

        for number, (size, over) in enumerate(transfers):
            clock.start(transfer(number, size, over))
        clock.run()
        assert wires.moved == pytest.approx(sum(size for size, _ in transfers))
        return ended

    def test_one_has_all(self) -> None:
        assert self.moved((100.0, {"hub": 10.0})) == [pytest.approx(10.0)]

    def test_two_share_equally_until_the_shorter_is_done(self) -> None:
        assert self.moved((100.0, {"hub": 10.0}), (50.0, {"hub": 10.0})) == [pytest.approx(15.0), pytest.approx(10.0)]

    def test_the_slowest_wire_counts(self) -> None:
        slow, fast = {"hub": 10.0, "volume": 4.0}, {"volume": 4.0}
        assert self.moved((20.0, slow), (20.0, fast)) == [pytest.approx(10.0), pytest.approx(10.0)]


class TestCosts:
    def test_a_lock_that_changes_hands_lies_idle_in_between(self) -> None:
        machine, write = Machine(cores=4, slowdown=1.0), Cost(own_s=0.001, serial=1.0, handover_s=0.001)
        assert machine.rate(write, processes=1, loops=4) == pytest.approx(1000, rel=0.01)
        assert machine.rate(write, processes=2, loops=1) == pytest.approx(500, rel=0.01)

    def test_threads_of_one_process_are_in_each_others_way_where_a_core_is_free(self) -> None:
        read = Cost(own_s=0.001, contended=0.5)
        assert Machine(2, 1.0).rate(read, processes=1, loops=1) == pytest.approx(1000, rel=0.01)
        assert Machine(2, 1.0).rate(read, processes=1, loops=8) == pytest.approx(1000 / 1.5, rel=0.01)
        assert Machine(1, 1.0).rate(read, processes=1, loops=8) == pytest.approx(1000, rel=0.01)

    def test_the_work_of_a_child_needs_no_lock(self) -> None:
        stage = Cost(own_s=0.001, child_s=0.003, serial=1.0)
        assert Machine(4, 1.0).rate(stage, processes=1, loops=8) == pytest.approx(1000, rel=0.02)


def test_a_service_whose_line_is_full_says_so() -> None:
    """With what was measured: two models of a gigabyte each second do not go through a line for an eighth of one."""
    report = json.loads(RESULTS.read_text())
    machine, plan = measured_machine(report), Plan(seconds=60, jobs_per_s=2, gb=1)
    outcome = simulate(plan, Prices.of(report["points"], machine, plan), machine)
    told = outcome.report(plan.seconds)
    assert told["first_to_fill_up"] in {"the line to the hub", "download slots"}
    assert outcome.used["the line to the hub"] == pytest.approx(1, abs=0.05)
    assert 0 < outcome.done < outcome.came
