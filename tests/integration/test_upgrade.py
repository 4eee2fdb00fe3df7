"""A table that an earlier version wrote is brought up to date, and its jobs run to completion."""

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text

from common.outcome import Succeeded
from common.records import LimitRecord
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, LimitScope, Pool
from migrations.command import configuration, upgrade
from tests.builders import a_download

SOURCE = {"hub": "huggingface", "name": "org/model", "revision": None}
DESTINATION = {"root": "", "folder": "huggingface/org_model"}
SPEC = {
    "hub": "huggingface", "operation": "download", "source": SOURCE, "model_type": None, "target": None,
    "converter": None, "destination": DESTINATION, "hub_options": {}, "converter_options": {}, "serving_options": {},
    "config": {"precision": "int8"},
}  # fmt: skip
FETCH = {"hub": "huggingface", "source": SOURCE, "options": {}}
PUBLISH = {
    "hub": "huggingface", "source": SOURCE, "destination": DESTINATION, "converter": None, "target": None,
    "serving": {},
}  # fmt: skip
# As the first version named the fetch of this source.
FETCH_KEY = "fetch-f68aed2ed47d895bdc6a6a10cd6ec5a66e173538"


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """A database as the first version left it."""
    command.downgrade(configuration(database_url), "base")
    command.upgrade(configuration(database_url), "0001")
    database = Database(database_url)
    yield database
    database.dispose()


def put(connection: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    encoded = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), encoded)


def put_stage(connection: Connection, name: str, **values: Any) -> None:
    at = time.time() - 3600
    stage = {
        "id": name, "kind": "fetch", "pool": "download", "work_key": FETCH_KEY, "work": FETCH, "input": None,
        "state": "queued", "attempt": 0, "failures": 0, "crashes": 0, "not_before": at, "created_at": at,
    }  # fmt: skip
    put(connection, "stages", **(stage | values))


def put_job(connection: Connection, name: str, stage: str, *, position: int = 0, state: str = "queued") -> None:
    put(
        connection, "jobs", id=name, model_name="org/model", spec=SPEC, state=state, stage_id=stage,
        position=position, created_at=time.time() - 3600, result={},
    )  # fmt: skip
    put(connection, "job_events", job_id=name, at=time.time() - 3600, event="job.submitted")


def put_chain(connection: Connection, job: str, fetch: str, publish: str | None) -> None:
    for position, (kind, work, stage) in enumerate((("fetch", FETCH, fetch), ("publish", PUBLISH, publish))):
        put(
            connection, "job_stages", job_id=job, position=position, kind=kind, pool="download", work=work,
            stage_id=stage,
        )  # fmt: skip


def opened(url: str) -> SimpleNamespace:
    database = Database(url)
    retry = RetryPolicy(base_s=0.0, cap_s=0.0)
    return SimpleNamespace(
        jobs=JobStore(database),
        stages=StageStore(database, lease_s=60, retry=retry),
        limits=LimitStore(database),
        database=database,
    )


def run(table: SimpleNamespace) -> list[str]:
    """Carry out what waits. Returns the kinds of stages."""
    kinds = []
    while (taken := table.stages.claim(Pool.DOWNLOAD, "w1")) is not None:
        kinds.append(str(taken.kind))
        table.stages.settle(taken, Succeeded(artefact="source-1", result={"path": "/models/x"}))
    return kinds


def test_a_job_that_waits_runs_to_completion_after_the_upgrade(old: Database, database_url: str) -> None:
    with old.write() as connection:
        put_stage(connection, "f1")
        put_job(connection, "j1", "f1")
        put_chain(connection, "j1", "f1", None)
    upgrade(database_url)
    table = opened(database_url)
    waiting = table.jobs.job("j1")
    assert (waiting.state, waiting.tenant, waiting.retry_of) == (JobState.QUEUED, "", None)
    assert (waiting.spec.priority, waiting.spec.config) == ("normal", {"precision": "int8"})
    assert waiting.retry_at is None, "it has never been tried"
    (joined,) = table.jobs.add([a_download()])
    assert table.stages.claimable(Pool.DOWNLOAD) == 1, "a new wish joins the old work"
    assert run(table) == ["fetch", "publish"]
    for job in ("j1", joined):
        ended = table.jobs.job(job)
        assert (ended.state, ended.result) == (JobState.COMPLETED, {"path": "/models/x"})
    assert [attempt.stage for attempt in table.jobs.attempts("j1")] == ["fetch", "publish"]
    table.jobs.delete("j1")
    table.jobs.delete(joined)
    with table.database.read() as connection:
        for name in ("jobs", "stages", "job_stages", "job_events"):
            assert connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() == 0
    table.database.dispose()


def test_a_job_whose_worker_went_away_for_the_upgrade_runs_to_completion(old: Database, database_url: str) -> None:
    with old.write() as connection:
        running = {"state": "running", "attempt": 2, "failures": 1, "started_at": time.time() - 1800}
        put_stage(connection, "f1", lease_owner="old", lease_until=time.time() - 60, **running)
        put_job(connection, "j1", "f1", state="downloading")
        put_chain(connection, "j1", "f1", None)
    upgrade(database_url)
    table = opened(database_url)
    table.limits.put(LimitRecord(scope=LimitScope.HUB, name="huggingface", max_running=1))
    assert [(hub.name, hub.running) for hub in table.limits.hubs()] == [("huggingface", 1)]
    assert table.stages.reap() == ["f1"]
    taken = table.stages.claim(Pool.DOWNLOAD, "new")
    assert (taken.stage_id, taken.attempt, taken.hub) == ("f1", 3, "huggingface")
    table.stages.settle(taken, Succeeded(artefact="source-1"))
    assert run(table) == ["publish"]
    assert table.jobs.job("j1").state is JobState.COMPLETED
    table.database.dispose()


def test_a_job_between_its_stages_runs_to_completion_after_the_upgrade(old: Database, database_url: str) -> None:
    with old.write() as connection:
        put_stage(connection, "f1", state="succeeded", attempt=1, artefact="source-1", ended_at=time.time() - 60)
        put_stage(connection, "p1", kind="publish", work_key="publish-x", work=PUBLISH, input="source-1")
        put_job(connection, "j1", "p1", position=1, state="downloading")
        put_chain(connection, "j1", "f1", "p1")
    upgrade(database_url)
    table = opened(database_url)
    taken = table.stages.claim(Pool.DOWNLOAD, "w1")
    assert (taken.kind, taken.input, taken.hub) == ("publish", "source-1", "")
    table.stages.settle(taken, Succeeded(artefact="source-1"))
    assert table.jobs.job("j1").state is JobState.COMPLETED
    table.database.dispose()


def test_what_waited_before_the_upgrade_is_not_passed_by_what_comes_after(old: Database, database_url: str) -> None:
    with old.write() as connection:
        for number in range(3):
            put_stage(connection, f"f{number}", work_key=f"fetch-{number}")
            put_job(connection, f"j{number}", f"f{number}")
            put_chain(connection, f"j{number}", f"f{number}", None)
    upgrade(database_url)
    table = opened(database_url)
    table.jobs.add([a_download(f"org/new{number}") for number in range(3)])
    order = [table.stages.claim(Pool.DOWNLOAD, "w1").stage_id for _ in range(4)]
    assert set(order[:3]) == {"f0", "f1", "f2"}
    table.database.dispose()


def test_a_table_with_jobs_can_be_brought_back_to_the_first_version(old: Database, database_url: str) -> None:
    with old.write() as connection:
        put_stage(connection, "f1")
        put_job(connection, "j1", "f1")
        put_chain(connection, "j1", "f1", None)
    upgrade(database_url)
    command.downgrade(configuration(database_url), "0001")
    upgrade(database_url)
    table = opened(database_url)
    assert run(table) == ["fetch", "publish"]
    assert table.jobs.job("j1").state is JobState.COMPLETED
    table.database.dispose()
