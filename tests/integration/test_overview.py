"""The service at a glance: over HTTP, and from the table on SQLite and on Postgres alike."""

from datetime import datetime
from types import SimpleNamespace

import pytest
from msgspec import structs
from sqlalchemy import update

from common.outcome import Failed, Succeeded
from common.settings import SettingsError, read_settings
from common.spec import Progress
from common.store.database import Database, Now
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.overview import HOURS, OverviewStore
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import JobRow, StageRow
from common.vocabulary import JobState, Operation, Phase, Pool
from migrations.command import upgrade
from tests.builders import a_download
from tests.web import OWNER, Web, web

A_MODEL = {"name": "org/model", "hub": "huggingface"}
REFUSED = Failed(code="source_not_found", detail="There is no such model.", hint="Check its name.")


@pytest.fixture
def table(database: Database) -> SimpleNamespace:
    upgrade(str(database.url.render_as_string(hide_password=False)))
    return SimpleNamespace(
        database=database,
        jobs=JobStore(database),
        stages=StageStore(database, lease_s=60, retry=RetryPolicy(max_attempts=1)),
        overview=OverviewStore(database),
    )


def fetched(table: SimpleNamespace, name: str, **progress: int) -> str:
    (job_id,) = table.jobs.add([a_download(name)])
    for told in (Progress(phase=Phase.DOWNLOADING, **progress), None):
        claim = table.stages.claim(Pool.DOWNLOAD, OWNER)
        table.stages.heartbeat(claim, told)
        table.stages.settle(claim, Succeeded(artefact=f"of-{name}"))
    return str(job_id)


def failed(table: SimpleNamespace, name: str) -> str:
    (job_id,) = table.jobs.add([a_download(name)])
    table.stages.settle(table.stages.claim(Pool.DOWNLOAD, OWNER), REFUSED)
    return str(job_id)


def test_bytes_count_in_the_hour_in_which_they_came_and_only_once(table: SimpleNamespace) -> None:
    ids = [*table.jobs.add([a_download("a"), a_download("a")])]
    fetched(table, "a", bytes_done=900, bytes_total=1000, bytes_resumed=200)
    failed(table, "b")
    *before, last = table.overview.hours()
    assert len(before) == HOURS - 1
    assert all((hour.bytes_fetched, hour.completed, hour.failed) == (0, 0, 0) for hour in before)
    # The last heartbeat of a fetch that succeeds comes before its last bytes; three jobs shared this one.
    assert (last.bytes_fetched, last.completed, last.failed) == (800, len(ids) + 1, 1)
    assert last.begins_at.minute == last.begins_at.second == 0


def test_what_was_hours_ago_stands_in_its_hour_and_what_was_days_ago_in_none(table: SimpleNamespace) -> None:
    moved = {fetched(table, "a", bytes_done=5 * 10**9, bytes_total=5 * 10**9): 5, fetched(table, "b", bytes_done=7): 50}
    with table.database.write() as connection:
        for job_id, hours in moved.items():
            past = Now() - 3600.0 * hours
            connection.execute(update(JobRow).where(JobRow.id == job_id).values(ended_at=past))
            artefact = "of-a" if hours == 5 else "of-b"
            connection.execute(update(StageRow).where(StageRow.artefact == artefact).values(ended_at=past))
    hours = table.overview.hours()
    assert [place for place, hour in enumerate(hours) if hour.bytes_fetched or hour.completed] == [HOURS - 6]
    assert hours[HOURS - 6].bytes_fetched == 5 * 10**9


def test_failures_are_the_newest_that_nobody_has_tried_again(table: SimpleNamespace) -> None:
    ids = [failed(table, f"model-{number}") for number in range(7)]
    table.jobs.retry(ids[6])
    fetched(table, "fine", bytes_done=1)
    with table.database.write() as connection:
        connection.execute(update(JobRow).where(JobRow.id == ids[5]).values(ended_at=Now() - 25 * 3600.0))
    assert table.overview.failures() == ids[4::-1]


def test_counts_leave_out_what_is_hidden(table: SimpleNamespace) -> None:
    fetched(table, "a", bytes_done=1)
    failed(table, "b")
    table.jobs.add([a_download("c"), structs.replace(a_download("d"), operation=Operation.PLAN)])
    counts = table.jobs.counts()
    assert counts == dict.fromkeys(JobState, 0) | {
        JobState.COMPLETED: 1, JobState.FAILED: 1, JobState.QUEUED: 1
    }  # fmt: skip


def test_the_overview_tells_everything_at_once(service: Web) -> None:
    service.stages.announce(OWNER, Pool.DOWNLOAD, "a-host", 4, ready=True, draining=False)
    service.submitted(A_MODEL)
    service.settle(REFUSED)
    service.submitted({**A_MODEL, "name": "org/other"})
    database = Database(service.stages._database.url.render_as_string(hide_password=False))
    LimitStore(database).close_hub("ollama", 60.0, "It answered 429.")
    database.dispose()
    seen = service.get("/api/v1/overview").json()
    assert {state: count for state, count in seen["jobs"].items() if count} == {"failed": 1, "queued": 1}
    assert [(job["model_name"], job["error_code"], job["hint"]) for job in seen["failures"]] == [
        ("org/model", "source_not_found", "Check its name.")
    ]
    assert seen["queues"] == {"download": 1, "convert": 0}
    assert [(worker["id"], worker["state"], worker["slots"]) for worker in seen["workers"]] == [(OWNER, "ready", 4)]
    assert [(hub["name"], hub["reason"]) for hub in seen["hubs"]] == [("ollama", "It answered 429.")]
    assert 0 < seen["volume"]["free_bytes"] <= seen["volume"]["total_bytes"]
    assert (seen["volume"]["models"], seen["volume"]["models_bytes"]) == (0, 0)
    begins = [datetime.fromisoformat(hour["begins_at"]) for hour in seen["hours"]]
    assert len(begins) == HOURS
    assert begins == sorted(begins)


def test_the_volume_counts_models_with_their_sizes(tmp_path) -> None:
    stranger = tmp_path / "models" / "mine"
    stranger.mkdir(parents=True)
    (stranger / "weights.gguf").write_bytes(b"0" * 1000)
    with web(tmp_path) as running:
        volume = running.get("/overview").json()["volume"]
    assert (volume["models"], volume["models_bytes"]) == (1, 1000)


def test_workers_are_told_with_their_state_and_where_flower_is(tmp_path) -> None:
    with web(tmp_path, flower_url="https://flower.example/tasks") as running:
        assert running.get("/workers").json() == {"workers": [], "flower_url": "https://flower.example/tasks"}
        running.stages.announce("w1", Pool.DOWNLOAD, "a-host", 4, ready=True, draining=False)
        running.stages.announce("w2", Pool.CONVERT, "a-host", 1, ready=False, draining=False)
        running.stages.announce("w3", Pool.CONVERT, "a-host", 1, ready=True, draining=True)
        told = running.get("/workers").json()["workers"]
    assert [(worker["id"], worker["pool"], worker["state"]) for worker in told] == [
        ("w1", "download", "ready"), ("w2", "convert", "starting"), ("w3", "convert", "draining")
    ]  # fmt: skip


def test_nothing_is_told_of_flower_where_nobody_has_said_where_it_is(quick: Web) -> None:
    assert quick.get("/workers").json() == {"workers": []}


@pytest.mark.parametrize("address", ["javascript:alert(1)", "flower:5555", "ftp://flower", "https://", "http://a b"])
def test_flower_is_reached_over_http_only(address: str) -> None:
    with pytest.raises(SettingsError, match="MODELFERRY_FLOWER_URL"):
        read_settings({"MODELFERRY_FLOWER_URL": address})
