"""A request that is sent twice is carried out once, on SQLite and on Postgres alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import msgspec
import pytest
from sqlalchemy import func, select, update

from common.errors import KeyInFlight, KeyReused
from common.records import KeyReservation
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.keys import REMEMBERED_S
from common.store.retention import Retention
from common.store.tables import IdempotencyKeyRow, JobEventRow, JobRow, JobStageRow, StageRow
from tests.builders import a_download

BODY = "0" * 64
OTHER_BODY = "1" * 64


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    return SimpleNamespace(jobs=JobStore(database), database=database)


def reserve(table: SimpleNamespace, *, tenant: str = "a", key: str = "k", body: str = BODY) -> KeyReservation:
    reserved = table.jobs.reserve(tenant, key, body)
    assert isinstance(reserved, KeyReservation), "the key has been answered before"
    return reserved


def age(table: SimpleNamespace, seconds: float) -> None:
    """Make every key older than it is."""
    with table.database.write() as connection:
        older = update(IdempotencyKeyRow).values(created_at=IdempotencyKeyRow.created_at - seconds)
        connection.execute(older)


def rows(table: SimpleNamespace) -> dict[str, int]:
    kinds = (JobRow, StageRow, JobStageRow, JobEventRow)
    with table.database.read() as connection:
        return {
            kind.__tablename__: connection.execute(select(func.count()).select_from(kind)).scalar_one()
            for kind in kinds
        }


def keys(table: SimpleNamespace) -> set[tuple[str, str]]:
    with table.database.read() as connection:
        return {(row.tenant, row.key) for row in connection.execute(select(IdempotencyKeyRow))}


def test_a_repeated_request_gets_the_jobs_of_the_first(table: SimpleNamespace) -> None:
    jobs = table.jobs.add([a_download("org/a"), a_download("org/b")], tenant="a", key=reserve(table))
    for _ in range(3):
        assert table.jobs.reserve("a", "k", BODY) == jobs
    assert table.jobs.count() == 2


def test_a_request_without_jobs_is_replayed_too(table: SimpleNamespace) -> None:
    assert table.jobs.add([], tenant="a", key=reserve(table)) == []
    assert table.jobs.reserve("a", "k", BODY) == []


def test_a_replay_outlives_the_jobs_themselves(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()], tenant="a", key=reserve(table))
    table.jobs.cancel(job)
    table.jobs.delete(job)
    assert table.jobs.reserve("a", "k", BODY) == [job]


def test_a_retry_is_replayed_like_any_other_request(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    table.jobs.cancel(job)
    again = table.jobs.retry(job, tenant="a", key=reserve(table))
    assert table.jobs.reserve("a", "k", BODY) == [again]
    assert table.jobs.count() == 2


def test_a_repetition_waits_while_the_first_request_is_being_answered(table: SimpleNamespace) -> None:
    first = reserve(table)
    with pytest.raises(KeyInFlight, match="still being answered"):
        table.jobs.reserve("a", "k", BODY)
    age(table, 25)
    with pytest.raises(KeyInFlight):
        table.jobs.reserve("a", "k", BODY)
    jobs = table.jobs.add([a_download()], tenant="a", key=first)
    assert table.jobs.reserve("a", "k", BODY) == jobs


def test_a_key_belongs_to_one_request_only(table: SimpleNamespace) -> None:
    first = reserve(table)
    with pytest.raises(KeyReused, match="another request"):
        table.jobs.reserve("a", "k", OTHER_BODY)
    table.jobs.add([a_download()], tenant="a", key=first)
    with pytest.raises(KeyReused):
        table.jobs.reserve("a", "k", OTHER_BODY)
    assert table.jobs.count() == 1


def test_the_key_of_a_refused_request_can_be_used_again(table: SimpleNamespace) -> None:
    table.jobs.abandon(reserve(table))
    assert keys(table) == set()
    jobs = table.jobs.add([a_download()], tenant="a", key=reserve(table, body=OTHER_BODY))
    assert table.jobs.reserve("a", "k", OTHER_BODY) == jobs


def test_what_was_answered_cannot_be_abandoned(table: SimpleNamespace) -> None:
    first = reserve(table)
    jobs = table.jobs.add([a_download()], tenant="a", key=first)
    table.jobs.abandon(first)
    assert table.jobs.reserve("a", "k", BODY) == jobs


def test_a_request_that_was_lost_with_its_process_is_taken_over(table: SimpleNamespace) -> None:
    lost = reserve(table)
    age(table, 31)
    second = reserve(table)
    assert second.token != lost.token
    with pytest.raises(KeyInFlight):
        table.jobs.reserve("a", "k", BODY)
    jobs = table.jobs.add([a_download()], tenant="a", key=second)
    assert table.jobs.reserve("a", "k", BODY) == jobs


def test_a_lost_request_holds_its_key_for_no_other_one(table: SimpleNamespace) -> None:
    reserve(table)
    age(table, 31)
    jobs = table.jobs.add([a_download()], tenant="a", key=reserve(table, body=OTHER_BODY))
    assert table.jobs.reserve("a", "k", OTHER_BODY) == jobs
    with pytest.raises(KeyReused):
        table.jobs.reserve("a", "k", BODY)


def test_a_reservation_from_the_future_is_taken_over(table: SimpleNamespace) -> None:
    lost = reserve(table)
    age(table, -3600)  # the database's clock was put back since
    assert reserve(table).token != lost.token


@pytest.mark.parametrize("answered", [False, True], ids=["before the second is answered", "after it"])
def test_a_request_that_was_overtaken_stores_nothing(table: SimpleNamespace, answered: bool) -> None:
    slow = reserve(table)
    age(table, 31)
    quick = reserve(table)
    jobs = table.jobs.add([a_download("org/a")], tenant="a", key=quick) if answered else []
    before = rows(table)
    with pytest.raises(KeyInFlight, match="overtaken"):
        table.jobs.add([a_download("org/a"), a_download("org/b")], tenant="a", key=slow)
    table.jobs.abandon(slow)
    assert rows(table) == before
    if not answered:
        jobs = table.jobs.add([a_download("org/a")], tenant="a", key=quick)
    assert table.jobs.reserve("a", "k", BODY) == jobs
    assert table.jobs.count() == 1


def test_a_retry_that_was_overtaken_stores_nothing(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    table.jobs.cancel(job)
    slow = reserve(table)
    age(table, 31)
    reserve(table)
    before = rows(table)
    with pytest.raises(KeyInFlight):
        table.jobs.retry(job, key=slow)
    assert rows(table) == before


def test_jobs_that_cannot_be_stored_leave_their_key_unanswered(table: SimpleNamespace) -> None:
    first = reserve(table)
    broken = msgspec.structs.replace(a_download(), config={"no JSON": object()})
    with pytest.raises(TypeError):
        table.jobs.add([a_download("org/good"), broken], tenant="a", key=first)
    assert table.jobs.count() == 0
    with pytest.raises(KeyInFlight):
        table.jobs.reserve("a", "k", BODY)
    jobs = table.jobs.add([a_download()], tenant="a", key=first)
    assert table.jobs.reserve("a", "k", BODY) == jobs


def test_sixteen_equal_requests_at_once_make_one_set_of_jobs(table: SimpleNamespace) -> None:
    specs = [a_download(f"org/m{number}") for number in range(3)]

    def post(_: int) -> list[str] | None:
        try:
            reserved = table.jobs.reserve("a", "k", BODY)
        except KeyInFlight:
            return None
        return reserved if isinstance(reserved, list) else table.jobs.add(specs, tenant="a", key=reserved)

    assert_one_set(table, post, jobs=3)


def test_sixteen_requests_that_take_over_one_key_at_once_make_one_set_of_jobs(table: SimpleNamespace) -> None:
    lost = reserve(table)
    age(table, 31)

    def post(number: int) -> list[str] | None:
        try:
            reserved = lost if number == 0 else table.jobs.reserve("a", "k", BODY)
            return reserved if isinstance(reserved, list) else table.jobs.add([a_download()], tenant="a", key=reserved)
        except KeyInFlight:
            return None

    assert_one_set(table, post, jobs=1)


def assert_one_set(table: SimpleNamespace, post: Callable[[int], list[str] | None], *, jobs: int) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = [answer for answer in threads.map(post, range(16)) if answer is not None]
    assert answers, "somebody must be first"
    assert len(set(map(tuple, answers))) == 1
    assert table.jobs.reserve("a", "k", BODY) == answers[0]
    assert len(answers[0]) == table.jobs.count() == rows(table)["jobs"] == jobs


def test_the_keys_of_two_tenants_do_not_meet(table: SimpleNamespace) -> None:
    ours = table.jobs.add([a_download()], tenant="a", key=reserve(table, tenant="a"))
    theirs = table.jobs.add([a_download()], tenant="b", key=reserve(table, tenant="b", body=OTHER_BODY))
    assert ours != theirs
    assert table.jobs.reserve("a", "k", BODY) == ours
    assert table.jobs.reserve("b", "k", OTHER_BODY) == theirs


def test_a_key_can_be_used_for_something_else_after_a_day(table: SimpleNamespace) -> None:
    table.jobs.add([a_download()], tenant="a", key=reserve(table))
    age(table, REMEMBERED_S - 60)
    assert table.jobs.reserve("a", "k", BODY)
    age(table, 120)
    again = table.jobs.add([a_download("org/b")], tenant="a", key=reserve(table, body=OTHER_BODY))
    assert table.jobs.reserve("a", "k", OTHER_BODY) == again
    assert table.jobs.count() == 2


def test_old_keys_are_forgotten_and_young_ones_are_not(table: SimpleNamespace) -> None:
    forgetting = Retention(table.database, keep_days=0, keep_jobs=0)
    table.jobs.add([a_download()], tenant="a", key=reserve(table, key="answered"))
    reserve(table, key="lost")
    age(table, REMEMBERED_S - 60)
    reserve(table, key="young")
    forgetting.prune()
    assert {key for _, key in keys(table)} == {"answered", "lost", "young"}
    age(table, 120)
    forgetting.prune()
    assert {key for _, key in keys(table)} == {"young"}
    assert table.jobs.count() == 1, "the jobs stay"
