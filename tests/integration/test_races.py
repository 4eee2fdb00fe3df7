"""What two transactions of one moment make of a table: on Postgres, because SQLite has one writer at a time."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select

from common.outcome import Cancelled, Succeeded
from common.records import Claim, LimitRecord
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.retention import Retention, forget
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import JobEventRow, JobRow, JobStageRow, StageRow
from common.vocabulary import JobState, LimitScope, Pool
from tests.builders import a_conversion, a_download
from tests.databases import postgres_url


@pytest.fixture
def table() -> Iterator[SimpleNamespace]:
    with postgres_url() as url:
        database = Database(url)
        yield SimpleNamespace(
            jobs=JobStore(database),
            stages=StageStore(database, lease_s=60, retry=RetryPolicy()),
            limits=LimitStore(database),
            database=database,
        )
        database.dispose()


def run(table: SimpleNamespace, pool: Pool = Pool.DOWNLOAD) -> None:
    """Carry out every stage of a pool that waits."""
    while (taken := table.stages.claim(pool, "w1")) is not None:
        table.stages.settle(taken, Succeeded(artefact=f"a-{taken.kind}"))


def rows(table: SimpleNamespace) -> dict[str, int]:
    kinds = (JobRow, StageRow, JobStageRow, JobEventRow)
    with table.database.read() as connection:
        return {
            kind.__tablename__: connection.execute(select(func.count()).select_from(kind)).scalar_one()
            for kind in kinds
        }


def give_it_time(work: Future[object]) -> None:
    """Let work that may have to wait for us come as far as it can."""
    wait([work], timeout=0.5)


NOTHING = {"jobs": 0, "stages": 0, "job_stages": 0, "job_events": 0}


def test_two_jobs_that_are_forgotten_at_one_moment_leave_nothing(table: SimpleNamespace) -> None:
    first, second = table.jobs.add([a_download("org/a", root="one"), a_download("org/a", root="two")])
    run(table)
    with ThreadPoolExecutor(1) as threads:
        with table.database.write() as connection:
            forget(connection, [first])
            other = threads.submit(table.jobs.delete, second)
            give_it_time(other)
        other.result(timeout=10)
    Retention(table.database, keep_days=1, keep_jobs=0).prune()
    assert rows(table) == NOTHING


def test_a_job_that_is_forgotten_while_its_stage_is_given_up_leaves_nothing(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    running = table.stages.claim(Pool.DOWNLOAD, "w1")
    table.jobs.cancel(job)
    with ThreadPoolExecutor(1) as threads:
        with table.database.write() as connection:
            forget(connection, [job])  # as retention does it
            other = threads.submit(table.stages.settle, running, Cancelled())
            give_it_time(other)
        assert other.result(timeout=10) == frozenset()
    assert rows(table) == NOTHING


def test_a_tenants_limit_holds_over_both_pools(table: SimpleNamespace) -> None:
    table.jobs.add([a_conversion("org/a")], tenant="a")
    run(table)  # its conversion waits
    table.jobs.add([a_download("org/b")], tenant="a")  # and so does a download
    table.limits.put(LimitRecord(scope=LimitScope.TENANT, name="a", max_running=1))
    with ThreadPoolExecutor(1) as threads:
        with table.database.write() as connection:
            assert table.stages._take(connection, Pool.CONVERT, "w1", None) is not None
            other = threads.submit(table.stages.claim, Pool.DOWNLOAD, "w2")
            give_it_time(other)
        assert other.result(timeout=10) is None
    assert len(table.stages.running()) == 1


def test_a_stage_takes_nobody_in_who_comes_while_it_ends(table: SimpleNamespace) -> None:
    (first,) = table.jobs.add([a_download()])
    running: Claim = table.stages.claim(Pool.DOWNLOAD, "w1")
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            late = threads.submit(table.jobs.add, [a_download()])
            ended = threads.submit(table.stages.settle, running, Succeeded(artefact="a"))
            ended.result(timeout=10)
            late.result(timeout=10)
            run(table)
            table.jobs.add([a_download()])
            running = table.stages.claim(Pool.DOWNLOAD, "w1")
    table.stages.settle(running, Succeeded(artefact="a"))
    run(table)
    assert table.jobs.job(first).state is JobState.COMPLETED
    assert {job.state for job in table.jobs.jobs()} == {JobState.COMPLETED}


def test_requests_that_name_the_same_models_in_another_order_are_all_accepted(table: SimpleNamespace) -> None:
    models = [a_download(f"org/m{number}") for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        orders = [models, models[::-1], models[4:] + models[:4], models[::2] + models[1::2]] * 4
        ids = list(threads.map(table.jobs.add, orders))
    assert len({job for some in ids for job in some}) == 16 * 8
    assert table.stages.claimable(Pool.DOWNLOAD) == 8
