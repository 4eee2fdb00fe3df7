"""What is counted: nothing twice, nothing lost, and nothing that has to be waited for."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from api.embedded.redis_server import LOOPBACK, free_port
from common.metrics.exposition import Exposition
from common.metrics.instruments import WorkerInstruments, make_registry
from common.metrics.remembered import Remembered
from common.metrics.service import Reach
from common.metrics.statuses import status_class
from common.outcome import Failed, Retry
from common.settings import Settings, SettingsError
from common.store.counts import CountStore
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.retention import Retention
from common.store.stages import RetryPolicy, StageStore
from common.vitals import Pulses, Vitals, VitalsServer
from common.vocabulary import Operation, Pool
from tests.builders import a_download
from tests.deploy.scrapes import families, value
from tests.web import OWNER, Web, web
from worker.tasks import in_words
from worker.vitals import ANNOUNCER, CONSUMER, Signs

A_MODEL = {"name": "org/model", "hub": "huggingface"}
REFUSED = Failed(code="source_not_found", detail="There is no such model.", hint="Check its name.")
JOBS = "modelferry_jobs_total"


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    return SimpleNamespace(
        database=database,
        jobs=JobStore(database),
        stages=StageStore(database, lease_s=60, retry=RetryPolicy(max_attempts=1)),
        counts=CountStore(database),
    )


def failed(table: SimpleNamespace, name: str) -> str:
    (job_id,) = table.jobs.add([a_download(name)])
    table.stages.settle(table.stages.claim(Pool.DOWNLOAD, OWNER), REFUSED)
    return str(job_id)


def ended(table: SimpleNamespace) -> dict[str, tuple[int, float]]:
    """What an API process tells that has counted before, which is what one tells that counts for the first time."""
    seen, anew = table.counts.seen(10.0), CountStore(table.database).seen(10.0)
    assert [one[:4] for one in seen.ended] == [one[:4] for one in anew.ended]
    return {one.state: (one.jobs, one.seconds) for one in seen.ended}


def test_a_count_of_jobs_never_goes_down(table: SimpleNamespace) -> None:
    ids = [failed(table, f"org/{number}") for number in range(4)]
    assert ended(table)["failed"][0] == 4
    seconds = ended(table)["failed"][1]
    table.jobs.delete(ids[0])
    assert ended(table)["failed"] == (4, pytest.approx(seconds, abs=0.01))
    again = table.jobs.retry(ids[1])
    assert ended(table)["failed"][0] == 4
    table.jobs.cancel(again)
    assert {state: jobs for state, (jobs, _) in ended(table).items()} == {"failed": 4, "canceled": 1}
    kept = Retention(table.database, keep_days=0, keep_jobs=1, keep_audit_days=0)
    while kept.prune():
        pass
    assert table.jobs.count() == 1
    assert {state: jobs for state, (jobs, _) in ended(table).items()} == {"failed": 4, "canceled": 1}
    assert ended(table)["failed"][1] == pytest.approx(seconds, abs=0.01)


def test_jobs_that_two_forget_at_one_moment_count_once(table: SimpleNamespace) -> None:
    for number in range(12):
        failed(table, f"org/{number}")
    before = ended(table)
    lowest: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            lowest.append(table.counts.seen(10.0).ended[0].jobs)

    with ThreadPoolExecutor(4) as threads:
        watching = threads.submit(watch)
        kept = Retention(table.database, keep_days=0, keep_jobs=1, keep_audit_days=0)
        for pruning in [threads.submit(kept.prune) for _ in range(3)]:
            pruning.result()
        done.set()
        watching.result()
    assert table.jobs.count() < 12
    assert set(lowest) == {12}
    assert ended(table)["failed"][0] == before["failed"][0]


def test_what_clients_are_not_shown_is_not_counted(table: SimpleNamespace) -> None:
    hidden = structs.replace(a_download("org/model"), operation=Operation.PLAN)
    active, gone = table.jobs.add([hidden])[0], table.jobs.add([a_download("org/other")])[0]
    seen = table.counts.seen(10.0)
    assert (seen.ended, sum(seen.in_progress.values())) == ((), 1)
    for job_id in (active, gone):
        table.jobs.cancel(job_id)
        table.jobs.delete(job_id)
    (told,) = CountStore(table.database).seen(10.0).ended
    assert (told.operation, told.state, told.jobs) == (Operation.DOWNLOAD, "canceled", 1)


def test_the_queue_tells_how_long_the_oldest_has_waited_for_a_worker(table: SimpleNamespace) -> None:
    def queue() -> tuple[int, int, int, float]:
        seen = table.counts.seen(10.0).queues[Pool.DOWNLOAD]
        return seen.waiting, seen.held, seen.running, seen.oldest_s

    assert queue() == (0, 0, 0, 0.0)
    table.jobs.add([a_download("a"), a_download("b")])
    time.sleep(0.2)
    waiting, held, running, oldest_s = queue()
    assert (waiting, held, running) == (2, 0, 0)
    assert 0.2 <= oldest_s < 30
    again = StageStore(table.database, lease_s=60, retry=RetryPolicy(base_s=600.0, jitter=lambda: 1.0))
    claim = again.claim(Pool.DOWNLOAD, OWNER)
    assert queue()[:3] == (1, 0, 1)
    again.settle(claim, Retry(code="hub_unavailable", detail="It is away.", hint="Wait."))
    assert queue()[:3] == (1, 1, 0)
    assert table.counts.seen(10.0).queues[Pool.CONVERT].oldest_s == 0


def test_workers_are_told_by_what_they_do(table: SimpleNamespace) -> None:
    for owner, ready, draining in (("a", True, False), ("b", True, False), ("c", False, False), ("d", True, True)):
        table.stages.announce(owner, Pool.DOWNLOAD, "host", 1, ready=ready, draining=draining)
    workers = table.counts.seen(10.0).workers
    assert [workers[Pool.DOWNLOAD, state] for state in ("ready", "starting", "draining")] == [2, 1, 1]
    assert workers[Pool.CONVERT, "ready"] == 0


def test_both_forms_of_the_path_answer(quick: Web) -> None:
    for path in ("/metrics", "/api/v1/metrics"):
        answer = quick.get(path)
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert value(families(answer.text), "modelferry_build_info", part="api") == 1


def test_requests_are_counted_by_what_was_asked_and_how_it_was_answered(quick: Web) -> None:
    quick.get("/jobs")
    quick.get("/api/v1/jobs")
    quick.get("/jobs/none")
    quick.get("/no/such/path")
    quick.client.request("BREW", "/jobs")
    quick.delete("/jobs")
    found = families(quick.get("/metrics").text)
    told = {
        (one.labels["operation"], one.labels["method"], one.labels["status"]): one.value
        for one in found["modelferry_http_requests"].samples
    }
    assert told[("list_jobs", "GET", "2xx")] == 2
    assert told[("get_job", "GET", "4xx")] == 1
    assert told[("none", "GET", "4xx")] == 1
    assert told[("none", "other", "4xx")] == 1
    assert told[("none", "DELETE", "4xx")] == 1
    assert value(found, "modelferry_http_request_duration_seconds_count", operation="list_jobs") == 2


def test_who_may_not_look_gets_no_metrics_and_is_counted(tmp_path: Path) -> None:
    admin = "a" * 40
    with web(tmp_path, access="required", admin_key=admin) as service:
        assert service.get("/metrics").status_code == 401
        answer = service.get("/metrics", headers={"X-API-Key": admin})
        found = families(answer.text)
        assert value(found, "modelferry_http_requests_total", operation="metrics", status="4xx") == 1


def test_without_a_database_the_process_tells_what_it_knows(tmp_path: Path) -> None:
    with web(tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none") as service:
        assert service.get("/jobs").status_code == 503
        found = families(service.get("/metrics").text)
    assert value(found, "modelferry_database_up") == 0
    assert value(found, "modelferry_http_requests_total", operation="list_jobs", status="5xx") == 1
    assert (value(found, "modelferry_volume_size_bytes") or 0) > 0
    assert "modelferry_jobs" not in found
    assert "modelferry_queue_depth" not in found


def test_many_who_ask_cost_one_look() -> None:
    looks = []

    def look() -> int:
        looks.append(1)
        time.sleep(0.1)
        return len(looks)

    remembered = Remembered(look, fresh_s=60.0)
    with ThreadPoolExecutor(20) as threads:
        answers = [one.result() for one in [threads.submit(remembered.value) for _ in range(60)]]
    assert answers == [1] * 60
    assert len(looks) == 1


def test_who_asks_does_not_wait_for_what_hangs() -> None:
    hangs, looks = threading.Event(), []

    def look() -> bool:
        looks.append(1)
        return hangs.wait()

    remembered = Remembered(look, fresh_s=60.0, patience_s=0.1)
    began = time.monotonic()
    assert [remembered.value() for _ in range(3)] == [None] * 3
    assert time.monotonic() - began < 2
    assert len(looks) == 1
    hangs.set()
    time.sleep(0.2)
    assert remembered.value() is True


def test_a_status_has_few_words() -> None:
    assert [status_class(status) for status in (200, 304, 404, 429, 503, None, 999)] == [
        "2xx", "3xx", "4xx", "429", "5xx", "none", "none",
    ]  # fmt: skip


def test_a_count_begins_before_its_first_event() -> None:
    registry = CollectorRegistry()
    WorkerInstruments(registry).stage_ended("convert", "huggingface", "succeeded", 3.0)
    found = families(Exposition(registry, []).text().decode())
    convert = {"kind": "convert", "hub": "huggingface"}
    assert value(found, "modelferry_stages_total", **convert, outcome="succeeded") == 1
    assert value(found, "modelferry_stages_total", **convert, outcome="crashed") == 0


# The port


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signs(clock: Clock) -> Signs:
    reach = Reach(database=lambda: True, redis=lambda: True)
    return Signs(registry=make_registry("download"), pulses=Pulses(clock), reach=reach)


@pytest.fixture
def port(signs: Signs) -> Iterator[int]:
    number = free_port()
    server = signs.server(Settings(metrics_port=number), lacks=lambda: {"plugins": None}, leaving=lambda: False)
    assert server is not None
    server.start()
    yield number
    server.stop()


def ask(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://{LOOPBACK}:{port}{path}", trust_env=False, timeout=10)


def test_a_loop_that_stands_still_makes_its_process_unhealthy(signs: Signs, clock: Clock, port: int) -> None:
    signs.expect(ANNOUNCER, CONSUMER)
    assert ask(port, "/healthz").status_code == 200
    clock.now = 75.0
    signs.pulses.beat(CONSUMER)
    told = ask(port, "/healthz")
    assert told.status_code == 503
    assert told.json()["parts"] == {"announcer": "It has not moved for 75 s.", "consumer": "ok"}
    assert ask(port, "/readyz").status_code == 200
    signs.pulses.beat(ANNOUNCER)
    assert ask(port, "/healthz").status_code == 200


def test_a_consumer_may_stand_still_while_redis_is_away(clock: Clock) -> None:
    is_there = threading.Event()
    reach = Reach(database=lambda: True, redis=is_there.is_set)
    signs = Signs(registry=make_registry("download"), pulses=Pulses(clock), reach=reach)
    number = free_port()
    server = signs.server(Settings(metrics_port=number), lacks=dict, leaving=lambda: False)
    assert server is not None
    server.start()
    try:
        signs.expect(CONSUMER)
        clock.now = 1000.0
        assert ask(number, "/healthz").status_code == 200
        assert ask(number, "/readyz").json()["parts"]["redis"] == "Redis does not answer."
        is_there.set()
        time.sleep(2.1)
        clock.now = 2000.0
        assert ask(number, "/healthz").status_code == 503
    finally:
        server.stop()


def test_who_goes_away_is_not_ready(signs: Signs) -> None:
    number = free_port()
    server = signs.server(Settings(metrics_port=number), lacks=dict, leaving=lambda: True)
    assert server is not None
    server.start()
    try:
        assert ask(number, "/readyz").status_code == 503
        assert ask(number, "/healthz").status_code == 200
    finally:
        server.stop()


def test_the_port_answers_others_while_some_say_nothing(port: int) -> None:
    silent = [socket.create_connection((LOOPBACK, port)) for _ in range(10)]
    try:
        assert ask(port, "/metrics").status_code == 200
    finally:
        for connection in silent:
            connection.close()


def test_who_comes_when_too_many_are_there_is_sent_away(port: int) -> None:
    silent = [socket.create_connection((LOOPBACK, port)) for _ in range(40)]
    try:
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            ask(port, "/metrics")
    finally:
        for connection in silent:
            connection.close()
    assert answered_within(5.0, port) is not None


def answered_within(seconds: float, port: int) -> str | None:
    """What the port says to the first who is not sent away."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(httpx.TransportError):
            return ask(port, "/metrics").text
        time.sleep(0.05)
    return None


def test_a_port_that_is_taken_is_named(signs: Signs, port: int) -> None:
    other = signs.server(Settings(metrics_port=port), lacks=dict, leaving=lambda: False)
    assert other is not None
    with pytest.raises(SettingsError, match=f"MODELFERRY_METRICS_PORT={port}: cannot listen at 127.0.0.1"):
        other.start()


def test_processes_that_share_a_port_take_it_over() -> None:
    vitals = Vitals(alive=dict, ready=dict, metrics=lambda: b"second\n")
    first = VitalsServer(LOOPBACK, free_port(), vitals)
    first.start()
    taken = first._address[1]
    second = VitalsServer(LOOPBACK, taken, vitals, shared=True)
    second.start()
    first.stop()
    assert answered_within(10.0, taken) == "second\n"
    second.stop()


def test_a_fault_of_ours_is_answered_and_leaves_the_port_open(caplog: pytest.LogCaptureFixture) -> None:
    def breaks() -> bytes:
        raise ValueError("no")

    number = free_port()
    server = VitalsServer(LOOPBACK, number, Vitals(alive=dict, ready=dict, metrics=breaks))
    server.start()
    try:
        assert ask(number, "/metrics").status_code == 500
        assert ask(number, "/healthz").status_code == 200
    finally:
        server.stop()
    assert "vitals.broken" in caplog.text


def test_without_a_port_nobody_listens(signs: Signs) -> None:
    assert signs.server(Settings(), lacks=dict, leaving=lambda: False) is None


def test_the_document_says_that_metrics_are_text(quick: Web) -> None:
    answer = quick.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]
    assert list(answer["content"]) == ["text/plain"]


def test_flower_shows_what_was_done_with_a_ticket() -> None:
    fetch = {"kind": "fetch", "model": "org/model", "jobs": "a,b", "stage": "s"}
    lines = [{**fetch, "outcome": "succeeded"}, {**fetch, "kind": "publish", "outcome": "failed", "code": "disk_full"}]
    assert in_words(lines) == (
        "fetch org/model: succeeded, for job a,b; publish org/model: failed (disk_full), for job a,b"
    )
    assert in_words([]) == "nothing was left to do"
