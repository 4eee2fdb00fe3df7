"""Jobs: what is told of them, how they go, and how they are cancelled."""

import time
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from common.artefacts.manifest import check_published
from tests.acceptance.cases import case
from tests.acceptance.wire import Wire, conversion, files_below
from tests.e2e.service import ENDED, Service
from tests.fakes.faults import Fault, Throttle
from tests.fakes.geti import zip_of
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match

MIB = 1024 * 1024
KEYS = {
    "id", "operation_type", "model_name", "hub", "output_dir", "status", "start_time", "plugin_name", "model_type",
    "job_id", "creation_time",
}  # fmt: skip
STATUSES = {"queued", "downloading", "converting", "completed", "failed", "canceled"}
SMALL: dict[str, Any] = {"name": "a/b", "hub": "huggingface"}
SLOW: dict[str, Any] = {"name": "slow/model", "hub": "huggingface"}
GATED: dict[str, Any] = {"name": "org/gated", "hub": "huggingface"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[Service]:
    with FakeHuggingFace() as hub:
        for name in ("a/b", "a/bc", "x/a_b"):
            hub.add_repo(name, {"config.json": b"{}", "model.safetensors": name.encode() * 1000})
        hub.add_repo("slow/model", {"config.json": b"{}", "model.safetensors": b"w" * (64 * MIB)})
        hub.add_repo("org/gated", {"config.json": b"{}"}, gated="manual")
        hub.add_directory("tiny/llama", tiny.llama)
        hub.add_directory("tiny/bert", tiny.bert)
        hub.add_fault(Fault(kind=Throttle(MIB), match=Match("*slow*", origin="cdn")))
        with Service(tmp_path_factory.mktemp("jobs"), HF_ENDPOINT=hub.endpoint) as service:
            yield service


def watched(wire: Wire, *ids: str) -> list[list[dict[str, Any]]]:
    """Every sight of these jobs, until all have ended."""
    seen: list[list[dict[str, Any]]] = [[] for _ in ids]
    until = time.monotonic() + 90
    while time.monotonic() < until:
        for sights, job_id in zip(seen, ids, strict=True):
            sights.append(wire.job(job_id))
        if all(sights[-1]["status"] in ENDED for sights in seen):
            return seen
        time.sleep(0.02)
    raise AssertionError(f"not all have ended: {[sights[-1] for sights in seen]}")


def under_way(wire: Wire, job_id: str, status: str) -> dict[str, Any]:
    """The job, once it is seen at work."""
    until = time.monotonic() + 60
    while (job := wire.job(job_id))["status"] != status or not job["attempt"]:
        assert job["status"] not in ENDED, job
        assert time.monotonic() < until, job
        time.sleep(0.02)
    return job


@case(29)
def test_a_job_has_its_keys_under_old_names_and_new_ones(wire: Wire) -> None:
    (job_id,) = wire.submit(SMALL, download_path=f"keys/{wire.form}")
    (sights,) = watched(wire, job_id)
    for job in sights:
        assert job.keys() >= KEYS
        assert job["id"] == job["job_id"] == job_id
        assert job["start_time"] == job["creation_time"]
        assert ("completion_time" in job) == (job["status"] in ENDED)
        assert job.get("completion_time", "") is not None
    assert sights[-1]["status"] == "completed"
    assert job_id in {job["id"] for job in wire.jobs()}


@case(30)
def test_jobs_are_in_known_states_and_never_in_those_of_the_other_kind(wire: Wire) -> None:
    # Another precision for each form: what is there already is not converted again.
    precision = "int8" if wire.form == "bare" else "fp16"
    ids = wire.submit(
        {"name": "a/bc", "hub": "huggingface"},
        conversion("tiny/bert", "embeddings", precision=precision),
        GATED,
        download_path=f"states/{wire.form}",
    )
    download, convert, failing = ([job["status"] for job in sights] for sights in watched(wire, *ids))
    assert set(download) | set(convert) | set(failing) <= STATUSES
    assert (download[-1], convert[-1], failing[-1]) == ("completed", "completed", "failed")
    assert "converting" not in download
    assert "converting" in convert
    assert convert.index("converting") > max((n for n, one in enumerate(convert) if one == "downloading"), default=-1)


@case(31)
def test_a_failed_job_says_why_and_when(wire: Wire) -> None:
    job = wire.failed(GATED)
    begun, ended = (datetime.fromisoformat(job[name]) for name in ("start_time", "completion_time"))
    assert begun <= ended
    assert job["error"]


@case(32)
def test_what_nobody_has_asked_for_is_not_found(wire: Wire) -> None:
    answer = wire.get("/jobs/none")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Job none not found"})
    answer = wire.get("/models/jobs", model_name="none")
    assert (answer.status_code, answer.json()) == (404, {"detail": "No jobs found for model none"})
    assert wire.get("/models/jobs").status_code == 422


@case(33)
def test_jobs_of_a_model_are_those_of_its_very_name(wire: Wire) -> None:
    ids = wire.submit(SMALL, {**SMALL, "name": "a/bc"}, {**SMALL, "name": "x/a_b"}, download_path="exact")
    found = wire.get("/models/jobs", model_name="a/b").json()["jobs"]
    assert {job["model_name"] for job in found} == {"a/b"}
    assert ids[0] in {job["id"] for job in found}
    assert wire.get("/models/jobs", model_name="a/").status_code == 404


@case(34)
def test_results_are_what_is_completed(wire: Wire) -> None:
    downloaded = wire.completed(SMALL)["id"]
    converted = wire.completed(conversion("tiny/bert", "embeddings"))["id"]
    failed = wire.failed(GATED)["id"]
    archive = zip_of({"model.xml": b"<net/>", "model.bin": b"weights"})
    answer = wire.ask(
        "POST", "/models/upload", files={"file": ("a.zip", archive)}, data={"model_name": f"result-{wire.form}"}
    )
    uploaded = answer.json()["job_id"]
    results = {line["job_id"]: line for line in wire.get("/models/results").json()["results"]}
    assert {line["status"] for line in results.values()} == {"success"}
    assert failed not in results
    assert results[downloaded]["is_ovms"] is False
    assert results[converted]["is_ovms"] is True
    assert "is_ovms" not in results[uploaded]
    assert results[converted]["model_path"] == wire.job(converted)["output_dir"]


@case(36)
def test_a_fetch_that_is_cancelled_ends_at_once_and_leaves_nothing(wire: Wire) -> None:
    place = f"cancelled/{wire.form}"
    (job_id,) = wire.submit(SLOW, download_path=place)
    under_way(wire, job_id, "downloading")
    answer = wire.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()) == (
        200,
        {"message": f"Job {job_id} has been cancelled", "job_id": job_id, "status": "canceled"},
    )
    job = wire.job(job_id)
    assert job["status"] == "canceled"
    assert datetime.fromisoformat(job["completion_time"])
    wire.service.wait_until(lambda: not at_work(wire.service, "download"), 5, "without a child that fetches")
    assert not files_below(wire.below(place))
    assert wire.job(job_id)["status"] == "canceled"


@case(36)
def test_a_conversion_that_is_cancelled_ends_and_what_was_there_before_stays(wire: Wire) -> None:
    place = f"kept/{wire.form}"
    before = wire.completed(conversion("tiny/llama", "llm", precision="fp32"), place)
    # Options that differ for each form: what is known already would not take its time.
    size = 64 if wire.form == "bare" else 32
    (job_id,) = wire.submit(
        conversion("tiny/llama", "llm", precision="int4", extra_quantization_params=f"--group-size {size}"),
        download_path=place,
    )
    under_way(wire, job_id, "converting")
    assert wire.post(f"/jobs/{job_id}/cancel").status_code == 200
    wire.service.wait_until(lambda: not at_work(wire.service, "convert"), 5, "without a child that converts")
    assert not wire.below(f"{place}/openvino_models/cpu/int4").exists()
    assert check_published(wire.below(f"{place}/openvino_models/cpu/fp32/tiny/llama"), rehash=True) == []
    assert wire.job(before["id"])["status"] == "completed"
    assert wire.job(job_id)["status"] == "canceled"


@case(37)
def test_only_a_job_that_goes_on_can_be_cancelled(wire: Wire) -> None:
    answer = wire.post("/jobs/none/cancel")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Job none not found"})
    (canceled,) = wire.submit(SLOW, download_path="ended")
    assert wire.post(f"/jobs/{canceled}/cancel").status_code == 200
    for job_id in (wire.completed(SMALL)["id"], wire.failed(GATED)["id"], canceled):
        answer = wire.post(f"/jobs/{job_id}/cancel")
        assert answer.status_code == 409
        assert "already in terminal state" in answer.json()["detail"]


@case(39)
def test_a_cancel_before_the_start_is_heard(wire: Wire) -> None:
    ids = []
    for number in range(5):
        (job_id,) = wire.submit(SLOW, download_path=f"early/{wire.form}/{number}")
        assert wire.post(f"/jobs/{job_id}/cancel").status_code == 200
        ids.append(job_id)
    time.sleep(1)
    assert {wire.job(job_id)["status"] for job_id in ids} == {"canceled"}
    assert not files_below(wire.below(f"early/{wire.form}"))


def at_work(service: Service, pool: str) -> list[psutil.Process]:
    """The children of a worker's fork server: each works on one stage."""
    (server,) = psutil.Process(service.pid(pool)).children()
    return server.children(recursive=True)
