"""The order of events, and which of them concern which job, on both databases."""

from collections.abc import Iterator

import pytest
from msgspec import structs
from sqlalchemy import event as listen
from sqlalchemy import text

from common.outcome import Failed, Retry, Succeeded
from common.records import LogEntry
from common.spec import Progress
from common.store.chain import event, record
from common.store.database import Database
from common.store.events import BEGINNING, EventStore, JobEvent, Position
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Operation, Phase, Pool
from tests.builders import a_download
from tests.databases import postgres_url

pytestmark = pytest.mark.filterwarnings("error")


class Desk:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = JobStore(database)
        self.stages = StageStore(database, lease_s=60, retry=RetryPolicy(base_s=0.0))
        self.events = EventStore(database)

    def say(self, *texts: str) -> None:
        claim = self.claimed
        assert self.stages.heartbeat(claim, None, [LogEntry(level="info", text=text) for text in texts]).held

    def claim(self) -> None:
        claim = self.stages.claim(Pool.DOWNLOAD, "a-worker")
        assert claim is not None
        self.claimed = claim

    def told(self, job_id: str) -> list[str]:
        return [one.note or "" if one.is_said else one.event for one in self.events.of_job(job_id)]


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


@pytest.fixture
def postgres() -> Iterator[Database]:
    with postgres_url() as url:
        database = Database(url)
        yield database
        database.dispose()


def test_what_commits_late_is_neither_left_out_nor_repeated(postgres: Database) -> None:
    desk = Desk(postgres)
    (first,) = desk.jobs.add([a_download()])
    behind = desk.events.head()
    seen: list[JobEvent] = []

    def look() -> None:
        nonlocal behind
        news = desk.events.news(behind, logs=True)
        seen.extend(news.events)
        behind = news.behind

    with postgres.write() as slow:
        record(slow, event("job.slow", job_id=first))
        with postgres.write() as fast:
            record(fast, event("job.fast", job_id=first))
        # The faster one is committed, with the greater number; the slower one may still come before it.
        look()
        assert seen == []
        assert desk.events.head() == behind
        assert [one.event for one in desk.events.of_job(first, behind)] == []
    look()
    assert [one.event for one in seen] == ["job.slow", "job.fast"]
    look()
    assert len(seen) == 2
    assert desk.events.head() == behind


def test_a_transaction_with_the_smaller_number_may_begin_later(postgres: Database) -> None:
    """A number is taken when a row is written, which need not be when a transaction begins."""
    desk = Desk(postgres)
    (first,) = desk.jobs.add([a_download()])
    behind = desk.events.head()
    with postgres.write() as early:
        early.execute(text("SELECT pg_current_xact_id()"))
        with postgres.write() as late:
            record(late, event("job.late", job_id=first))
        record(early, event("job.early", job_id=first))
        assert desk.events.news(behind, logs=False).events == []
    told = desk.events.news(behind, logs=False).events
    assert [one.event for one in told] == ["job.early", "job.late"]
    assert told[0].position.seq > told[1].position.seq


def test_every_job_on_a_stage_hears_of_it_from_when_it_came_until_it_left(desk: Desk) -> None:
    first, second = (desk.jobs.add([a_download()])[0] for _ in range(2))
    desk.claim()
    desk.say("one")
    (third,) = desk.jobs.add([a_download()])
    desk.say("two")
    desk.jobs.cancel(second)
    desk.say("three")
    desk.stages.settle(desk.claimed, Succeeded(artefact="a"), [LogEntry(level="info", text="four")])
    assert desk.told(first) == [
        "job.submitted", "stage.claimed", "one", "two", "three", "four", "stage.succeeded", "job.advanced",
    ]  # fmt: skip
    assert desk.told(second) == ["job.submitted", "stage.claimed", "one", "two", "job.canceled"]
    assert desk.told(third) == ["job.submitted", "two", "three", "four", "stage.succeeded", "job.advanced"]
    together = desk.events.since(BEGINNING, logs=True).events
    for job_id in (first, second, third):
        assert [one for one in together if one.job_id == job_id] == desk.events.of_job(job_id)
    positions = [one.position for one in together]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize("logs", [True, False])
def test_reading_on_from_any_event_gives_the_rest(desk: Desk, *, logs: bool) -> None:
    for _ in range(3):
        desk.jobs.add([a_download()])
    desk.claim()
    desk.say("one", "two")
    desk.stages.settle(desk.claimed, Succeeded(artefact="a"))
    everything = desk.events.since(BEGINNING, logs=logs).events
    for number, one in enumerate(everything):
        position = Position.read(one.position.text())
        assert position == one.position
        assert desk.events.since(position, logs=logs).events == everything[number + 1 :]
        own = [later for later in everything[number + 1 :] if later.job_id == one.job_id]
        assert [later for later in desk.events.of_job(one.job_id, position) if logs or not later.is_said] == own


def test_a_log_is_read_in_pages(desk: Desk) -> None:
    (job,) = desk.jobs.add([a_download()])
    desk.claim()
    desk.say(*[f"line {number}" for number in range(450)])
    whole = desk.events.of_job(job, limit=1000)
    assert [one.note for one in whole if one.is_said] == [f"line {number}" for number in range(450)]
    pages, after = [], BEGINNING
    while page := desk.events.of_job(job, after, limit=200):
        pages.append(page)
        after = page[-1].position
    assert [len(page) for page in pages] == [200, 200, 52]
    assert [one for page in pages for one in page] == whole


def test_lines_that_concern_nobody_any_more_stop_nobody(desk: Desk) -> None:
    (job,) = desk.jobs.add([a_download()])
    desk.claim()
    desk.jobs.cancel(job)
    desk.say(*[f"line {number}" for number in range(450)])
    (other,) = desk.jobs.add([a_download("org/other")])
    behind, told = BEGINNING, []
    while True:
        news = desk.events.news(behind, logs=True)
        told += [one.event for one in news.events]
        behind = news.behind
        if not news.more:
            break
    assert told == ["job.submitted", "stage.claimed", "job.canceled", "job.submitted"]
    assert desk.told(other) == ["job.submitted"]


def test_news_are_one_statement_and_tell_what_runs(desk: Desk) -> None:
    first, second = (desk.jobs.add([a_download()])[0] for _ in range(2))
    desk.claim()
    (hidden,) = desk.jobs.add([structs.replace(a_download("org/hidden"), operation=Operation.PLAN)])
    desk.stages.heartbeat(desk.claimed, Progress(phase=Phase.DOWNLOADING, bytes_done=3, bytes_total=9))
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.extend([statement] if statement.lstrip().upper().startswith(("SELECT", "WITH")) else [])

    engine = desk.database._reading
    listen.listen(engine, "before_cursor_execute", note)
    news = desk.events.news(BEGINNING, logs=False)
    listen.remove(engine, "before_cursor_execute", note)
    assert len(asked) == 1
    (stage,) = news.running
    assert sorted(stage.job_ids) == sorted([first, second])
    assert stage.progress["bytes_done"] == 3
    assert {one.job_id for one in news.events if one.hidden} == {hidden}


def test_a_number_never_comes_again(desk: Desk) -> None:
    (job,) = desk.jobs.add([a_download()])
    desk.jobs.cancel(job)
    behind = desk.events.head()
    desk.jobs.delete(job)
    (other,) = desk.jobs.add([a_download()])
    assert [(one.job_id, one.event) for one in desk.events.news(behind, logs=False).events] == [
        (other, "job.submitted")
    ]


def test_lines_are_no_attempts_and_go_with_their_stage(desk: Desk) -> None:
    (job,) = desk.jobs.add([a_download()])
    desk.claim()
    desk.say("one")
    desk.stages.settle(desk.claimed, Retry(code="hub_unavailable", detail="d", hint="h"), [])
    desk.claim()
    desk.say("two")
    desk.stages.settle(desk.claimed, Failed(code="internal", detail="d", hint="h"))
    assert [(one.number, one.outcome) for one in desk.jobs.attempts(job)] == [(1, "retried"), (2, "failed")]
    desk.jobs.delete(job)
    with desk.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM job_events")).scalar_one() == 0


@pytest.mark.parametrize(
    "said", ["", "1", "1-", "-1-2", "1-2-", "1-2-3-4", "a-1", " 1-2", "1-2\n", "٣-1", "9" * 19 + "-1"]
)
def test_what_is_no_position(said: str) -> None:
    assert Position.read(said) is None
