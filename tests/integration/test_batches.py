"""Conversions of one source that may come along with each other: on SQLite and on Postgres alike."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import msgspec
import pytest

from common.outcome import Failed, Retry, Succeeded
from common.records import Claim, MemoryRoom
from common.spec import JobSpec
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, Operation, Pool, Precision
from tests.builders import a_conversion

ROOM = MemoryRoom(machine="here", budget_bytes=10**12, free_bytes=10**12)


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    retry = RetryPolicy(max_attempts=3, base_s=0.0, cap_s=0.0, jitter=lambda: 0.0)
    return SimpleNamespace(
        jobs=JobStore(database), stages=StageStore(database, lease_s=60, retry=retry), database=database
    )


def wanted(precision: Precision, name: str = "org/model", *, together: bool = True) -> JobSpec:
    return msgspec.structs.replace(a_conversion(name, precision=precision), together=together)


def fetched(table: SimpleNamespace, *specs: JobSpec) -> list[str]:
    """Jobs whose sources are there, so that their conversions wait."""
    ids: list[str] = table.jobs.add(list(specs))
    while (fetch := table.stages.claim(Pool.DOWNLOAD, "d")) is not None:
        source = fetch.work["source"]
        assert isinstance(source, dict)
        table.stages.settle(fetch, Succeeded(artefact=f"source-{source['name'].replace('/', '-')}", bytes=1000))
    return ids


def claim(table: SimpleNamespace, owner: str = "here/w1") -> Claim | None:
    taken: Claim | None = table.stages.claim(Pool.CONVERT, owner, ROOM)
    return taken


def precision_of(work: dict[str, object]) -> str:
    target = work["target"]
    assert isinstance(target, dict)
    return str(target["precision"])


def test_the_first_of_three_precisions_is_told_of_the_others(table: SimpleNamespace) -> None:
    fetched(table, *(wanted(one) for one in (Precision.INT8, Precision.INT4, Precision.FP16)))
    first = claim(table)
    assert first is not None
    told = {precision_of(work) for work in first.siblings}
    assert len(first.siblings) == 2
    assert told | {precision_of(first.work)} == {"int8", "int4", "fp16"}


def test_the_others_wait_while_it_runs_and_are_free_when_it_ends(table: SimpleNamespace) -> None:
    fetched(table, *(wanted(one) for one in (Precision.INT8, Precision.INT4)))
    first = claim(table)
    assert first is not None
    (other,) = first.siblings
    assert claim(table, "here/w2") is None
    assert table.stages.claimable(Pool.CONVERT) == 0
    assert table.stages.settle(first, Succeeded(artefact="made")) is not None
    second = claim(table, "here/w2")
    while second is not None and second.kind != "convert":
        second = claim(table, "here/w2")
    assert second is not None
    assert (second.work, second.siblings) == (other, ())


@pytest.mark.parametrize(
    "outcome",
    [Failed(code="conversion_failed", detail="no", hint="no"), Retry(code="transient", detail="later", hint="wait")],
    ids=["failed", "retried"],
)
def test_whatever_becomes_of_the_first_the_others_run(table: SimpleNamespace, outcome: Failed | Retry) -> None:
    jobs = fetched(table, *(wanted(one) for one in (Precision.INT8, Precision.INT4)))
    first = claim(table)
    assert first is not None
    table.stages.settle(first, outcome)
    mine = first.job_ids[0]
    while (next_one := claim(table)) is not None:
        table.stages.settle(next_one, Succeeded(artefact="made"))
    (other,) = set(jobs) - {mine}
    assert table.jobs.job(other).state is JobState.COMPLETED


def test_a_dead_worker_does_not_keep_the_others_waiting(table: SimpleNamespace) -> None:
    fetched(table, *(wanted(one) for one in (Precision.INT8, Precision.INT4)))
    assert claim(table) is not None
    assert table.stages.reap_owners(["here/w1"])
    assert claim(table, "here/w2") is not None


def test_other_sources_and_what_goes_alone_do_not_wait(table: SimpleNamespace) -> None:
    fetched(
        table,
        wanted(Precision.INT8),
        wanted(Precision.INT8, "org/other"),
        wanted(Precision.INT4, together=False),
        wanted(Precision.FP16, together=False),
    )
    taken = [claim(table, f"here/w{number}") for number in range(5)]
    assert sorted(precision_of(one.work) for one in taken if one) == ["fp16", "int4", "int8", "int8"]
    assert all(one.siblings == () for one in taken if one)


def test_what_nobody_wants_any_more_does_not_come_along(table: SimpleNamespace) -> None:
    jobs = fetched(table, *(wanted(one) for one in (Precision.INT8, Precision.INT4, Precision.FP16)))
    table.jobs.cancel(jobs[1])
    first = claim(table)
    assert first is not None
    told = [precision_of(work) for work in (first.work, *first.siblings)]
    assert sorted(told) == ["fp16", "int8"]


def test_of_many_workers_one_takes_each_source(table: SimpleNamespace) -> None:
    names = [f"org/model-{number}" for number in range(3)]
    every = (Precision.INT8, Precision.INT4, Precision.FP16)
    fetched(table, *(wanted(one, name) for name in names for one in every))
    together = threading.Barrier(9)

    def work(number: int) -> Claim | None:
        together.wait()
        return claim(table, f"here/w{number}")

    with ThreadPoolExecutor(9) as pool:
        taken = [one for one in pool.map(work, range(9)) if one]
    assert len(taken) == len(names)
    assert len({one.input for one in taken}) == len(names)
    assert all(len(one.siblings) == 2 for one in taken)


# Plans


def planned(name: str = "org/model") -> JobSpec:
    return msgspec.structs.replace(a_conversion(name), operation=Operation.PLAN)


def test_a_plan_is_one_stage_that_goes_before_every_fetch(table: SimpleNamespace) -> None:
    table.jobs.add([a_conversion("org/first")])
    (plan,) = table.jobs.add([planned()])
    taken = table.stages.claim(Pool.DOWNLOAD, "d")
    assert taken.kind == "plan"
    table.stages.settle(taken, Succeeded(artefact="source-x", result={"mode": "convert"}))
    record = table.jobs.job(plan)
    assert (record.state, record.result) == (JobState.COMPLETED, {"mode": "convert"})


def test_clients_see_no_plans_in_their_lists(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_conversion()])
    (plan,) = table.jobs.add([planned()])
    assert [record.id for record in table.jobs.jobs()] == [job]
    assert [record.id for record in table.jobs.page(limit=10).records] == [job]
    assert [record.id for record in table.jobs.page(limit=10, state=JobState.QUEUED).records] == [job]
    assert [record.id for record in table.jobs.jobs(model_name="org/model")] == [job]
    assert table.jobs.count() == 1
    assert table.jobs.job(plan).spec.operation is Operation.PLAN


def test_a_source_that_is_judged_first_is_fetched_after_that_and_shared_with_downloads(table: SimpleNamespace) -> None:
    judged = [msgspec.structs.replace(wanted(one), examined=True) for one in (Precision.INT8, Precision.INT4)]
    jobs = table.jobs.add([*judged, a_conversion()])
    for _ in range(2):
        plan = table.stages.claim(Pool.DOWNLOAD, "d")
        assert plan.kind == "plan"
        table.stages.settle(plan, Succeeded(artefact="source-x"))
    fetch = table.stages.claim(Pool.DOWNLOAD, "d")
    assert (fetch.kind, fetch.input, len(fetch.job_ids)) == ("fetch", None, 3)
    assert table.stages.claim(Pool.DOWNLOAD, "d") is None
    assert [table.jobs.job(job).state for job in jobs] == [JobState.DOWNLOADING] * 3


def test_a_plan_may_send_its_job_to_another_repository(table: SimpleNamespace) -> None:
    table.jobs.add([msgspec.structs.replace(a_conversion(), examined=True)])
    plan = table.stages.claim(Pool.DOWNLOAD, "d")
    table.stages.settle(plan, Succeeded(artefact="source-x", result={"pulled_from": "OpenVINO/model-int8-ov"}))
    fetch = table.stages.claim(Pool.DOWNLOAD, "d")
    assert fetch.work["source"] == {"hub": "huggingface", "name": "OpenVINO/model-int8-ov", "revision": None}
    assert fetch.work["options"] == {"require_ir": True}


def test_a_plan_that_refuses_ends_its_job_before_anything_is_fetched(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([msgspec.structs.replace(a_conversion(), examined=True)])
    plan = table.stages.claim(Pool.DOWNLOAD, "d")
    table.stages.settle(plan, Failed(code="unsupported_architecture", detail="no", hint="no"))
    assert table.jobs.job(job).error_code == "unsupported_architecture"
    assert table.stages.claim(Pool.DOWNLOAD, "d") is None
