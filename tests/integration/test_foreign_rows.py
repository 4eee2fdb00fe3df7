"""Rows that a newer release has written: this one shows what it can, runs what it understands, and fails nothing."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from common.outcome import Succeeded
from common.spec import JobSpec
from common.store.database import Database
from common.store.foreign import Foreign, stored
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, Pool
from tests.builders import a_conversion, a_download


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    """The table, and an older release, which is this one, at work on it."""
    retry = RetryPolicy(base_s=0.0, cap_s=0.0)
    return SimpleNamespace(
        database=database, jobs=JobStore(database), stages=StageStore(database, lease_s=60, retry=retry)
    )


def rewrite(table: SimpleNamespace, which: str, column: str, where: str, change: dict[str, Any]) -> None:
    """What a newer release would have written."""
    with table.database.write() as connection:
        raw = connection.execute(text(f"SELECT {column} FROM {which} WHERE id = :id"), {"id": where}).scalar_one()
        known = raw if isinstance(raw, dict) else json.loads(raw)
        connection.execute(
            text(f"UPDATE {which} SET {column} = :new WHERE id = :id"),
            {"new": json.dumps({**known, **change}), "id": where},
        )


def stage_of(table: SimpleNamespace, job_id: str) -> Any:
    with table.database.read() as connection:
        return connection.execute(
            text("SELECT s.* FROM stages s JOIN jobs j ON j.stage_id = s.id WHERE j.id = :id"), {"id": job_id}
        ).one()


def test_a_spec_is_stored_without_its_defaults_and_is_read_the_same() -> None:
    for spec in (a_download(), a_conversion()):
        raw = stored(spec)
        assert not {"memory", "question", "finisher", "parted"} & set(raw)
        assert msgspec.convert(raw, JobSpec) == spec


def test_a_job_with_a_field_of_the_future_is_shown_and_left_alone(table: SimpleNamespace) -> None:
    theirs, ours = table.jobs.add([a_download("org/theirs"), a_download("org/ours")])
    rewrite(table, "jobs", "spec", theirs, {"sparsity": "2:4"})
    assert table.jobs.job(theirs).spec.source.name == "org/theirs"
    assert [job.id for job in table.jobs.jobs()] == [theirs, ours]
    claim = table.stages.claim(Pool.DOWNLOAD, "w1")
    assert claim is not None
    assert claim.job_ids == (ours,), "what comes after it is not held up"
    assert table.stages.claim(Pool.DOWNLOAD, "w1", brief=True) is None
    left = stage_of(table, theirs)
    assert (left.state, left.attempt, left.failures, left.crashes) == ("queued", 0, 0, 0)
    # A newer release, to which the field is known, does it.
    rewrite(table, "jobs", "spec", theirs, {})
    with table.database.write() as connection:
        connection.execute(
            text("UPDATE jobs SET spec = :spec WHERE id = :id"),
            {"spec": json.dumps(stored(a_download("org/theirs"))), "id": theirs},
        )
    newer = StageStore(table.database, lease_s=60, retry=RetryPolicy())
    assert newer.claim(Pool.DOWNLOAD, "new").job_ids == (theirs,)


def test_a_kind_and_a_work_of_the_future_are_left_alone(table: SimpleNamespace) -> None:
    kind, work, ours = table.jobs.add([a_download(f"org/{name}") for name in ("kind", "work", "ours")])
    with table.database.write() as connection:
        connection.execute(text("UPDATE stages SET kind = 'prune' WHERE id = :id"), {"id": stage_of(table, kind).id})
    rewrite(table, "stages", "work", stage_of(table, work).id, {"mirror": "near"})
    assert table.stages.claimable(Pool.DOWNLOAD) == 2, "no ticket for what nobody here can run"
    assert table.stages.claim(Pool.DOWNLOAD, "w1").job_ids == (ours,)
    assert table.stages.claim(Pool.DOWNLOAD, "w1") is None
    assert table.jobs.job(kind).stage is None
    assert {table.jobs.job(job).state for job in (kind, work)} == {JobState.QUEUED}


def test_a_job_that_joins_running_work_is_brought_on_by_those_who_understand_it(table: SimpleNamespace) -> None:
    (ours,) = table.jobs.add([a_conversion()])
    running = table.stages.claim(Pool.DOWNLOAD, "w1")
    (theirs,) = table.jobs.add([a_conversion()])
    rewrite(table, "jobs", "spec", theirs, {"sparsity": "2:4"})
    assert table.stages.settle(running, Succeeded(artefact="source-1", bytes=10)) is not None
    assert stage_of(table, ours).kind == "convert"
    again = stage_of(table, theirs)
    assert (again.kind, again.state, again.id != running.stage_id) == ("fetch", "queued", True)
    assert table.stages.claim(Pool.DOWNLOAD, "w1") is None, "this release leaves it alone from now on"
    assert table.jobs.job(theirs).state is JobState.CONVERTING or table.jobs.job(theirs).state is JobState.DOWNLOADING
    # Now everything is of the newer release.
    with table.database.write() as connection:
        connection.execute(
            text("UPDATE jobs SET spec = :spec WHERE id = :id"),
            {"spec": json.dumps(stored(a_conversion())), "id": theirs},
        )
    newer = StageStore(table.database, lease_s=60, retry=RetryPolicy())
    claim = newer.claim(Pool.DOWNLOAD, "new")
    assert claim.job_ids == (theirs,)
    newer.settle(claim, Succeeded(artefact="source-1", bytes=10))
    assert stage_of(table, theirs).id == stage_of(table, ours).id, "and it shares what follows"


def test_what_cannot_even_be_shown_is_in_no_list_and_fails_nothing(table: SimpleNamespace) -> None:
    theirs, ours = table.jobs.add([a_download("org/theirs"), a_download("org/ours")])
    rewrite(table, "jobs", "spec", theirs, {"operation": "distil"})
    assert [job.id for job in table.jobs.jobs()] == [ours]
    assert [job.id for job in table.jobs.page(limit=10).records] == [ours]
    with pytest.raises(Foreign):
        table.jobs.job(theirs)


def test_progress_of_the_future_is_shown_as_far_as_it_is_known(table: SimpleNamespace) -> None:
    (job,) = table.jobs.add([a_download()])
    stage = table.stages.claim(Pool.DOWNLOAD, "w1").stage_id
    with table.database.write() as connection:
        shown = {"phase": "downloading", "bytes_done": 7, "peers": 3}
        connection.execute(
            text("UPDATE stages SET progress = :p WHERE id = :id"), {"p": json.dumps(shown), "id": stage}
        )
    assert table.jobs.job(job).progress.bytes_done == 7
    with table.database.write() as connection:
        connection.execute(
            text("UPDATE stages SET progress = :p WHERE id = :id"),
            {"p": json.dumps({"phase": "dreaming"}), "id": stage},
        )
    assert table.jobs.job(job).progress is None
