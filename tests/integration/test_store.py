"""The job table's promises, on SQLite and on Postgres alike."""

import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from common.errors import JobEnded, NoSuchJob, NotCancellable, ServiceUnavailable
from common.outcome import Cancelled, Failed, Released, Retry, Succeeded
from common.records import Claim
from common.spec import Progress
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import JobEventRow, Row
from common.vocabulary import JobState, Phase, Pool, StageKind
from migrations.command import configuration, upgrade
from tests.builders import a_conversion, a_download

NO_WAIT = RetryPolicy(max_attempts=3, max_crashes=3, base_s=0.0, cap_s=0.0, jitter=lambda: 1.0)


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    return SimpleNamespace(
        jobs=JobStore(database), stages=StageStore(database, lease_s=60, retry=NO_WAIT), database=database
    )


def claim(table: SimpleNamespace, pool: Pool = Pool.DOWNLOAD, owner: str = "w1") -> Claim:
    taken = table.stages.claim(pool, owner)
    assert taken is not None, "nothing to claim"
    return taken


def done(artefact: str = "source-1", **result: object) -> Succeeded:
    return Succeeded(artefact=artefact, result=dict(result))


def state(table: SimpleNamespace, job_id: str) -> JobState:
    return table.jobs.job(job_id).state


def test_a_job_runs_through_its_whole_chain(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_conversion()])
    asked = table.jobs.job(job)
    assert (asked.state, asked.stage) == (JobState.QUEUED, StageKind.FETCH)

    fetch = claim(table)
    assert fetch.work["source"] == {"hub": "huggingface", "name": "org/model", "revision": None}
    assert state(table, job) is JobState.DOWNLOADING
    assert table.stages.settle(fetch, done("source-1")) == {Pool.CONVERT}
    assert state(table, job) is JobState.CONVERTING, "between two stages a job is busy with the next one"

    convert = claim(table, Pool.CONVERT)
    assert (convert.kind, convert.input) == (StageKind.CONVERT, "source-1")
    assert table.stages.settle(convert, done("converted-1")) == {Pool.CONVERT}
    publish = claim(table, Pool.CONVERT)
    assert (publish.kind, publish.input) == (StageKind.PUBLISH, "converted-1")
    assert table.stages.settle(publish, done("converted-1", path="/models/x")) == frozenset()

    ended = table.jobs.job(job)
    assert (ended.state, ended.result) == (JobState.COMPLETED, {"path": "/models/x"})
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.created_at


def test_equal_wishes_share_their_stages_and_both_complete(table: SimpleNamespace) -> None:
    first, second = table.jobs.add([a_conversion(), a_conversion()])
    fetch = claim(table)
    assert set(fetch.job_ids) == {first, second}
    assert table.stages.claim(Pool.DOWNLOAD, "w2") is None
    table.stages.settle(fetch, done())
    convert = claim(table, Pool.CONVERT)
    assert table.stages.claim(Pool.CONVERT, "w2") is None

    (late,) = table.jobs.add([a_conversion()])
    table.stages.settle(claim(table), done())  # the late one looks at the hub again, finds the same content ...
    assert table.stages.claim(Pool.CONVERT, "w2") is None, "... and joins the conversion that is running"
    table.stages.settle(convert, done("converted-1"))
    table.stages.settle(claim(table, Pool.CONVERT), done("converted-1"))
    assert {state(table, job) for job in (first, second, late)} == {JobState.COMPLETED}


def test_one_source_in_two_forms_is_fetched_once(table: SimpleNamespace) -> None:
    table.jobs.add([a_conversion(), a_download(), a_conversion(serving={"cache_size": 4})])
    fetch = claim(table)
    assert len(fetch.job_ids) == 3
    assert table.stages.settle(fetch, done()) == {Pool.DOWNLOAD, Pool.CONVERT}
    assert table.stages.claimable(Pool.CONVERT) == 1, "serving options do not ask for another conversion"
    table.stages.settle(claim(table, Pool.CONVERT), done("converted-1"))
    assert table.stages.claimable(Pool.CONVERT) == 2, "but for another publication"


def test_only_one_of_many_claimers_wins(table: SimpleNamespace) -> None:
    table.jobs.add([a_download(f"org/m{number}") for number in range(40)])
    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(lambda number: table.stages.claim(Pool.DOWNLOAD, f"w{number}"), range(60)))
    taken = [taken.stage_id for taken in claims if taken]
    assert len(taken) == len(set(taken)) == 40


def test_many_equal_posts_at_once_make_one_stage(table: SimpleNamespace) -> None:
    with ThreadPoolExecutor(8) as threads:
        added = [job for jobs in threads.map(lambda _: table.jobs.add([a_download()]), range(24)) for job in jobs]
    assert len(set(added)) == 24
    assert table.stages.claimable(Pool.DOWNLOAD) == 1
    assert len(claim(table).job_ids) == 24


def test_the_oldest_stage_is_claimed_first(table: SimpleNamespace) -> None:
    for number in range(3):
        table.jobs.add([a_download(f"org/m{number}")])
    names = [claim(table).work["source"]["name"] for _ in range(3)]
    assert names == ["org/m0", "org/m1", "org/m2"]


def test_a_worker_that_lost_its_lease_can_change_nothing(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    stale = claim(table, owner="slow")
    table.stages.reap_owners(["slow"])
    fresh = claim(table, owner="next")
    assert fresh.attempt == stale.attempt + 1
    assert not table.stages.heartbeat(stale, None).held
    assert table.stages.settle(stale, Failed(code="internal", detail="late", hint="")) is None
    assert table.stages.settle(stale, done("bad")) is None
    assert state(table, job) is JobState.DOWNLOADING
    table.stages.settle(fresh, done())
    assert claim(table).input == "source-1"


def test_an_expired_lease_is_taken_back_and_a_living_one_is_not(database: Database) -> None:
    jobs = JobStore(database)
    short = StageStore(database, lease_s=1.0, retry=NO_WAIT)
    jobs.add([a_download("org/a")])
    taken = short.claim(Pool.DOWNLOAD, "w1")
    assert taken
    assert short.reap() == []
    for _ in range(4):
        time.sleep(0.4)
        assert short.heartbeat(taken, None).held
        assert short.reap() == []
    time.sleep(1.2)
    assert short.reap() == [taken.stage_id]
    assert short.claimable(Pool.DOWNLOAD) == 1


def test_a_stage_that_kills_its_workers_fails_after_the_allowed_crashes(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    for number in range(3):
        owner = f"victim{number}"
        deadline = time.monotonic() + 20
        while (taken := table.stages.claim(Pool.DOWNLOAD, owner)) is None and time.monotonic() < deadline:
            time.sleep(0.2)  # crashes wait 0, 2 seconds
        assert taken
        table.stages.reap_owners([owner])
    ended = table.jobs.job(job)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "worker_lost")
    assert "3 times" in (ended.error or "")
    assert ended.hint


def test_transient_failures_are_tried_again_and_then_fail_with_their_own_code(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    trouble = Retry(code="hub_unavailable", detail="503 from hf_abcdefghijkl", hint="wait")
    for _ in range(2):
        assert table.stages.settle(claim(table), trouble) == {Pool.DOWNLOAD}
        assert state(table, job) is JobState.DOWNLOADING, "a job that has begun is not shown as untouched"
    table.stages.settle(claim(table), trouble)
    ended = table.jobs.job(job)
    assert (ended.state, ended.error_code, ended.hint) == (JobState.FAILED, "hub_unavailable", "wait")
    assert ended.error == "503 from ***"
    with table.database.read() as connection:
        notes = connection.execute(select(JobEventRow.event, JobEventRow.note)).all()
    assert [event for event, _ in notes].count("stage.retried") == 2
    assert not [note for _, note in notes if note and "hf_abc" in note]


def test_the_hubs_own_wish_to_wait_is_honoured(table: SimpleNamespace) -> None:
    table.jobs.add([a_download()])
    table.stages.settle(claim(table), Retry(code="rate_limited", detail="429", hint="", wait_s=0.6))
    assert table.stages.claim(Pool.DOWNLOAD, "w") is None
    time.sleep(0.7)
    assert table.stages.claim(Pool.DOWNLOAD, "w") is not None


def test_a_released_stage_is_not_charged_an_attempt(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    for _ in range(10):
        assert table.stages.settle(claim(table), Released()) == {Pool.DOWNLOAD}
    assert state(table, job) is JobState.DOWNLOADING


def test_case_39_a_job_cancelled_before_it_starts_never_completes(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    assert table.jobs.cancel(job).state is JobState.CANCELED
    assert table.stages.claim(Pool.DOWNLOAD, "w") is None
    with pytest.raises(JobEnded, match="already in terminal state 'canceled'"):
        table.jobs.cancel(job)


def test_a_running_job_is_cancelled_at_once_and_its_worker_learns_of_it(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    running = claim(table)
    assert table.jobs.cancel(job).state is JobState.CANCELED
    beat = table.stages.heartbeat(running, None)
    assert (beat.held, beat.cancel) == (True, True)

    (again,) = table.jobs.add([a_download()])
    assert table.stages.claimable(Pool.DOWNLOAD) == 1, "a new wish does not join a stage that is about to die"
    table.stages.settle(running, Cancelled())
    assert state(table, job) is JobState.CANCELED
    table.stages.settle(claim(table), done())
    table.stages.settle(claim(table), done())
    assert state(table, again) is JobState.COMPLETED


def test_success_of_a_cancelled_stage_starts_nothing(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_conversion()])
    running = claim(table)
    table.jobs.cancel(job)
    assert table.stages.settle(running, done()) == frozenset()
    assert table.stages.claimable(Pool.CONVERT) == 0
    assert state(table, job) is JobState.CANCELED


def test_cancelling_one_of_two_only_detaches_it(table: SimpleNamespace) -> None:
    first, second = table.jobs.add([a_download(), a_download()])
    running = claim(table)
    table.jobs.cancel(first)
    assert not table.stages.heartbeat(running, None).cancel
    table.stages.settle(running, done())
    table.stages.settle(claim(table), done())
    assert state(table, first) is JobState.CANCELED
    assert state(table, second) is JobState.COMPLETED


def test_what_is_being_published_cannot_be_cancelled(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    table.stages.settle(claim(table), done())
    publish = claim(table)
    with pytest.raises(NotCancellable, match="could not be cancelled"):
        table.jobs.cancel(job)
    table.stages.settle(publish, done())
    assert state(table, job) is JobState.COMPLETED


def test_progress_is_shown_and_the_fetched_bytes_stay(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    running = claim(table)
    seen = Progress(phase=Phase.DOWNLOADING, bytes_done=5, bytes_total=10, files_done=1, files_total=2, speed_bps=3.5)
    table.stages.heartbeat(running, seen)
    assert table.jobs.job(job).progress == seen
    table.stages.settle(running, done())
    assert table.jobs.job(job).progress is None
    assert table.jobs.job(job).fetched == seen


def test_all_jobs_of_a_request_are_stored_or_none(table: SimpleNamespace) -> None:
    broken = msgspec.structs.replace(a_download(), config={"no JSON": object()})
    with pytest.raises(TypeError):
        table.jobs.add([a_download("org/good"), broken])
    assert table.jobs.count() == 0


def test_jobs_are_listed_in_order_filtered_and_paged(table: SimpleNamespace) -> None:
    jobs = table.jobs.add([a_download(f"org/m{number % 2}", root=str(number)) for number in range(6)])
    table.jobs.cancel(jobs[0])
    assert [job.id for job in table.jobs.jobs()] == jobs
    assert [job.id for job in table.jobs.jobs(limit=2, offset=1)] == jobs[1:3]
    assert [job.id for job in table.jobs.jobs(state=JobState.CANCELED)] == [jobs[0]]
    assert len(table.jobs.jobs(model_name="org/m1")) == table.jobs.count(model_name="org/m1") == 3
    with pytest.raises(NoSuchJob, match="Job none not found"):
        table.jobs.job("none")


def test_workers_are_known_while_they_show_signs_of_life(table: SimpleNamespace) -> None:
    table.stages.announce("w1", Pool.DOWNLOAD, "host", 4, ready=False, draining=False)
    table.stages.announce("w1", Pool.DOWNLOAD, "host", 4, ready=True, draining=False)
    (worker,) = table.jobs.workers(seen_within_s=10)
    assert (worker.pool, worker.ready, worker.slots) == (Pool.DOWNLOAD, True, 4)
    time.sleep(0.3)
    assert table.jobs.workers(seen_within_s=0.1) == []
    table.stages.leave("w1")
    assert table.jobs.workers(seen_within_s=60) == []


def test_migrations_build_exactly_the_tables_of_the_code_and_can_be_undone(database_url: str) -> None:
    database = Database(database_url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
    command.downgrade(configuration(database_url), "base")
    with database.read() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    upgrade(database_url)
    JobStore(database).ping()
    database.dispose()


def test_migrating_from_several_processes_at_once_is_safe(database_url: str) -> None:
    command.downgrade(configuration(database_url), "base")
    environment = {**os.environ, "DATABASE_URL": database_url}
    run = [sys.executable, "-W", "ignore", "-m", "migrations.command"]
    migrations = [subprocess.Popen(run, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    for migration in migrations:
        _, said = migration.communicate(timeout=60)
        assert migration.returncode == 0, said.decode()
    database = Database(database_url)
    JobStore(database).ping()
    database.dispose()


def test_a_database_that_is_away_is_reported_as_such() -> None:
    away = JobStore(Database("postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(ServiceUnavailable):
        away.add([a_download()])
    with pytest.raises(ServiceUnavailable):
        away.ping()


def test_sqlite_keeps_what_it_has_accepted(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    upgrade(url)
    database = Database(url)
    JobStore(database).add([a_download()])
    with database.write() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    database.dispose()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
