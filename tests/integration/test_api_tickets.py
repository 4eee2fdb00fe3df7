"""Tickets are sent aside from the requests: soon when the queue answers, and at no cost to a client when it does not."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from api.embedded.redis_server import answers, find_redis_server, free_port, redis_command, redis_url
from api.tickets import TicketSender
from common.broker import Broker
from common.outcome import Failed
from common.vocabulary import Pool
from tests.web import Web, web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}


class Queue:
    """A Redis of the test's own."""

    def __init__(self, folder: Path) -> None:
        server = find_redis_server(os.environ)
        assert server is not None, "no Redis-compatible server is installed"
        self._port = free_port()
        self._command = redis_command(server, self._port, folder)
        self.url = redis_url(self._port)
        self.redis = Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(lambda: answers(self._port))

    def stop(self) -> None:
        self.redis.close()
        self.process.kill()
        self.process.wait()

    def waiting(self, pool: Pool = Pool.DOWNLOAD) -> int:
        return int(self.redis.llen(pool.value))


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "it did not come to pass"
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path)
    yield queue
    queue.stop()


@pytest.fixture
def service(tmp_path: Path, queue: Queue) -> Iterator[Web]:
    with web(tmp_path, redis_url=queue.url) as running:
        yield running


def timed(service: Web, *models: dict[str, Any]) -> float:
    began = time.monotonic()
    service.submitted(*models or (A_MODEL,))
    return time.monotonic() - began


def test_a_ticket_follows_the_answer_at_once(service: Web, queue: Queue) -> None:
    service.submitted(A_MODEL)
    wait_until(lambda: queue.waiting() == 1)
    service.submitted({**A_MODEL, "name": "org/other"})
    assert wait_until(lambda: queue.waiting() == 2) < 1
    assert queue.waiting(Pool.CONVERT) == 0


def test_a_retry_sends_a_ticket_too(service: Web, queue: Queue) -> None:
    (job_id,) = service.submitted(A_MODEL)
    wait_until(lambda: queue.waiting() == 1)
    service.settle(Failed(code="x", detail="y", hint="z"))
    assert service.post(f"/jobs/{job_id}/retry").status_code == 202
    wait_until(lambda: queue.waiting() == 2)


def test_a_replayed_answer_and_an_empty_one_send_none(service: Web, queue: Queue) -> None:
    for models in ([A_MODEL], [A_MODEL], []):
        service.post(
            "/models/download?download_path=x",
            json={"models": models},
            headers={"Idempotency-Key": f"k{len(models)}"},
        )
    wait_until(lambda: queue.waiting() == 1)
    time.sleep(0.1)
    assert queue.waiting() == 1


def test_many_stages_are_a_few_tickets(service: Web, queue: Queue) -> None:
    for _ in range(3):
        service.submitted(*[A_MODEL] * 40)
    wait_until(lambda: queue.waiting() == 16)
    time.sleep(0.1)
    assert queue.waiting() == 16


def test_a_frozen_queue_costs_no_client_anything(service: Web, queue: Queue) -> None:
    service.submitted(A_MODEL)
    wait_until(lambda: queue.waiting() == 1)
    queue.process.send_signal(signal.SIGSTOP)
    assert max(timed(service) for _ in range(5)) < 1.5
    queue.process.send_signal(signal.SIGCONT)
    # A command that was on its way when the queue froze may still be carried out.
    time.sleep(1.5)
    before = queue.waiting()
    service.submitted({**A_MODEL, "name": "org/later"})
    wait_until(lambda: queue.waiting() > before)


def test_a_queue_that_was_never_there_costs_no_client_anything(tmp_path: Path) -> None:
    with web(tmp_path) as service:
        assert max(timed(service) for _ in range(5)) < 1.5


def test_a_queue_that_comes_back_gets_tickets_again(service: Web, queue: Queue) -> None:
    service.submitted(A_MODEL)
    wait_until(lambda: queue.waiting() == 1)
    queue.redis.flushall()
    queue.stop()
    assert timed(service, {**A_MODEL, "name": "org/away"}) < 1.5
    queue.start()
    service.submitted({**A_MODEL, "name": "org/back"})
    wait_until(lambda: queue.waiting() > 0)


def test_the_end_sends_what_was_noted(queue: Queue) -> None:
    sender = TicketSender(Broker(queue.url))
    sender.announce(Pool.CONVERT, 2)
    sender.announce(Pool.DOWNLOAD, 3)
    sender.stop()
    assert (queue.waiting(Pool.CONVERT), queue.waiting(Pool.DOWNLOAD)) == (2, 3)
    sender.announce(Pool.DOWNLOAD, 1)
    assert queue.waiting() == 3


def test_the_end_does_not_wait_long_for_a_frozen_queue(queue: Queue) -> None:
    sender = TicketSender(Broker(queue.url))
    queue.process.send_signal(signal.SIGSTOP)
    sender.announce(Pool.DOWNLOAD, 1)
    began = time.monotonic()
    sender.stop()
    assert time.monotonic() - began < 5


def test_nothing_to_say_needs_no_end(queue: Queue) -> None:
    TicketSender(Broker(queue.url)).stop()
    assert queue.waiting() == 0
