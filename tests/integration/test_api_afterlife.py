"""What may be done with a job that has ended, or that does not end well: retry, forget, read its attempts."""

from datetime import datetime
from typing import Any

import pytest

from common.outcome import Failed, Retry, Succeeded
from common.store.database import Database
from common.store.stages import RetryPolicy, StageStore
from tests.web import OWNER, Web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
FAILED = Failed(code="source_gated", detail="Gated.", hint="Set HF_TOKEN.")


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_failed_job_is_tried_again_as_a_new_one(service: Web, prefix: str) -> None:
    (job_id,) = service.submitted({**A_MODEL, "revision": "main", "priority": "high"})
    service.settle(FAILED)
    answer = service.post(f"{prefix}/jobs/{job_id}/retry")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"{prefix}/jobs/{job['id']}"
    assert service.get(answer.headers["location"]).json() == job
    assert job["id"] != job_id
    assert (job["status"], job["retry_of"], job["revision"], job["priority"]) == ("queued", job_id, "main", "high")
    assert "error" not in job
    assert service.job(job_id)["status"] == "failed"
    service.complete(path="/p")
    done = service.job(job["id"])
    assert (done["status"], done["retry_of"]) == ("completed", job_id)


def test_a_cancelled_job_is_tried_again_too(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    service.post(f"/jobs/{job_id}/cancel")
    assert service.post(f"/jobs/{job_id}/retry").status_code == 202


def test_what_cannot_be_tried_again(quick: Web) -> None:
    (job_id,) = quick.submitted(A_MODEL)
    active = quick.post(f"/jobs/{job_id}/retry")
    quick.complete()
    completed = quick.post(f"/jobs/{job_id}/retry")
    assert (active.status_code, completed.status_code) == (409, 409)
    assert job_id in active.json()["detail"]
    assert "completed" in completed.json()["detail"]
    for path in ("/jobs/none/retry", "/jobs/%00/retry"):
        assert quick.post(path).status_code == 404


def test_a_job_that_has_ended_is_forgotten(service: Web) -> None:
    failed, waiting = service.submitted(A_MODEL, {**A_MODEL, "name": "org/other"})
    service.settle(FAILED)
    answer = service.delete(f"/api/v1/jobs/{failed}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert service.get(f"/jobs/{failed}").status_code == 404
    assert service.delete(f"/jobs/{failed}").status_code == 404
    assert service.delete("/jobs/%00").status_code == 404
    active = service.delete(f"/jobs/{waiting}")
    assert (active.status_code, waiting in active.json()["detail"]) == (409, True)
    assert [job["id"] for job in service.get("/jobs").json()["jobs"]] == [waiting]


def test_attempts_tell_what_happened(service: Web, database: Database) -> None:
    (job_id,) = service.submitted(A_MODEL)
    assert service.get(f"/jobs/{job_id}/attempts").json() == {"attempts": []}
    patient = StageStore(database, lease_s=60, retry=RetryPolicy(max_attempts=3))
    claim = service.claim()
    running = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    assert running == [{**running[0], "stage": "fetch", "number": 1, "worker": OWNER}]
    assert not {"ended_at", "outcome", "error_code", "error"} & set(running[0])
    assert patient.settle(claim, Retry(code="hub_unavailable", detail="502", hint="h", wait_s=0.0)) is not None
    waiting = service.job(job_id)
    assert (waiting["status"], waiting["last_error_code"], waiting["last_error"]) == (
        "downloading",
        "hub_unavailable",
        "502",
    )
    assert datetime.fromisoformat(waiting["retry_at"]) >= datetime.fromisoformat(waiting["start_time"])
    assert "error" not in waiting


def test_after_the_end_only_the_end_counts(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    service.settle(FAILED)
    job = service.job(job_id)
    assert job["error"] == "Gated."
    assert not {"retry_at", "last_error", "last_error_code", "retry_of"} & set(job)
    (attempt,) = service.get(f"/api/v1/jobs/{job_id}/attempts").json()["attempts"]
    assert (attempt["outcome"], attempt["error_code"], attempt["error"]) == ("failed", "source_gated", "Gated.")
    assert datetime.fromisoformat(attempt["ended_at"]) >= datetime.fromisoformat(attempt["began_at"])


def test_the_attempts_of_a_success(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    service.settle(Succeeded(artefact="a"))
    service.settle(Succeeded(artefact="a"))
    attempts = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    assert [(attempt["stage"], attempt["outcome"]) for attempt in attempts] == [
        ("fetch", "succeeded"),
        ("publish", "succeeded"),
    ]


@pytest.mark.parametrize("path", ["/jobs/none/attempts", "/jobs/%00/attempts"])
def test_nobody_has_no_attempts(quick: Web, path: str) -> None:
    assert quick.get(path).status_code == 404
