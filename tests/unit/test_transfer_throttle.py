"""The throttle: a rate that holds for all lines together, fairly, and that may change at any moment."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.pacing import keeps
from worker.transfer.throttle import Throttle

MB = 1_000_000


class Lines:
    """Threads that take as much as they get, each for itself."""

    def __init__(self, throttle: Throttle, count: int, stop: threading.Event, *, arrives: float = 1.0) -> None:
        self.taken = [0] * count
        self._throttle = throttle
        self._stop = stop
        self._arrives = arrives
        self.threads = [threading.Thread(target=self._take, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _take(self, number: int) -> None:
        while not self._stop.is_set():
            allowed = self._throttle.take(1024 * 1024)
            if self._stop.is_set():
                return
            came = max(1, int(allowed * self._arrives))
            self._throttle.give_back(allowed - came)
            self.taken[number] += came

    def rate(self, seconds: float) -> float:
        before, started = sum(self.taken), time.monotonic()
        time.sleep(seconds)
        return (sum(self.taken) - before) / (time.monotonic() - started)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_without_a_limit_nobody_waits(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    started = time.monotonic()
    assert {throttle.take(1 << 40) for _ in range(1000)} == {1 << 40}
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("rate", [0.1 * MB, 2 * MB, 50 * MB])
def test_all_together_keep_to_the_limit_and_each_has_its_share(stop: threading.Event, rate: float) -> None:
    throttle = Throttle(stop)
    throttle.limit(rate)
    lines = Lines(throttle, 16, stop)
    assert keeps(rate, lines.rate(2.0))
    assert min(lines.taken) > 0.5 * max(lines.taken)


def test_no_line_waits_long_for_its_turn(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    throttle.limit(MB)
    lines = Lines(throttle, 16, stop)
    time.sleep(0.5)
    for _ in range(3):
        before = list(lines.taken)
        time.sleep(0.6)
        assert all(now > then for now, then in zip(lines.taken, before, strict=True))


def test_what_does_not_come_goes_to_the_others(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    throttle.limit(2 * MB)
    assert keeps(2 * MB, Lines(throttle, 8, stop, arrives=0.25).rate(1.5))


def test_a_pause_earns_no_burst(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    throttle.limit(MB)
    throttle.take(1)
    time.sleep(1.0)
    assert Lines(throttle, 4, stop).rate(1.0) < 1.25 * MB


def test_another_limit_holds_at_once_also_for_those_who_wait(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    assert throttle.limit(2000)
    assert not throttle.limit(2000)
    lines = Lines(throttle, 16, stop)
    time.sleep(0.3)
    assert throttle.limit(4 * MB)
    time.sleep(0.4)
    assert keeps(4 * MB, lines.rate(1.0))
    assert throttle.limit(MB)
    time.sleep(0.4)
    assert keeps(MB, lines.rate(1.5))


def test_a_limit_that_is_lifted_lets_everybody_go(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    throttle.limit(1)
    waiting = threading.Thread(target=throttle.take, args=(1024,), daemon=True)
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    throttle.limit(None)
    waiting.join(1.0)
    assert not waiting.is_alive()


def test_nobody_waits_for_a_transfer_that_has_been_stopped(stop: threading.Event) -> None:
    throttle = Throttle(stop)
    throttle.limit(1)
    lines = Lines(throttle, 16, stop)
    time.sleep(0.1)
    stop.set()
    started = time.monotonic()
    for thread in lines.threads:
        thread.join(1.0)
    assert time.monotonic() - started < 2
