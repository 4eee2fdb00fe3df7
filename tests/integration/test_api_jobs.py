"""Jobs over HTTP while workers move them: here the tests do in the store what a worker does."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from common.outcome import Failed, Succeeded
from common.spec import Progress
from common.vocabulary import Phase, Pool
from tests.web import Web, web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
A_CONVERSION: dict[str, Any] = {"name": "org/model", "hub": "openvino", "type": "llm", "is_ovms": True}
STATUSES = {"queued", "downloading", "converting", "completed", "failed", "canceled"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as running:
        yield running


def test_case_29_a_new_job(service: Web) -> None:
    (job_id,) = service.submitted({**A_CONVERSION, "config": {"cache_size": 4}})
    job = service.job(job_id)
    assert job == {
        **job,
        "id": job_id,
        "job_id": job_id,
        "operation_type": "convert",
        "model_name": "org/model",
        "hub": "openvino",
        "output_dir": str(service.models_dir / "x" / "openvino_models/cpu/int8"),
        "status": "queued",
        "plugin_name": "openvino",
        "plugin": "openvino",
        "model_type": "llm",
        "config": {"cache_size": 4},
        "attempt": 0,
    }
    assert "completion_time" not in job
    assert service.get(f"/api/v1/jobs/{job_id}").json() == job
    assert service.get("/jobs").json() == {"jobs": [job]}


def test_case_30_the_life_of_a_download(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    statuses = [service.job(job_id)["status"]]
    claim = service.claim()
    statuses.append(service.job(job_id)["status"])
    service.beat(claim, Progress(phase=Phase.DOWNLOADING, bytes_done=5, bytes_total=10, speed_bps=1.0))
    assert service.job(job_id)["progress"] == {
        "phase": "downloading",
        "percent": 49.5,
        "bytes_done": 5,
        "bytes_total": 10,
        "files_done": 0,
        "files_total": None,
        "bytes_resumed": 0,
        "speed_bps": 1.0,
        "eta_s": 5.0,
    }
    service.stages.settle(claim, Succeeded(artefact="a"))
    statuses.append(service.job(job_id)["status"])
    path = str(service.models_dir / "x/huggingface/org_model")
    service.settle(Succeeded(artefact="a", result={"path": path, "revision": "c0ffee", "reused": False}))
    job = service.job(job_id)
    statuses.append(job["status"])
    assert statuses == ["queued", "downloading", "downloading", "completed"]
    assert job["path"] == path
    assert job["result"]["download_path"] == str(service.models_dir / "x/huggingface")
    assert job["result"]["success"] is True
    assert job["progress"]["percent"] == 100
    assert job["progress"]["bytes_done"] == 10
    assert datetime.fromisoformat(job["completion_time"]) >= datetime.fromisoformat(job["start_time"])


def test_case_30_the_life_of_a_conversion(service: Web) -> None:
    (job_id,) = service.submitted(A_CONVERSION)
    statuses = [service.job(job_id)["status"]]
    percents = [service.job(job_id)["progress"]["percent"]]
    fetched = Progress(phase=Phase.DOWNLOADING, bytes_done=10, bytes_total=10)
    for pool in (Pool.DOWNLOAD, Pool.DOWNLOAD, Pool.CONVERT, Pool.CONVERT):
        claim = service.claim(pool)
        if claim.kind == "fetch":
            service.beat(claim, fetched)
        running = service.job(job_id)
        assert service.stages.settle(claim, Succeeded(artefact="a")) is not None
        settled = service.job(job_id)
        statuses += [running["status"], settled["status"]]
        percents += [running["progress"]["percent"], settled["progress"]["percent"]]
    assert set(statuses) <= STATUSES
    assert statuses == ["queued", *["downloading"] * 3, *["converting"] * 4, "completed"]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert percents[-2] < 100
    assert service.job(job_id)["result"]["conversion_path"] == service.job(job_id)["output_dir"]


def test_case_31_a_failed_job(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    service.settle(Failed(code="source_gated", detail="org/model is gated.", hint="Set HF_TOKEN."))
    job = service.job(job_id)
    assert (job["status"], job["error_code"], job["hint"]) == ("failed", "source_gated", "Set HF_TOKEN.")
    assert job["error"] == "org/model is gated."
    assert datetime.fromisoformat(job["completion_time"]) >= datetime.fromisoformat(job["start_time"])
    assert "result" not in job


def test_case_32_unknown_jobs_and_models(service: Web) -> None:
    assert service.get("/jobs/none").status_code == 404
    assert service.get("/jobs/none").content == b'{"detail":"Job none not found"}'
    assert service.get("/models/jobs?model_name=none").status_code == 404
    assert service.get("/models/jobs?model_name=none").content == b'{"detail":"No jobs found for model none"}'
    missing = service.get("/models/jobs")
    assert missing.status_code == 422
    assert missing.json()["detail"][0]["loc"] == ["query", "model_name"]


@pytest.mark.parametrize("path", ["/jobs/%00", "/models/jobs?model_name=a%00b", "/jobs/%F0%28%8C%28", "/jobs/%0a"])
def test_what_no_database_takes_is_not_found_either(service: Web, path: str) -> None:
    assert service.get(path).status_code == 404


def test_case_33_jobs_of_exactly_one_model(service: Web) -> None:
    ids = service.submitted(
        {**A_MODEL, "name": "a/b"}, {**A_MODEL, "name": "a/bc"}, {**A_MODEL, "name": "A/B"}, {**A_MODEL, "name": "a/b"}
    )
    found = service.get("/models/jobs?model_name=a/b").json()
    assert list(found) == ["jobs"]
    assert [job["id"] for job in found["jobs"]] == [ids[0], ids[3]]
    assert service.get("/models/jobs", params={"model_name": "a/%"}).status_code == 404


def test_case_34_results_are_the_completed_jobs(service: Web) -> None:
    done, failed, _ = service.submitted(
        {**A_MODEL, "name": "a/done"}, {**A_MODEL, "name": "a/failed"}, {**A_MODEL, "name": "a/waiting"}
    )
    claims = {service.job(claim.job_ids[0])["model_name"]: claim for claim in (service.claim(), service.claim())}
    service.stages.settle(claims["a/failed"], Failed(code="x", detail="y", hint="z"))
    service.stages.settle(claims["a/done"], Succeeded(artefact="a"))
    publish = next(claim for claim in (service.claim(), service.claim()) if done in claim.job_ids)
    service.stages.settle(publish, Succeeded(artefact="a"))
    assert service.job(failed)["status"] == "failed"
    (line,) = service.get("/models/results").json()["results"]
    assert line == {
        "job_id": done,
        "model_name": "a/done",
        "hub": "huggingface",
        "operation_type": "download",
        "status": "success",
        "model_path": str(service.models_dir / "x"),
        "completion_time": service.job(done)["completion_time"],
        "is_ovms": False,
    }


def test_case_37_an_unknown_job_cannot_be_cancelled(service: Web) -> None:
    answer = service.post("/jobs/none/cancel")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Job none not found"})


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
def test_case_37_an_ended_job_cannot_be_cancelled(service: Web, state: str) -> None:
    (job_id,) = service.submitted(A_MODEL)
    if state == "completed":
        service.complete()
    elif state == "failed":
        service.settle(Failed(code="x", detail="y", hint="z"))
    else:
        service.post(f"/jobs/{job_id}/cancel")
    answer = service.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"Job {job_id} is already in terminal state '{state}' and cannot be cancelled"
    assert service.job(job_id)["status"] == state


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_case_39_a_job_cancelled_before_its_start_is_never_begun(service: Web, prefix: str) -> None:
    (job_id,) = service.submitted(A_MODEL)
    answer = service.post(f"{prefix}/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    assert answer.json() == {"message": f"Job {job_id} has been cancelled", "job_id": job_id, "status": "canceled"}
    assert service.stages.claim(Pool.DOWNLOAD, "w") is None
    job = service.job(job_id)
    assert job["status"] == "canceled"
    assert job["completion_time"]
    assert "error" not in job


def test_a_running_job_is_cancelled_at_once(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    claim = service.claim()
    assert service.post(f"/jobs/{job_id}/cancel").status_code == 200
    assert service.job(job_id)["status"] == "canceled"
    assert service.stages.heartbeat(claim, None).cancel


def test_what_is_being_published_this_instant_is_not_cancelled(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    service.settle(Succeeded(artefact="a"))
    service.claim()
    answer = service.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()) == (409, {"detail": f"Job {job_id} could not be cancelled"})


def test_pages_of_jobs(service: Web) -> None:
    ids = service.submitted(*({**A_MODEL, "name": f"a/m{number}"} for number in range(5)))
    service.post(f"/jobs/{ids[1]}/cancel")

    def page(query: str) -> tuple[list[int], int | None]:
        found = service.get(f"/jobs?{query}").json()
        return [ids.index(job["id"]) for job in found["jobs"]], found.get("total")

    assert page("") == ([0, 1, 2, 3, 4], None)
    assert page("limit=2") == ([0, 1], 5)
    assert page("limit=2&offset=3") == ([3, 4], 5)
    assert page("offset=4") == ([4], 5)
    assert page("limit=9&offset=9") == ([], 5)
    assert page("status=canceled") == ([1], 1)
    assert page("status=queued&limit=2&offset=1") == ([2, 3], 4)
    assert page("status=failed") == ([], 0)
    assert page("colour=blue") == ([0, 1, 2, 3, 4], None)


@pytest.mark.parametrize(
    ("query", "kind", "name"),
    [
        ("limit=0", "greater_than_equal", "limit"),
        ("limit=1001", "less_than_equal", "limit"),
        ("limit=x", "int_parsing", "limit"),
        ("limit=", "int_parsing", "limit"),
        ("offset=-1", "greater_than_equal", "offset"),
        ("offset=99999999999999999999", "less_than", "offset"),
        ("status=done", "enum", "status"),
        ("status=QUEUED", "enum", "status"),
    ],
)
def test_pages_that_cannot_be(service: Web, query: str, kind: str, name: str) -> None:
    answer = service.get(f"/jobs?{query}")
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"], set(fault)) == (kind, ["query", name], {"type", "loc", "msg"})


def test_names_in_other_scripts_are_sent_as_they_are(service: Web) -> None:
    answer = service.get("/models/jobs", params={"model_name": "модель/模型"})
    assert answer.content == '{"detail":"No jobs found for model модель/模型"}'.encode()


def test_case_40_plugins(tmp_path: Path) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        page = service.get("/plugins").json()
    assert list(page) == ["available_plugins", "total_count", "available_count", "activation_instructions"]
    entries = [entry for group in page["available_plugins"].values() for entry in group]
    assert page["total_count"] == len(entries)
    assert page["available_count"] == sum(entry["available"] for entry in entries) == 1
    for group, members in page["available_plugins"].items():
        for entry in members:
            assert entry["type"] == group
            assert entry["name"]
            assert entry["description"]
            lists = entry["capabilities"]["supports_listing"]
            assert entry["capabilities"] == {
                "supports_parallel_downloads": True,
                "supports_listing": lists,
                "listing_filter_fields": entry["capabilities"]["listing_filter_fields"] if lists else [],
            }
            assert entry["hub_config_keys"] == entry["config_keys"]
            assert entry["available"] is (entry["unavailable_reason"] is None)
    huggingface = next(entry for entry in page["available_plugins"]["downloader"] if entry["name"] == "huggingface")
    (key,) = huggingface["config_keys"]
    assert key == {**key, "name": "HF_TOKEN", "sensitive": True, "required": False, "group": None}
    openvino = next(entry for entry in page["available_plugins"]["converter"] if entry["name"] == "openvino")
    assert "was not activated" in openvino["unavailable_reason"]
