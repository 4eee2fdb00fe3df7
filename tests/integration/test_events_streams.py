"""Event streams over real sockets: what a client sees, and what it costs."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from msgspec import structs
from sqlalchemy import event as listen
from sqlalchemy.engine import Engine

from api.app import create_app
from common.outcome import Failed, Succeeded
from common.records import Claim, LogEntry
from common.settings import Settings
from common.spec import Progress
from common.store.database import Database
from common.store.events import EventStore
from common.store.jobs import JobStore
from common.store.retention import forget
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Operation, Phase, Pool
from tests.builders import a_download
from tests.databases import postgres_url, sqlite_url
from tests.fakes.round_robin import RoundRobin
from tests.live import Process, Reader, Watcher, serving, until
from tests.web import NOBODY

MB = 1024 * 1024


class Works:
    """What workers and clients would do, on the database itself."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.jobs = JobStore(self.database)
        self.events = EventStore(self.database)
        self.stages = StageStore(self.database, lease_s=60, retry=RetryPolicy(base_s=0.0, max_attempts=1))

    def wish(self, name: str = "org/model") -> str:
        return self.jobs.add([a_download(name)])[0]

    def claim(self) -> Claim:
        claim = self.stages.claim(Pool.DOWNLOAD, "a-worker")
        assert claim is not None
        return claim

    def beat(self, claim: Claim, done: int, *said: str) -> None:
        lines = [LogEntry(level="info", text=text) for text in said]
        progress = Progress(phase=Phase.DOWNLOADING, bytes_done=done, bytes_total=100)
        assert self.stages.heartbeat(claim, progress, lines).held

    def settle(self, claim: Claim) -> None:
        assert self.stages.settle(claim, Succeeded(artefact="a", result={"path": "x"})) is not None

    def complete(self) -> None:
        self.settle(self.claim())
        self.settle(self.claim())


def an_app(url: str, folder: Path) -> Litestar:
    folder.mkdir(exist_ok=True)
    return create_app(Settings(models_dir=folder, redis_url=NOBODY, database_url=url))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with sqlite_url(tmp_path) as url:
        yield url


@pytest.fixture
def works(url: str) -> Iterator[Works]:
    works = Works(url)
    yield works
    works.database.dispose()


@pytest.fixture
def address(url: str, tmp_path: Path) -> Iterator[str]:
    with serving(an_app(url, tmp_path / "models")) as address:
        yield address


@contextmanager
def counted() -> Iterator[list[str]]:
    """Every question that is put to any database meanwhile."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append(statement)

    listen.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        listen.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_job_is_watched_to_its_end(address: str, works: Works, prefix: str) -> None:
    job = works.wish()
    watcher = Watcher(f"{address}{prefix}/jobs/{job}/events")
    until(lambda: watcher.names() == ["snapshot"])
    assert watcher.events[0].data["status"] == "queued"
    claim = works.claim()
    works.beat(claim, 40, "half way")
    until(lambda: watcher.names() == ["snapshot", "stage.claimed", "log"])
    until(lambda: watcher.events[-1].name == "progress")
    moved = watcher.events[-1]
    assert moved.id is None
    assert (moved.data["job_id"], moved.data["status"]) == (job, "downloading")
    assert moved.data["progress"]["bytes_done"] == 40
    works.settle(claim)
    works.settle(works.claim())
    assert watcher.ended.wait(5)
    assert watcher.names() == [
        "snapshot", "stage.claimed", "log", "stage.succeeded", "job.advanced", "stage.claimed", "stage.succeeded",
        "job.completed", "end",
    ]  # fmt: skip
    assert watcher.events[-1].data == {"job_id": job, "status": "completed"}
    completed = next(one for one in watcher.events if one.what == "job.completed")
    assert completed.data["job"]["status"] == "completed"
    assert completed.id == completed.data["id"]
    again = Watcher(f"{address}{prefix}/jobs/{job}/events", watcher.last_id)
    assert again.ended.wait(5)
    assert (again.status, again.events) == (204, [])


def test_what_was_missed_comes_first_and_without_a_snapshot(address: str, works: Works) -> None:
    job = works.wish()
    watcher = Watcher(f"{address}/jobs/{job}/events")
    until(lambda: watcher.names() == ["snapshot"])
    watcher.leave()
    claim = works.claim()
    works.beat(claim, 10, "one", "two")
    by_query = Watcher(f"{address}/jobs/{job}/events?last_event_id={watcher.last_id}")
    by_header = Watcher(f"{address}/jobs/{job}/events", watcher.last_id)
    for again in (by_query, by_header):
        until(lambda again=again: again.names() == ["stage.claimed", "log", "log"])
    works.beat(claim, 20, "three")
    for again in (by_query, by_header):
        until(lambda again=again: again.names() == ["stage.claimed", "log", "log", "log"])
        assert [one.data["message"] for one in again.events if one.name == "log"] == ["one", "two", "three"]
    works.settle(claim)
    works.settle(works.claim())
    for again in (by_query, by_header):
        assert again.ended.wait(5)
        assert again.names()[-2:] == ["job.completed", "end"]
    late = Watcher(f"{address}/jobs/{job}/events", watcher.last_id)
    assert late.ended.wait(5)
    assert [(one.what, one.id) for one in late.events] == [
        (one.what, one.id) for one in by_header.events if one.name != "progress"
    ]


@pytest.mark.parametrize("last_id", ["nonsense", "0-999999", "1-1", "9223372036854775808-1", ""])
def test_an_id_that_says_nothing_brings_a_snapshot(address: str, works: Works, last_id: str) -> None:
    job = works.wish()
    for path in (f"/jobs/{job}/events", "/events"):
        watcher = Watcher(f"{address}{path}", last_id)
        until(lambda watcher=watcher: watcher.names() == ["snapshot"])
        watcher.leave()


def test_nobody_waits_for_the_end_of_a_job_that_was_forgotten(url: str, tmp_path: Path, works: Works) -> None:
    app = an_app(url, tmp_path / "models")
    app.dependencies["streams"].dependency().feed._period_s = 0.1
    with serving(app) as address:
        job, other = works.wish(), works.wish("org/other")
        watcher, patient = Watcher(f"{address}/jobs/{job}/events"), Watcher(f"{address}/jobs/{other}/events")
        until(lambda: watcher.names() == patient.names() == ["snapshot"])
        with works.database.write() as connection:
            forget(connection, [job])
        assert watcher.ended.wait(10)
        assert watcher.names() == ["snapshot"]
        assert not patient.ended.is_set()
        patient.leave()


def test_nobody_waits_for_what_is_over(address: str, works: Works) -> None:
    job = works.wish()
    works.complete()
    watcher = Watcher(f"{address}/jobs/{job}/events")
    assert watcher.ended.wait(5)
    assert watcher.names() == ["snapshot", "end"]
    assert httpx.get(f"{address}/jobs/unknown/events").status_code == 404
    assert httpx.get(f"{address}/events?logs=perhaps").status_code == 422
    answer = httpx.get(f"{address}/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("retry: 2000\n\n")


def test_all_jobs_are_watched_but_for_those_that_are_nobodys_business(address: str, works: Works) -> None:
    old, ended = works.wish("org/old"), works.wish("org/ended")
    works.jobs.cancel(ended)
    quiet, loud = Watcher(f"{address}/events"), Watcher(f"{address}/events?logs=true")
    until(lambda: quiet.names() == loud.names() == ["snapshot"])
    shown = quiet.events[0].data
    assert [job["id"] for job in shown["jobs"]] == [old]
    assert (shown["counts"]["queued"], shown["counts"]["canceled"]) == (1, 1)
    hidden = works.jobs.add([structs.replace(a_download("org/plan"), operation=Operation.PLAN)])[0]
    claim = works.claim()
    works.beat(claim, 1, "of a plan")
    works.stages.settle(claim, Failed(code="source_not_found", detail="d", hint="h"))
    same = works.wish("org/old")
    claim = works.claim()
    works.beat(claim, 30, "of a job")
    until(lambda: loud.names().count("log") == 2)
    told = [(one.what, one.data["job_id"]) for one in loud.events[1:] if one.name != "progress"]
    assert told == [
        ("job.submitted", same), ("stage.claimed", old), ("stage.claimed", same), ("log", old), ("log", same)
    ]  # fmt: skip
    until(lambda: {one.data["job_id"] for one in quiet.events if one.name == "progress"} == {old, same})
    assert [one.what for one in quiet.events[1:] if one.name != "progress"] == [one for one, _ in told if one != "log"]
    assert hidden not in str(loud.events)
    # Of what happens to several jobs at once, one may be seen before the cut, and the others after it.
    ids = [one.id for one in loud.events if one.id is not None]
    assert len(set(ids)) == len(ids)
    again = Watcher(f"{address}/events?logs=true", ids[2])
    until(lambda: [one.id for one in again.events if one.id is not None] == ids[3:])
    for watcher in (quiet, loud, again):
        watcher.leave()


def test_listeners_share_one_look_a_second(url: str, tmp_path: Path, works: Works) -> None:
    jobs = [works.wish(f"org/model{number}") for number in range(4)]
    claim = works.claim()
    with ExitStack() as stack:
        address = stack.enter_context(serving(an_app(url, tmp_path / "models")))
        paths = ["/events", "/events?logs=true", *[f"/jobs/{job}/events" for job in jobs]]
        watchers = [Watcher(f"{address}{paths[number % len(paths)]}") for number in range(200)]
        until(lambda: all(watcher.events for watcher in watchers), 60)
        time.sleep(1.2)
        with counted() as asked:
            time.sleep(3.0)
        assert 1 <= len(asked) <= 4
        shared = [watcher for number, watcher in enumerate(watchers) if number % len(paths) in {0, 1, 2}]
        with counted() as asked:
            works.beat(claim, 50)
            until(lambda: all(watcher.events[-1].name == "progress" for watcher in shared))
        # Some looks, and one more question: how the job is that has changed.
        assert sum("job_events" not in statement for statement in asked) == 1
        for watcher in watchers:
            watcher.leave()
        time.sleep(1.5)
        with counted() as asked:
            time.sleep(1.5)
        assert asked == [], "nobody listens any more"


def test_a_client_that_does_not_read_is_cut_off(url: str, tmp_path: Path, works: Works) -> None:
    app = an_app(url, tmp_path / "models")
    feed = app.dependencies["streams"].dependency().feed
    with serving(app) as address:
        job = works.wish()
        claim = works.claim()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.sendall(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            eager = Watcher(f"{address}/jobs/{job}/events")
            until(lambda: eager.names()[:1] == ["snapshot"] and len(feed._listeners) == 2)
            for _ in range(30):
                works.stages.heartbeat(claim, None, [LogEntry(level="info", text="x" * 2000) for _ in range(190)])
            until(lambda: eager.names().count("log") == 30 * 190, 60)
            lazies = [one for one in feed._listeners if one._left]
            assert all(one._bytes == 0 for one in lazies)
            assert sum(one._bytes for one in feed._listeners) < 20 * MB
            assert len(lazies) == 1
        eager.leave()
        until(lambda: not feed._listeners)


def test_a_database_that_is_away_for_a_while_ends_no_stream(tmp_path: Path) -> None:
    with postgres_url() as url:
        works = Works(url)
        app = an_app(url, tmp_path / "models")
        streams = app.dependencies["streams"].dependency()
        streams._heartbeat_s = 0.3
        with serving(app) as address:
            job = works.wish()
            watcher = Watcher(f"{address}/jobs/{job}/events")
            until(lambda: watcher.names() == ["snapshot"])
            with away(streams):
                until(lambda: watcher.comments >= 4)
                works.complete()
                before = watcher.comments
                until(lambda: watcher.comments > before + 3)
                assert watcher.names() == ["snapshot"]
            assert watcher.ended.wait(10)
            assert watcher.names()[-2:] == ["job.completed", "end"]
            assert watcher.names().count("stage.claimed") == 2
        works.database.dispose()


@contextmanager
def away(streams: Any) -> Iterator[None]:
    """The web process's database cannot be connected to: its pool is emptied, and its address leads nowhere."""
    database = streams.feed._events._database

    def refuse(*_: Any, **__: Any) -> None:
        raise database._reading.dialect.dbapi.OperationalError("connection refused")

    listen.listen(database._reading, "do_connect", refuse)
    database._reading.dispose()
    try:
        yield
    finally:
        listen.remove(database._reading, "do_connect", refuse)


def test_a_stream_that_is_cut_and_taken_up_elsewhere_misses_and_repeats_nothing(tmp_path: Path) -> None:
    with postgres_url() as url, ExitStack() as stack:
        works = Works(url)
        replicas = [Process(url, tmp_path) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.kill)
        for replica in replicas:
            replica.wait()
        proxy = stack.enter_context(RoundRobin([replica.port for replica in replicas]))
        jobs = [works.wish("org/shared"), works.wish("org/shared"), works.wish("org/other")]
        readers = [Reader(f"{proxy.address}/jobs/{job}/events") for job in jobs]
        everything = Reader(f"{proxy.address}/events?logs=true")
        # All of them have begun, and been cut for the first time.
        until(lambda: proxy.open_connections >= len(readers) + 1)
        time.sleep(0.5)
        claims = [works.claim(), works.claim()]
        for number in range(30):
            for claim in claims:
                works.beat(claim, number, f"line {number}")
            time.sleep(0.1)
            if number % 4 == 0:
                proxy.cut()
        for claim in claims:
            works.settle(claim)
        for _ in claims:
            works.settle(works.claim())
        late = works.wish("org/late")
        works.jobs.cancel(late)
        assert all(reader.ended.wait(20) for reader in readers)
        time.sleep(2.5)
        everything.stop()
        assert everything.ended.wait(5)
        everybody = [works.events.of_job(job, limit=1000) for job in [*jobs, late]]
        for told, reader in zip(everybody, readers, strict=False):
            assert [one.id for one in reader.seen if one.name in {"job", "log"}] == [
                one.position.text() for one in told if one.event != "job.submitted"
            ]
            assert [one.name for one in reader.seen].count("end") == 1
        seen = [one.id for one in everything.seen if one.name in {"job", "log"}]
        assert len(seen) == len(set(seen))
        accepted = [told[0].position.text() for told in everybody[: len(jobs)]]
        assert sorted(seen) == sorted(
            one.position.text() for told in everybody for one in told if one.position.text() not in accepted
        )
        assert set(proxy.taken) == {replica.port for replica in replicas}
        assert min(reader.opened for reader in [*readers, everything]) > 4
        works.database.dispose()


@pytest.mark.parametrize("path", ["/events", "/jobs/{job}/events"])
def test_a_process_that_is_asked_to_end_ends_though_clients_listen(
    tmp_path: Path, works: Works, url: str, path: str
) -> None:
    job = works.wish()
    process = Process(url, tmp_path)
    try:
        process.wait()
        watcher = Watcher(f"{process.address}{path.format(job=job)}")
        until(lambda: watcher.names() == ["snapshot"])
        assert process.end(within_s=5) in {0, -15}
        assert "Traceback" not in process.log
        assert "ERROR" not in process.log
        assert watcher.ended.wait(2)
    finally:
        process.kill()


def test_a_client_that_does_not_read_holds_up_no_end(tmp_path: Path, works: Works, url: str) -> None:
    job = works.wish()
    claim = works.claim()
    process = Process(url, tmp_path)
    try:
        process.wait()
        with socket.create_connection(("127.0.0.1", process.port)) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.sendall(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            time.sleep(1.0)
            for _ in range(30):
                works.stages.heartbeat(claim, None, [LogEntry(level="info", text="x" * 2000) for _ in range(190)])
            time.sleep(2.0)
            assert process.end(within_s=10) in {0, -15}
    finally:
        process.kill()
