"""The service as a client of the contract sees it, in one of the two forms that its paths have."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.service import ENDED, Service

FORMS = {"bare": "", "prefixed": "/api/v1"}
"""How tests call each form, and what stands before its paths."""

WITHOUT_CONVERSIONS = ("redis", "api", "download", "reconcile")
"""What runs for tests of which none waits for a conversion."""


@dataclass(frozen=True)
class Wire:
    """Asks in one form. `form` is its name, for what must not be there twice."""

    service: Service
    form: str
    api: str = "api"
    """Which of the service's web processes is asked."""

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """`more` is what httpx takes; a redirect is not followed."""
        url = f"{self.service.url(self.api)}{FORMS[self.form]}{path}"
        return httpx.request(method, url, trust_env=False, timeout=60, **more)

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.ask("GET", path, params=query or None)

    def post(self, path: str, body: Any = None, **query: str) -> httpx.Response:
        return self.ask("POST", path, json=body, params=query or None)

    def download(self, *models: Mapping[str, Any], download_path: str = ".") -> httpx.Response:
        """POST these models."""
        return self.post("/models/download", {"models": list(models)}, download_path=download_path)

    def submit(self, *models: Mapping[str, Any], download_path: str = ".") -> list[str]:
        """POST these models, which must be accepted. The ids of their jobs."""
        answer = self.download(*models, download_path=download_path)
        assert answer.status_code == 200, answer.text
        ids: list[str] = answer.json()["job_ids"]
        return ids

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.get("/jobs").json()["jobs"]
        return jobs

    def wait(self, job_id: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """The job, once it has ended, however it has."""
        until = time.monotonic() + timeout_s
        while (job := self.job(job_id))["status"] not in ENDED:
            assert time.monotonic() < until, f"after {timeout_s} s the job is {job}"
            time.sleep(0.05)
        return job

    def ended(self, model: Mapping[str, Any], download_path: str = ".") -> dict[str, Any]:
        """Submit one model, and wait for its end."""
        (job_id,) = self.submit(model, download_path=download_path)
        return self.wait(job_id)

    def completed(self, model: Mapping[str, Any], download_path: str = ".") -> dict[str, Any]:
        job = self.ended(model, download_path)
        assert job["status"] == "completed", job
        return job

    def failed(self, model: Mapping[str, Any], download_path: str = ".") -> dict[str, Any]:
        job = self.ended(model, download_path)
        assert job["status"] == "failed", job
        assert job["error"]
        return job

    def below(self, path: str) -> Path:
        """A place on the volume of the models."""
        return self.service.models_dir / path


def conversion(name: str, kind: str | None, **config: object) -> dict[str, Any]:
    """A wish for OpenVINO's form of a model."""
    return {"name": name, "hub": "openvino", "type": kind, "is_ovms": True, "config": config or None}


def faults(answer: httpx.Response) -> list[tuple[str, list[Any]]]:
    """The (type, loc) pairs of a 422."""
    assert answer.status_code == 422, answer.text
    found = answer.json()["detail"]
    assert all(set(fault) == {"type", "loc", "msg"} for fault in found)
    return [(fault["type"], fault["loc"]) for fault in found]


def refused(answer: httpx.Response, *words: str) -> str:
    """The text of a 400, in which these words must be."""
    assert answer.status_code == 400, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert all(word in detail for word in words), detail
    return detail


def in_model(*path: str) -> list[Any]:
    """Where a fault of the first model is."""
    return ["body", "models", 0, *path]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def served(folder: Path) -> dict[str, str]:
    """What `config_all.json` of a precision's folder lists: name -> base_path."""
    index = json.loads((folder / "config_all.json").read_text())
    return {entry["config"]["name"]: entry["config"]["base_path"] for entry in index["model_config_list"]}


def graph_says(folder: Path, pattern: str) -> bool:
    """Whether a line of the model's graph fits."""
    return re.search(pattern, (folder / "graph.pbtxt").read_text(), re.MULTILINE) is not None
