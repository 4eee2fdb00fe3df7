"""Case 46 and what goes with it: a token that comes with a request opens a gated model, and is found nowhere."""

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from common.artefacts.manifest import check_published
from common.store.database import Database
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

# Not of the form that log lines are searched for: nothing but care hides it.
TOKEN = "Zq7-plain-looking-credential-19f3"
IN_BASE64 = base64.b64encode(TOKEN.encode()).decode()
GATED = {"name": "org/gated", "hub": "huggingface"}
OPENED = {**GATED, "override_credentials": {"HF_TOKEN": IN_BASE64}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service without a token of its own, and a slow hub with a gated model."""
    with FakeHuggingFace(bytes_per_s=400_000) as hub:
        hub.tokens = {TOKEN: {"org/gated"}}
        hub.add_repo("org/gated", {"config.json": b"{}", "model.safetensors": b"w" * 1_000_000}, gated="manual")
        with Service(
            tmp_path_factory.mktemp("guarded"), HF_ENDPOINT=hub.endpoint, MODELFERRY_LOG_LEVEL="debug"
        ) as service:
            yield SimpleNamespace(hub=hub, service=service)


def traces(service: Service) -> list[str]:
    """Every place where the token is to be found, in clear or in base64."""
    places = {str(path): path.read_bytes() for path in service.folder.rglob("*") if path.is_file()}
    store = redis.Redis(port=service._redis_port)
    for key in store.scan_iter():
        places[f"redis {key!r}"] = repr(
            store.lrange(key, 0, -1) if store.type(key) == b"list" else store.dump(key)
        ).encode()
    store.close()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            for part in ("cmdline", "environ"):
                try:
                    places[f"{part} of {process.name}"] = (process / part).read_bytes()
                except OSError:
                    continue
    return [name for name, content in places.items() if TOKEN.encode() in content or IN_BASE64.encode() in content]


def secrets_kept(service: Service) -> int:
    database = Database(f"sqlite:///{service.folder / 'jobs.db'}")
    with database.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM secrets").scalar()
    database.dispose()
    return int(count or 0)


def ended(guarded: SimpleNamespace, model: dict[str, Any]) -> dict[str, Any]:
    (job_id,) = guarded.service.submit(model)
    job: dict[str, Any] = guarded.service.wait(job_id)
    return job


def test_case_46_a_token_of_the_request_opens_a_gated_model_and_is_found_nowhere(guarded: SimpleNamespace) -> None:
    service: Service = guarded.service
    refused = ended(guarded, GATED)
    assert (refused["status"], refused["error_code"]) == ("failed", "source_gated")
    assert "gated" in refused["error"]
    assert "HF_TOKEN" in refused["error"] + refused["hint"]

    (job_id,) = service.submit(OPENED, download_path="mine")
    service.wait_for(job_id, lambda job: job["progress"]["bytes_done"] > 0)
    assert secrets_kept(service) == 1
    assert traces(service) == []
    job = service.wait(job_id)
    assert job["status"] == "completed", job
    assert check_published(Path(job["path"]), rehash=True) == []

    answers = [service.get(path).text for path in (f"/jobs/{job_id}", "/jobs", f"/jobs/{job_id}/attempts")]
    answers.append(service.get(f"/jobs/{job_id}/provenance").text)
    assert not any(TOKEN in answer or IN_BASE64 in answer for answer in answers)
    assert secrets_kept(service) == 0
    assert traces(service) == []


def test_what_one_was_allowed_is_not_allowed_to_the_next(guarded: SimpleNamespace) -> None:
    assert ended(guarded, OPENED)["status"] == "completed"
    assert ended(guarded, GATED)["error_code"] == "source_gated"


def test_content_is_shared_after_each_has_shown_its_own_right(guarded: SimpleNamespace) -> None:
    ended(guarded, OPENED)
    before = guarded.hub.requests.bytes_served(origin="cdn")
    job = ended(guarded, OPENED)
    assert job["result"]["reused"] is True
    assert guarded.hub.requests.bytes_served(origin="cdn") == before


@pytest.mark.slow
def test_credentials_outlive_the_death_of_every_process(guarded: SimpleNamespace) -> None:
    service: Service = guarded.service
    guarded.hub.commit("org/gated", {"model.safetensors": b"v" * 1_500_000})
    (job_id,) = service.submit(OPENED, download_path="killed")
    service.wait_for(job_id, lambda job: job["progress"]["bytes_done"] > 0)
    for name in ("api", "download", "reconcile"):
        service.restart(name)
    service.await_health()
    assert service.wait(job_id)["status"] == "completed"
    assert secrets_kept(service) == 0


def test_case_73_credentials_are_checked_before_a_job_is_made(guarded: SimpleNamespace) -> None:
    service: Service = guarded.service
    before = len(service.get("/jobs").json()["jobs"])
    wrong = {**GATED, "override_credentials": {"HF_TOKEN": base64.b64encode(b"nobody").decode()}}
    body = {"models": [{**wrong, "validate_credentials": True}]}
    answer = service.post("/models/download", body, download_path=".")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Credential validation failed [hf_auth]: ")
    assert len(service.get("/jobs").json()["jobs"]) == before
    assert ended(guarded, {**OPENED, "validate_credentials": True})["status"] == "completed"


def test_a_list_is_answered_by_a_worker(guarded: SimpleNamespace) -> None:
    began = time.monotonic()
    answer = guarded.service.post("/models/list", {"hub": "huggingface", "search": "gated"})
    assert answer.status_code == 200, answer.text
    assert [item["name"] for item in answer.json()["items"]] == ["org/gated"]
    assert time.monotonic() - began < 10
