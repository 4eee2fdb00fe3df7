"""Pace and patience: how many connections, and how long to wait."""

import itertools

import pytest

from worker.transfer.pace import Pace, Patience


class Run:
    """A transfer on a clock of its own, against a server with a given rate per number of connections."""

    def __init__(self, most: int = 16) -> None:
        self.now = 0.0
        self.received = 0.0
        self.pace = Pace(most, self.now)

    def go(
        self, seconds: float, rate: dict[int, float] | float, *, busy: bool = True, limit_bps: float | None = None
    ) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            bps = rate if isinstance(rate, float) else rate[self.pace.connections]
            self.received += bps * 0.1
            self.pace.observe(round(self.received), self.now, busy=busy, limit_bps=limit_bps)


LIMITED = {count: 20e6 * count for count in range(1, 33)}


def test_it_begins_with_four() -> None:
    assert Run().pace.connections == 4
    assert Run(2).pace.connections == 2


def test_connections_double_while_that_brings_more() -> None:
    run = Run()
    run.go(1.5, LIMITED)
    assert run.pace.connections == 16
    run.go(10, LIMITED)
    assert run.pace.connections == 16


def test_the_limit_need_not_be_a_power_of_two() -> None:
    run = Run(6)
    run.go(3, LIMITED)
    assert run.pace.connections == 6


def test_connections_that_bring_nothing_are_given_up() -> None:
    run = Run()
    run.go(2, 1e9)
    assert run.pace.connections == 4


def test_connections_that_are_slow_to_start_are_looked_at_twice() -> None:
    run = Run()
    run.go(0.3, LIMITED)
    assert run.pace.connections == 8
    run.go(0.3, LIMITED[4])
    assert run.pace.connections == 8
    run.go(2, LIMITED)
    assert run.pace.connections == 16


def test_they_are_tried_again_later() -> None:
    run = Run()
    run.go(2, 1e9)
    run.go(23, LIMITED)
    assert run.pace.connections == 16


def test_nothing_is_tried_without_work_for_more() -> None:
    run = Run()
    run.go(5, LIMITED, busy=False)
    assert run.pace.connections == 4


def test_an_overloaded_server_gets_half() -> None:
    run = Run()
    run.go(3, LIMITED)
    for _ in range(16):
        run.pace.ease(run.now)
    assert run.pace.connections == 8
    run.go(5, LIMITED)
    assert run.pace.connections == 8
    run.pace.ease(run.now)
    assert run.pace.connections == 4
    run.go(15, LIMITED)
    assert run.pace.connections == 16


def test_at_least_one_connection_is_left() -> None:
    run = Run()
    for number in range(9):
        run.pace.ease(number * 2.0)
    assert run.pace.connections == 1


def test_waits_double_up_to_the_longest() -> None:
    patience = Patience()
    for failures, longest in itertools.chain(zip(range(1, 7), (0.5, 1, 2, 4, 8, 16), strict=True), [(9, 30), (99, 30)]):
        waits = [patience.wait_s(failures) for _ in range(50)]
        assert longest / 2 <= min(waits) <= max(waits) <= longest


@pytest.mark.parametrize("failures", [1, 3])
def test_waits_differ_so_that_connections_come_back_one_by_one(failures: int) -> None:
    assert len({Patience().wait_s(failures) for _ in range(10)}) > 5


def test_nothing_is_tried_where_a_limit_decides() -> None:
    run = Run()
    run.go(5, 2e6, limit_bps=2e6)
    assert run.pace.connections == 4


def test_connections_are_tried_where_the_limit_is_far() -> None:
    run = Run()
    run.go(1.5, LIMITED, limit_bps=1e9)
    assert run.pace.connections == 16
    run.go(5, 2e6, limit_bps=2e6)
    assert run.pace.connections == 16


def test_a_limit_that_is_lifted_is_no_proof_that_connections_pay() -> None:
    run = Run()
    run.go(0.3, 2e6, limit_bps=4e6)
    assert run.pace.connections == 8
    run.pace.start_over(round(run.received), run.now)
    run.go(0.3, 1e9)
    assert run.pace.connections == 16, "it begins to look anew"
    run.go(2, 1e9)
    assert run.pace.connections == 8


def test_the_longest_silence_counts() -> None:
    pace = Run().pace
    pace.hush(5.0)
    pace.hush(3.0)
    assert pace.rest_s(1.0, asks_hub=False) == 4.0
    assert pace.is_resting(1.0, 30.0)
    assert pace.rest_s(6.0, asks_hub=True) <= 0
    assert not pace.is_resting(6.0, 30.0)


def test_a_hub_that_grants_no_more_is_spared_and_its_storage_is_not() -> None:
    pace = Run().pace
    pace.spare(5.0)
    assert pace.rest_s(1.0, asks_hub=True) == 4.0
    assert pace.rest_s(1.0, asks_hub=False) <= 0
    assert pace.is_resting(1.0, 30.0)
    pace.spare(500.0)
    assert not pace.is_resting(1.0, 30.0), "nobody waits so long"
