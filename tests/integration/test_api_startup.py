"""The gates that are asked for at a start: in the background, each model by itself, and again at every start."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.outcome import Failed
from common.planning import secret_of
from common.store.database import Database
from common.store.jobs import JobStore
from common.vocabulary import JobState
from migrations.command import upgrade
from tests.builders import a_download
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.shelving import bring
from tests.web import NOBODY, Web, web

A_MODEL: dict[str, Any] = {"name": "org/a", "hub": "huggingface"}
ANOTHER: dict[str, Any] = {"name": "org/b", "hub": "huggingface"}
UNUSABLE = "startup_models_config_unusable"
SCHEDULED = "startup_model_scheduled"
REFUSED = "startup_model_submission_failed"


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="api.startup")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    """A service whose file names two models."""
    with web(tmp_path, startup_models_config=a_file(tmp_path, A_MODEL, ANOTHER)) as running:
        await_jobs(running, 2)
        yield running


def a_file(folder: Path, *models: dict[str, Any], name: str = "startup.yaml", **more: Any) -> str:
    file = folder / name
    file.write_text(json.dumps({"download_path": "models", "models": list(models), **more}))
    return str(file)


def until(fulfilled: Callable[[], Any], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not fulfilled():
        assert time.monotonic() < end
        time.sleep(0.02)


def jobs(service: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get("/jobs").json()["jobs"]
    return found


def await_jobs(service: Web, count: int) -> None:
    until(lambda: len(jobs(service)) == count)


def part(service: Web) -> str | None:
    said: dict[str, str] = service.get("/ready").json()["parts"]
    return said.get("startup_models")


def await_part(service: Web, said: str) -> None:
    until(lambda: part(service) == said)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == name]


def test_case_70_the_models_of_a_file_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with web(tmp_path, startup_models_config=a_file(tmp_path, A_MODEL, ANOTHER)) as service:
        assert service.get("/health").json() == {"status": "ok"}
        until(lambda: len(events(caplog, SCHEDULED)) == 2)
        first, second = jobs(service)
        assert (first["model_name"], second["model_name"]) == ("org/a", "org/b")
        assert first["tenant"] == second["tenant"] == "startup"
        assert first["output_dir"] == str(service.models_dir / "models")
    assert [event["job_ids"] for event in events(caplog, SCHEDULED)] == [[first["id"]], [second["id"]]]


def test_case_71_a_models_own_path_goes_before_the_common_one(tmp_path: Path) -> None:
    own = {**ANOTHER, "download_path": "elsewhere/Deep"}
    with web(tmp_path, startup_models_config=a_file(tmp_path, A_MODEL, own)) as service:
        await_jobs(service, 2)
        assert [job["output_dir"] for job in jobs(service)] == [
            str(service.models_dir / "models"),
            str(service.models_dir / "elsewhere/Deep"),
        ]


def test_case_71_one_refused_model_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "aGZfZXhhbXBsZXNlY3JldA=="
    refused = [
        {"name": "llama3", "hub": "ollama"},
        {**A_MODEL, "name": "../x"},
        {**A_MODEL, "download_path": "../outside"},
        {**A_MODEL, "override_credentials": {"MY_TOKEN": secret}},
        {**A_MODEL, "type": "llm", "target": "audio-analyzer"},
    ]
    file = a_file(tmp_path, A_MODEL, *refused, ANOTHER)
    with web(tmp_path, enabled_plugins="huggingface", startup_models_config=file) as service:
        await_jobs(service, 2)
        assert [job["model_name"] for job in jobs(service)] == ["org/a", "org/b"]
        until(lambda: len(events(caplog, REFUSED)) == len(refused))
        codes = ["plugin_unavailable", "invalid_spec", "destination_outside", "invalid_spec", "invalid_spec"]
        assert [event["code"] for event in events(caplog, REFUSED)] == codes
        assert events(caplog, REFUSED)[0]["reason"].startswith("Plugin 'ollama' is not available: ")
        assert (part(service) or "").startswith("7 of 7 are not there. Still to come: org/a, org/b. Failed: llama3 (")
    assert secret not in caplog.text
    assert "examplesecret" not in caplog.text


@pytest.mark.parametrize("name", ["startup.yaml", "startup.txt", "none.yaml"])
def test_case_70_a_file_that_cannot_be_used_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    a_file(tmp_path, A_MODEL, name="startup.yaml", colour="blue")
    a_file(tmp_path, A_MODEL, name="startup.txt")
    with web(tmp_path, startup_models_config=str(tmp_path / name)) as service:
        until(lambda: events(caplog, UNUSABLE))
        assert service.get("/health").status_code == 200
        service.submitted(A_MODEL)
        assert len(jobs(service)) == 1
        assert (part(service) or "").startswith("The file that STARTUP_MODELS_CONFIG names cannot be used: ")
    (event,) = events(caplog, UNUSABLE)
    assert event["path"] == str(tmp_path / name)
    assert event["reason"]
    assert "STARTUP_MODELS_CONFIG" in event["action"]


def test_case_70_a_path_that_is_set_but_empty_is_a_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with web(tmp_path, startup_models_config="") as service:
        until(lambda: events(caplog, UNUSABLE))
        assert part(service) is None, "there is no file that could be waited for"
    assert len(events(caplog, UNUSABLE)) == 1


def test_without_a_file_nothing_is_asked_for_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with web(tmp_path) as service:
        assert "startup_models" not in service.get("/ready").json()["parts"]
        assert jobs(service) == []
    assert not events(caplog, UNUSABLE)


def test_the_set_is_there_when_every_model_is(service: Web) -> None:
    await_part(service, "2 of 2 are not there. Still to come: org/a, org/b.")
    bring(service)
    await_part(service, "1 of 2 are not there. Still to come: org/b.")
    at = bring(service)
    await_part(service, "ok")
    assert service.get("/gates/startup").status_code == 200
    for job in jobs(service):
        assert service.delete(f"/jobs/{job['id']}").is_success
    time.sleep(1.1)
    assert part(service) == "ok", "what is there stays there when its job is forgotten"
    shutil.rmtree(at)
    await_part(service, "1 of 2 are not there. Gone: org/b.")


def test_a_failed_model_is_named_until_a_retry_has_brought_it(service: Web) -> None:
    bring(service)
    service.settle(Failed(code="source_gated", detail="no", hint=""))
    await_part(service, "1 of 2 are not there. Failed: org/b (source_gated).")
    assert service.get("/ready").status_code == 503
    for _ in range(2):
        failed = jobs(service)[-1]
        assert failed["status"] in {"failed", "canceled"}
        again = service.post(f"/jobs/{failed['id']}/retry").json()["id"]
        await_part(service, "1 of 2 are not there. Still to come: org/b.")
        service.post(f"/jobs/{again}/cancel")
        await_part(service, "1 of 2 are not there. Failed: org/b (canceled).")
    service.post(f"/jobs/{jobs(service)[-1]['id']}/retry")
    bring(service)
    await_part(service, "ok")


def test_a_job_that_was_deleted_will_not_bring_its_model(service: Web) -> None:
    first, second = jobs(service)
    service.post(f"/jobs/{first['id']}/cancel")
    assert service.delete(f"/jobs/{first['id']}").is_success
    await_part(service, "2 of 2 are not there. Still to come: org/b. Failed: org/a (job_deleted).")
    assert second["status"] == "queued"


def test_many_models_are_counted_and_not_all_named(tmp_path: Path) -> None:
    models = [{**A_MODEL, "name": f"org/m{number}"} for number in range(100)]
    with web(tmp_path, startup_models_config=a_file(tmp_path, *models)) as service:
        await_jobs(service, 100)
        expected = "100 of 100 are not there. Still to come: org/m0, org/m1, org/m2, org/m3, org/m4 and 95 more."
        await_part(service, expected)


def test_a_database_that_comes_later_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'later.db'}"
    with web(tmp_path, database_url=url, startup_models_config=a_file(tmp_path, A_MODEL, ANOTHER)) as service:
        until(lambda: events(caplog, "startup_models_waiting"))
        assert service.get("/health").status_code == 200
        assert (part(service) or "").startswith("2 of 2 are not there.")
        upgrade(url)
        until(lambda: len(events(caplog, SCHEDULED)) == 2)
        assert [job["model_name"] for job in jobs(service)] == ["org/a", "org/b"]
    assert len(events(caplog, "startup_models_waiting")) == 1


def test_nobody_waits_for_a_database_after_the_end(tmp_path: Path) -> None:
    file = a_file(tmp_path, A_MODEL)
    with web(tmp_path, database_url=f"sqlite:///{tmp_path / 'never.db'}", startup_models_config=file) as service:
        await_part(service, "1 of 1 are not there. Still to come: org/a.")
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_a_second_start_asks_only_for_what_is_neither_there_nor_on_its_way(tmp_path: Path) -> None:
    file = a_file(tmp_path, A_MODEL, ANOTHER, {**ANOTHER, "name": "org/c"})
    with web(tmp_path, startup_models_config=file) as service:
        await_jobs(service, 3)
        bring(service)
        service.settle(Failed(code="source_gated", detail="no", hint=""))
        await_part(service, "2 of 3 are not there. Still to come: org/c. Failed: org/b (source_gated).")
    with web(tmp_path, startup_models_config=file) as service:
        await_jobs(service, 4)
        assert jobs(service)[-1]["model_name"] == "org/b"
        await_part(service, "2 of 3 are not there. Still to come: org/b, org/c.")
        bring(service)
        bring(service)
        await_part(service, "ok")
    with web(tmp_path, startup_models_config=file) as service:
        await_part(service, "ok")
        assert len(jobs(service)) == 4


def test_processes_that_start_together_make_no_job_twice(tmp_path: Path) -> None:
    file = a_file(tmp_path, A_MODEL, ANOTHER, gates={"chat": {"models": [ANOTHER]}})
    with web(tmp_path, startup_models_config=file) as first, web(tmp_path, startup_models_config=file) as second:
        for service in (first, second):
            await_part(service, "2 of 2 are not there. Still to come: org/a, org/b.")
            until(lambda service=service: service.get("/gates/chat").status_code == 503)
            until(
                lambda service=service: (
                    service.client.app.dependencies["startup"].dependency()._thread.is_alive() is False
                )
            )
        assert sorted(job["model_name"] for job in jobs(first)) == ["org/a", "org/b", "org/b"]


def test_a_file_may_name_gates_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gates = {
        "chat": {"models": [ANOTHER, {"name": "llama3", "hub": "ollama"}]},
        "vision": {"download_path": "see", "models": [{**A_MODEL, "name": "org/c"}]},
    }
    file = a_file(tmp_path, A_MODEL, gates=gates)
    with web(tmp_path, enabled_plugins="huggingface", startup_models_config=file) as service:
        until(lambda: len(events(caplog, SCHEDULED)) == 3)
        assert {event["gate"] for event in events(caplog, SCHEDULED)} == {"startup", "chat", "vision"}
        assert [gate["name"] for gate in service.get("/gates").json()["gates"]] == ["chat", "startup", "vision"]
        said = service.get("/gates/chat").json()
        assert said["message"] == "2 of 2 are not there. Still to come: org/b. Failed: llama3 (plugin_unavailable)."
        assert "Plugin 'ollama' is not available" in said["models"][1]["error"]
        (see,) = service.get("/gates/vision").json()["models"]
        assert see["path"] == str(service.models_dir / "see/huggingface/org_c")
        for _ in range(3):
            bring(service)
        until(lambda: service.get("/gates/vision").status_code == 200)
        await_part(service, "ok")
        assert service.get("/gates/chat").status_code == 503


def test_a_file_with_nothing_but_gates_has_no_models_to_wait_for(tmp_path: Path) -> None:
    file = tmp_path / "startup.json"
    file.write_text(json.dumps({"download_path": ".", "gates": {"chat": {"models": [A_MODEL]}}}))
    with web(tmp_path, startup_models_config=str(file)) as service:
        await_jobs(service, 1)
        await_part(service, "ok")
        assert service.get("/gates/startup").status_code == 404
        assert service.get("/ready", params={"gate": "chat"}).json()["parts"]["gate:chat"].startswith("1 of 1 are not")


def test_two_models_for_one_place_are_one_too_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = a_file(tmp_path, A_MODEL, {**A_MODEL, "revision": "v1"}, A_MODEL)
    with web(tmp_path, startup_models_config=file) as service:
        await_part(service, "2 of 2 are not there. Still to come: org/a. Failed: org/a (invalid_spec).")
        assert len(jobs(service)) == 1
        assert "in the same place" in events(caplog, REFUSED)[0]["reason"]


def test_a_conversion_with_credentials_is_asked_for_like_any_other(tmp_path: Path) -> None:
    model = {"name": "org/c", "hub": "openvino", "type": "llm", "is_ovms": True, "config": {"precision": "int4"}}
    model["override_credentials"] = {"HF_TOKEN": "aGZfZXhhbXBsZXNlY3JldA=="}
    with web(tmp_path, startup_models_config=a_file(tmp_path, model), redis_url=NOBODY) as service:
        await_jobs(service, 1)
        (job,) = jobs(service)
        assert job["output_dir"].endswith("models/openvino_models/cpu/int4")
        claim = service.claim()
        assert secret_of(claim.kind, claim.work)
    assert b"examplesecret" not in b"".join(file.read_bytes() for file in (tmp_path / "models").rglob("*.db*"))


@pytest.mark.slow
def test_a_restart_of_the_service_transfers_nothing_again(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 8192
    with FakeHuggingFace() as hub:
        hub.add_repo("org/a", {"config.json": b"{}", "model.safetensors": weights})
        hub.add_repo("org/b", {"config.json": b"{}", "model.safetensors": weights[::-1]})
        file = a_file(tmp_path, A_MODEL, ANOTHER)
        with Service(tmp_path / "service", HF_ENDPOINT=hub.endpoint, STARTUP_MODELS_CONFIG=file) as service:
            place = service.models_dir / "models/huggingface"
            assert (place / "org_a/model.safetensors").read_bytes() == weights, "/ready has waited for it"
            assert (place / "org_b/model.safetensors").read_bytes() == weights[::-1]
            identity = (place / "org_a").stat().st_ino
            served = hub.requests.bytes_served(origin="cdn")
            assert served >= 2 * len(weights)
            service.restart("api")
            service.start("api-2")
            service.await_health("api-2")
            service.await_ready()
            service.wait_until(lambda: service.get("/ready", api="api-2").is_success, 60, "ready")
            found = service.get("/jobs").json()["jobs"]
            assert [job["status"] for job in found] == ["completed"] * 2, "what is there is not asked for again"
            assert hub.requests.bytes_served(origin="cdn") == served, "nothing was transferred again"
            assert (place / "org_a").stat().st_ino == identity, "and nothing was published again"


def test_the_table_tells_what_has_become_of_jobs(database: Database) -> None:
    store = JobStore(database)
    first, second, other = store.add([a_download("org/a"), a_download("org/b"), a_download("org/c")])
    for job_id in (second, other):
        store.cancel(job_id)
    again = store.retry(second)
    store.retry(other)
    told = store.followed({first: "org/a", second: "org/b", "no-such-job": "org/b"})
    assert [(fate.id, fate.state, fate.retry_of) for fate in told] == [
        (first, JobState.QUEUED, None),
        (second, JobState.CANCELED, None),
        (again, JobState.QUEUED, second),
    ]
    assert store.followed({}) == []
