"""What is remembered of jobs, for how long, and how it is read: on SQLite and on Postgres alike."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, func, insert, select, text, update

from common.errors import JobActive, NoSuchJob, NotRetryable
from common.outcome import Cancelled, Failed, Released, Retry, Succeeded
from common.records import Claim, JobPage, JobRecord
from common.store.database import Database, Now
from common.store.jobs import JobStore
from common.store.retention import Retention
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow
from common.vocabulary import JobState, Pool, StageState
from tests.builders import a_conversion, a_download

NO_WAIT = RetryPolicy(max_attempts=4, max_crashes=3, base_s=0.0, cap_s=0.0, jitter=lambda: 1.0)
DAY_S = 24 * 3600.0
SECRET = "hf_abcdefghijkl"


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    return SimpleNamespace(
        jobs=JobStore(database), stages=StageStore(database, lease_s=60, retry=NO_WAIT), database=database
    )


def claim(table: SimpleNamespace, pool: Pool = Pool.DOWNLOAD, owner: str = "w1") -> Claim:
    taken = table.stages.claim(pool, owner)
    assert taken is not None, "nothing to claim"
    return taken


def claim_in_time(table: SimpleNamespace, owner: str) -> Claim:
    """Claim a stage that waits some seconds after a crash."""
    deadline = time.monotonic() + 20
    while (taken := table.stages.claim(Pool.DOWNLOAD, owner)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return taken


def run(table: SimpleNamespace, pool: Pool = Pool.DOWNLOAD) -> None:
    """Carry out every stage of a pool that waits."""
    while (taken := table.stages.claim(pool, "w1")) is not None:
        table.stages.settle(taken, Succeeded(artefact=f"a-{taken.kind}"))


def state(table: SimpleNamespace, job_id: str) -> JobState:
    return table.jobs.job(job_id).state


def rows(table: SimpleNamespace) -> dict[str, int]:
    kinds = (JobRow, StageRow, JobStageRow, JobEventRow)
    with table.database.read() as connection:
        return {
            kind.__tablename__: connection.execute(select(func.count()).select_from(kind)).scalar_one()
            for kind in kinds
        }


NOTHING = {"jobs": 0, "stages": 0, "job_stages": 0, "job_events": 0}


def end(table: SimpleNamespace, name: str, outcome: JobState, **spec: str) -> str:
    """A job that has ended in this way."""
    (job,) = table.jobs.add([a_download(name, **spec)])
    match outcome:
        case JobState.CANCELED:
            table.jobs.cancel(job)
        case JobState.FAILED:
            table.stages.settle(claim(table), Failed(code="source_not_found", detail="404", hint=""))
        case _:
            run(table)
    assert state(table, job) is outcome
    return job


# Retry


@pytest.mark.parametrize("how", [JobState.FAILED, JobState.CANCELED])
def test_a_retry_is_a_new_job_with_the_same_wish(table: SimpleNamespace, how: JobState) -> None:
    spec = msgspec.structs.replace(a_download("org/a", root="team"), config={"precision": "int8"})
    (job,) = table.jobs.add([spec], tenant="a")
    if how is JobState.CANCELED:
        table.jobs.cancel(job)
    else:
        table.stages.settle(claim(table), Failed(code="source_not_found", detail="404", hint="look"))
    before = table.jobs.job(job)

    again = table.jobs.retry(job)
    assert again != job
    record = table.jobs.job(again)
    assert (record.spec, record.tenant, record.retry_of) == (spec, "a", job)
    assert (record.state, record.attempt, record.error_code, record.ended_at) == (JobState.QUEUED, 0, None, None)
    assert table.jobs.job(job) == before, "what has ended stays as it is"
    run(table)
    assert (state(table, again), state(table, job)) == (JobState.COMPLETED, how)


def test_a_retry_may_be_asked_by_somebody_else(table: SimpleNamespace) -> None:
    job = end(table, "org/a", JobState.CANCELED)
    assert table.jobs.job(table.jobs.retry(job, tenant="b")).tenant == "b"


def test_a_retry_of_a_retry_names_the_job_before_it(table: SimpleNamespace) -> None:
    first = end(table, "org/a", JobState.CANCELED)
    second = table.jobs.retry(first)
    table.jobs.cancel(second)
    assert table.jobs.job(table.jobs.retry(second)).retry_of == second


def test_two_retries_of_one_job_share_their_work(table: SimpleNamespace) -> None:
    job = end(table, "org/a", JobState.FAILED)
    retries = {table.jobs.retry(job), table.jobs.retry(job)}
    assert set(claim(table).job_ids) == retries


def test_only_what_ended_without_success_can_be_retried(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    for refused in (lambda: None, lambda: claim(table)):
        refused()
        with pytest.raises(JobActive, match=f"Job {job} has not ended"):
            table.jobs.retry(job)
    with pytest.raises(NoSuchJob, match="Job none not found"):
        table.jobs.retry("none")
    done = end(table, "org/done", JobState.COMPLETED)
    before = rows(table)
    with pytest.raises(NotRetryable, match="is completed"):
        table.jobs.retry(done)
    assert rows(table) == before


def test_a_job_can_be_retried_while_its_cancelled_stage_is_being_stopped(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    stopping = claim(table)
    table.jobs.cancel(job)
    again = table.jobs.retry(job)
    fresh = claim(table, owner="w2")
    assert fresh.stage_id != stopping.stage_id
    assert fresh.job_ids == (again,)
    table.stages.settle(stopping, Cancelled())
    assert state(table, again) is JobState.DOWNLOADING


# Delete


@pytest.mark.parametrize("how", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELED])
def test_a_deleted_job_leaves_nothing(table: SimpleNamespace, how: JobState) -> None:
    job = end(table, "org/a", how)
    table.jobs.delete(job)
    assert rows(table) == NOTHING
    for ask in (table.jobs.job, table.jobs.attempts, table.jobs.delete, table.jobs.retry, table.jobs.cancel):
        with pytest.raises(NoSuchJob):
            ask(job)


def test_only_what_has_ended_can_be_deleted(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    before = rows(table)
    with pytest.raises(JobActive, match="cancel it first"):
        table.jobs.delete(job)
    claim(table)
    with pytest.raises(JobActive):
        table.jobs.delete(job)
    with pytest.raises(NoSuchJob, match="Job none not found"):
        table.jobs.delete("none")
    assert rows(table) == before | {"job_events": before["job_events"] + 1}


def test_a_stage_stays_as_long_as_one_job_remembers_it(table: SimpleNamespace) -> None:
    download, conversion = table.jobs.add([a_download(), a_conversion()])
    run(table)
    assert (state(table, download), state(table, conversion)) == (JobState.COMPLETED, JobState.CONVERTING)
    history = table.jobs.attempts(conversion)
    table.jobs.delete(download)
    assert table.jobs.attempts(conversion) == history, "the fetch was the other job's too"
    run(table, Pool.CONVERT)
    assert state(table, conversion) is JobState.COMPLETED
    table.jobs.delete(conversion)
    assert rows(table) == NOTHING


def test_deleting_a_cancelled_job_takes_nothing_from_the_one_that_goes_on(table: SimpleNamespace) -> None:
    first, second = table.jobs.add([a_download(), a_download()])
    running = claim(table)
    table.jobs.cancel(first)
    table.jobs.delete(first)
    assert table.stages.heartbeat(running, None).held
    table.stages.settle(running, Succeeded(artefact="source-1"))
    run(table)
    assert state(table, second) is JobState.COMPLETED
    table.jobs.delete(second)
    assert rows(table) == NOTHING


ENDS: dict[str, Callable[[SimpleNamespace, Claim], object]] = {
    "stopped": lambda table, taken: table.stages.settle(taken, Cancelled()),
    "done meanwhile": lambda table, taken: table.stages.settle(taken, Succeeded(artefact="late")),
    "failed meanwhile": lambda table, taken: table.stages.settle(taken, Failed(code="x", detail="", hint="")),
    "to be tried again": lambda table, taken: table.stages.settle(taken, Retry(code="x", detail="", hint="")),
    "released": lambda table, taken: table.stages.settle(taken, Released()),
    "its worker died": lambda table, taken: table.stages.reap_owners([taken.owner]),
}


@pytest.mark.parametrize("ending", ENDS.values(), ids=ENDS)
def test_a_job_can_be_deleted_while_its_stage_is_being_stopped(
    table: SimpleNamespace, ending: Callable[[SimpleNamespace, Claim], object]
) -> None:
    (job,) = table.jobs.add([a_download()])
    running = claim(table)
    table.jobs.cancel(job)
    table.jobs.delete(job)
    beat = table.stages.heartbeat(running, None)
    assert (beat.held, beat.cancel) == (True, True), "the worker must learn that it is to stop"
    ending(table, running)
    assert rows(table) == NOTHING
    assert table.stages.settle(running, Cancelled()) is None


def test_a_later_stage_that_is_being_stopped_goes_with_its_job(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_conversion()])
    run(table)
    converting = claim(table, Pool.CONVERT)
    table.jobs.cancel(job)
    table.jobs.delete(job)
    assert rows(table)["stages"] == 1
    table.stages.settle(converting, Cancelled())
    assert rows(table) == NOTHING


# Attempts


def told(table: SimpleNamespace, job_id: str) -> list[tuple[str, int, str, str | None, str | None]]:
    return [
        (attempt.stage, attempt.number, attempt.worker, attempt.outcome, attempt.error_code)
        for attempt in table.jobs.attempts(job_id)
    ]


def test_the_attempts_of_a_job_tell_what_happened_to_it(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    assert table.jobs.attempts(job) == []

    claim(table, owner="crashing")
    assert told(table, job) == [("fetch", 1, "crashing", None, None)]
    table.stages.reap_owners(["crashing"])
    trouble = Retry(code="hub_unavailable", detail=f"503 for {SECRET}", hint="wait")
    table.stages.settle(claim_in_time(table, "w2"), trouble)
    table.stages.settle(claim(table, owner="drained"), Released())
    table.stages.settle(claim(table, owner="w4"), Failed(code="source_gated", detail=f"no: {SECRET}", hint="ask"))

    assert told(table, job) == [
        ("fetch", 1, "crashing", "retried", "worker_lost"),
        ("fetch", 2, "w2", "retried", "hub_unavailable"),
        ("fetch", 3, "drained", "released", None),
        ("fetch", 4, "w4", "failed", "source_gated"),
    ]
    attempts = table.jobs.attempts(job)
    assert [attempt.error for attempt in attempts] == ["Its worker died.", "503 for ***", None, "no: ***"]
    times = [moment for attempt in attempts for moment in (attempt.began_at, attempt.ended_at)]
    assert None not in times
    assert times == sorted(times)
    ended = table.jobs.job(job)
    assert (ended.state, ended.error_code, ended.error) == (JobState.FAILED, "source_gated", "no: ***")


def test_attempts_of_all_stages_are_told_in_order(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_conversion()])
    run(table)
    out_of_memory = Retry(code="conversion_failed", detail="killed", hint="")
    table.stages.settle(claim(table, Pool.CONVERT), out_of_memory)
    run(table, Pool.CONVERT)
    assert [(stage, number, outcome) for stage, number, _, outcome, _ in told(table, job)] == [
        ("fetch", 1, "succeeded"),
        ("convert", 1, "retried"),
        ("convert", 2, "succeeded"),
        ("publish", 1, "succeeded"),
    ]
    assert [attempt.error for attempt in table.jobs.attempts(job)] == [None, "killed", None, None]


def test_poison_ends_with_the_history_of_its_victims(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    for number in range(3):
        claim_in_time(table, f"victim{number}")
        table.stages.reap_owners([f"victim{number}"])
    assert told(table, job) == [
        ("fetch", 1, "victim0", "retried", "worker_lost"),
        ("fetch", 2, "victim1", "retried", "worker_lost"),
        ("fetch", 3, "victim2", "failed", "worker_lost"),
    ]


def test_while_a_job_waits_it_says_why_and_until_when(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    untouched = table.jobs.job(job)
    assert (untouched.retry_at, untouched.last_error_code) == (None, None)
    table.stages.settle(claim(table), Retry(code="hub_unavailable", detail=f"503 {SECRET}", hint="", wait_s=60.0))
    waiting = table.jobs.job(job)
    assert (waiting.last_error_code, waiting.last_error) == ("hub_unavailable", "503 ***")
    assert waiting.retry_at is not None
    assert 50 < (waiting.retry_at - waiting.created_at).total_seconds() < 90


def test_a_cancelled_attempt_is_told_as_such(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    running = claim(table)
    table.jobs.cancel(job)
    assert told(table, job) == [("fetch", 1, "w1", None, None)]
    table.stages.settle(running, Cancelled())
    assert told(table, job) == [("fetch", 1, "w1", "cancelled", None)]


def test_a_job_without_attempts_has_none_of_another(table: SimpleNamespace) -> None:
    end(table, "org/a", JobState.COMPLETED)
    (job,) = table.jobs.add([a_download("org/a")])
    assert table.jobs.attempts(job) == []
    with pytest.raises(NoSuchJob, match="Job none not found"):
        table.jobs.attempts("none")


# Retention


def ended_ago(table: SimpleNamespace, job_id: str, seconds: float) -> None:
    with table.database.write() as connection:
        connection.execute(update(JobRow).where(JobRow.id == job_id).values(ended_at=Now() - seconds))


def prune(table: SimpleNamespace, *, keep_days: float = 0, keep_jobs: int = 0) -> int:
    return Retention(table.database, keep_days=keep_days, keep_jobs=keep_jobs).prune()


def left(table: SimpleNamespace) -> list[str]:
    return [job.id for job in table.jobs.jobs()]


def test_jobs_are_forgotten_when_they_are_old(table: SimpleNamespace) -> None:
    outcomes = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)
    old, young = ([end(table, f"{age}/{outcome}", outcome) for outcome in outcomes] for age in ("old", "young"))
    (active,) = table.jobs.add([a_download("org/active")])
    for job in old:
        ended_ago(table, job, 7 * DAY_S + 60)
    for job in young:
        ended_ago(table, job, 7 * DAY_S - 60)
    with table.database.write() as connection:
        connection.execute(update(JobRow).values(created_at=Now() - 30 * DAY_S))
    assert prune(table, keep_days=7) == 3
    assert left(table) == [*young, active]
    assert prune(table, keep_days=7) == 0


def test_jobs_are_forgotten_when_they_are_many(table: SimpleNamespace) -> None:
    jobs = [end(table, f"org/m{number}", JobState.CANCELED) for number in range(6)]
    (active,) = table.jobs.add([a_download("org/active")])
    for number, job in enumerate(jobs):
        ended_ago(table, job, 100.0 * number)  # the first has ended last
    assert prune(table, keep_jobs=4) == 2
    assert left(table) == [*jobs[:4], active]
    assert prune(table, keep_jobs=4) == 0


def test_fewer_jobs_than_are_kept_stay(table: SimpleNamespace) -> None:
    assert prune(table, keep_jobs=3) == 0
    jobs = [end(table, f"org/m{number}", JobState.CANCELED) for number in range(2)]
    assert prune(table, keep_jobs=3) == 0
    assert left(table) == jobs


def test_nothing_is_forgotten_unless_the_operator_wants_it(table: SimpleNamespace) -> None:
    job = end(table, "org/a", JobState.COMPLETED)
    ended_ago(table, job, 10_000 * DAY_S)
    assert prune(table) == 0
    assert left(table) == [job]


def test_age_counts_even_where_few_jobs_are_kept(table: SimpleNamespace) -> None:
    jobs = [end(table, f"org/m{number}", JobState.CANCELED) for number in range(4)]
    for number, job in enumerate(jobs):
        ended_ago(table, job, DAY_S * number + 60)
    assert prune(table, keep_days=3, keep_jobs=2) == 1
    assert prune(table, keep_days=3, keep_jobs=2) == 1
    assert prune(table, keep_days=3, keep_jobs=2) == 0
    assert left(table) == jobs[:2]


def test_what_is_forgotten_takes_its_history_along(table: SimpleNamespace) -> None:
    download, conversion = table.jobs.add([a_download(), a_conversion()])
    run(table)
    ended_ago(table, download, 2 * DAY_S)
    assert prune(table, keep_days=1) == 1
    run(table, Pool.CONVERT)
    assert state(table, conversion) is JobState.COMPLETED
    ended_ago(table, conversion, 2 * DAY_S)
    assert prune(table, keep_days=1) == 1
    assert rows(table) == NOTHING


def test_many_old_jobs_are_forgotten_in_batches(table: SimpleNamespace) -> None:
    table.jobs.add([a_download(f"org/m{number}") for number in range(1200)])
    long_ago = Now() - 2 * DAY_S
    with table.database.write() as connection:
        connection.execute(update(StageRow).values(state=StageState.CANCELED, ended_at=long_ago))
        connection.execute(update(JobRow).values(state=JobState.CANCELED, ended_at=long_ago))
    batches = [prune(table, keep_days=1) for _ in range(4)]
    assert sum(batches) == 1200
    assert batches[-1] == 0
    assert max(batches) <= 500, "others want to write too"
    assert rows(table) == NOTHING


# Pages


def pages(table: SimpleNamespace, limit: int, **options: object) -> Iterator[JobPage]:
    page = table.jobs.page(limit=limit, **options)
    yield page
    while page.next is not None:
        page = table.jobs.page(after=page.next, limit=limit, **options)
        yield page


def listed(table: SimpleNamespace, limit: int, **options: object) -> list[str]:
    return [job.id for page in pages(table, limit, **options) for job in page.records]


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11])
def test_pages_show_every_job_once_in_both_directions(table: SimpleNamespace, limit: int) -> None:
    assert table.jobs.page(limit=limit) == JobPage(records=[])
    jobs = table.jobs.add([a_download(f"org/m{number}") for number in range(10)])
    assert listed(table, limit) == jobs
    assert listed(table, limit, newest_first=True) == jobs[::-1]
    sizes = [len(page.records) for page in pages(table, limit)]
    assert all(size == limit for size in sizes[:-1])
    assert sizes[-1] > 0, "no page is empty"


def test_a_page_shows_what_a_look_at_each_job_shows(table: SimpleNamespace) -> None:
    for number, how in enumerate((JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)):
        end(table, f"org/m{number}", how)
    table.jobs.add([a_conversion()])
    run(table)
    shown: list[JobRecord] = table.jobs.page(limit=10).records
    assert len(shown) == 4
    assert shown == [table.jobs.job(job.id) for job in shown] == table.jobs.jobs()


def test_pages_can_be_filtered(table: SimpleNamespace) -> None:
    jobs = table.jobs.add([a_download(f"org/m{number % 2}", root=str(number)) for number in range(10)])
    for job in jobs[:4]:
        table.jobs.cancel(job)
    assert listed(table, 3, state=JobState.CANCELED) == jobs[:4]
    assert listed(table, 3, state=JobState.QUEUED, newest_first=True) == jobs[:3:-1]


def test_jobs_that_come_between_two_pages_disturb_nobody(table: SimpleNamespace) -> None:
    jobs = table.jobs.add([a_download(f"org/m{number}") for number in range(6)])
    forwards, backwards = table.jobs.page(limit=4), table.jobs.page(limit=4, newest_first=True)
    new = table.jobs.add([a_download(f"org/n{number}") for number in range(3)])
    following = table.jobs.page(after=forwards.next, limit=10)
    assert [job.id for job in following.records] == [*jobs[4:], *new]
    following = table.jobs.page(after=backwards.next, limit=10, newest_first=True)
    assert [job.id for job in following.records] == jobs[1::-1]


@pytest.mark.parametrize("newest_first", [False, True])
def test_jobs_that_are_deleted_between_two_pages_hide_no_other(table: SimpleNamespace, newest_first: bool) -> None:
    jobs = [end(table, f"org/m{number}", JobState.CANCELED) for number in range(7)]
    order = jobs[::-1] if newest_first else jobs
    page = table.jobs.page(limit=3, newest_first=newest_first)
    assert [job.id for job in page.records] == order[:3]
    for job in (order[0], order[2], order[4]):
        table.jobs.delete(job)
    following = table.jobs.page(after=page.next, limit=3, newest_first=newest_first)
    assert [job.id for job in following.records] == [order[3], order[5], order[6]]
    assert following.next is None


# Cost


def recorded(database: Database, work: Callable[[], object]) -> list[tuple[str, Any]]:
    """The statements that this work sends, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def listen(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    engines = {database._writing, database._reading}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", listen)
    work()
    for engine in engines:
        event.remove(engine, "before_cursor_execute", listen)
    return sent


def explained(database: Database, statement: str, parameters: Any) -> str:
    """How the database means to carry out a statement."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    with database.read() as connection:
        told = connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "".join(f"{row[-1]}\n" for row in told)


def rows_read(database: Database, statement: str, parameters: Any) -> int:
    """How many rows Postgres looks at to carry out a query."""
    with database.read() as connection:
        (root,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    return _rows_below(root["Plan"])


def _rows_below(node: dict[str, Any]) -> int:
    below = node.get("Plans", [])
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    looked_at = removed if below else node["Actual Rows"] + removed
    return round(looked_at * node["Actual Loops"]) + sum(map(_rows_below, below))


@pytest.fixture
def long_table(table: SimpleNamespace) -> SimpleNamespace:
    """5,000 jobs of 5 tenants, each on a stage of its own: half of them ended, 20 running, the others waiting."""
    (template,) = table.jobs.add([a_download("template/model")])
    with table.database.write() as connection:
        job = dict(connection.execute(select(*JobRow.__table__.columns)).one()._mapping)
        stage = dict(connection.execute(select(*StageRow.__table__.columns)).one()._mapping)
        del job["seq"]
        rows = [_a_row(number, job, stage) for number in range(5000)]
        connection.execute(insert(StageRow), [stage for _, stage in rows])
        connection.execute(insert(JobRow), [job for job, _ in rows])
        links = [{"job_id": job["id"], "position": 0, "stage_id": stage["id"]} for job, stage in rows]
        connection.execute(insert(JobStageRow), links)
    table.jobs.cancel(template)
    with table.database.write() as connection:
        connection.execute(text("ANALYZE"))
    return table


def _a_row(number: int, job: dict[str, Any], stage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if number < 2500:
        state, shown = StageState.SUCCEEDED, JobState.COMPLETED
    elif number % 125 == 0:
        state, shown = StageState.RUNNING, JobState.DOWNLOADING
    else:
        state, shown = StageState.QUEUED, JobState.QUEUED
    running = state is StageState.RUNNING
    tenant, at = f"t{number % 5}", stage["created_at"] + number
    ended_at = at if shown is JobState.COMPLETED else None
    new_stage = stage | {
        "id": f"stage-{number}", "work_key": f"fetch-{number}", "state": state, "tenant": tenant, "created_at": at,
        "rank": (2 << 40) + number // 5, "lease_owner": "w" if running else None,
        "lease_until": at + 60 if running else None, "ended_at": ended_at,
    }  # fmt: skip
    new_job = job | {
        "id": f"job-{number}", "model_name": f"org/m{number % 5}", "state": shown, "tenant": tenant,
        "stage_id": f"stage-{number}", "ended_at": ended_at,
    }  # fmt: skip
    return new_job, new_stage


FILTERS: dict[str, dict[str, object]] = {
    "all": {},
    "in an early state": {"state": JobState.COMPLETED},
    "in a late state": {"state": JobState.QUEUED},
    "in a rare state": {"state": JobState.CANCELED},
}


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_a_page_costs_no_more_where_there_are_many_jobs(long_table: SimpleNamespace, newest_first: bool) -> None:
    dear = []
    for shown, filters in FILTERS.items():
        for after in (None, 1250, 2600, 3750):
            asked = {"after": after, "limit": 20, "newest_first": newest_first, **filters}
            sent = recorded(long_table.database, partial(long_table.jobs.page, **asked))
            ((statement, parameters),) = [(text, values) for text, values in sent if "FROM jobs" in text]
            if long_table.database.is_sqlite:
                told = explained(long_table.database, statement, parameters)
                # A SCAN of all jobs follows their primary key, and ends with the last row of the page.
                cheap = "TEMP B-TREE" not in told and ("SCAN jobs" not in told or not filters)
            else:
                # So many jobs, and one more that tells whether another page follows; each has a stage or two.
                cheap = rows_read(long_table.database, statement, parameters) <= 10 * 21
            if not cheap:
                dear.append(f"{shown} after {after}\n{explained(long_table.database, statement, parameters)}")
    assert not dear, "\n".join(dear)


def test_a_claim_looks_at_waiting_stages_only(long_table: SimpleNamespace) -> None:
    sent = recorded(long_table.database, lambda: long_table.stages.claim(Pool.DOWNLOAD, "w"))
    ((statement, parameters),) = [(text, values) for text, values in sent if text.startswith("UPDATE stages")]
    told = explained(long_table.database, statement, parameters)
    assert "stages_claimable" in told, told
    assert "Seq Scan on stages" not in told, told
    assert "SCAN stages\n" not in told, told


def test_a_turn_is_found_among_waiting_and_running_stages_only(long_table: SimpleNamespace) -> None:
    sent = recorded(long_table.database, lambda: long_table.jobs.add([a_download("org/new")], tenant="t1"))
    ((statement, parameters),) = [(text, values) for text, values in sent if "max(stages.rank)" in text]
    told = explained(long_table.database, statement, parameters)
    assert "stages_of_tenant" in told, told
    assert "stages_leased" in told, told
    assert "Seq Scan" not in told, told
    assert "SCAN stages\n" not in told, told
