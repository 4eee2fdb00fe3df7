"""A client as one is that was generated from the service's older description: closed enums, and dates that must parse.

`generated_sdk.py URL NAME HUB TYPE DOWNLOAD_PATH`: checks health, submits, waits, lists jobs and plugins, and prints what it
understood as JSON.
"""

import dataclasses
import json
import sys
import time
import urllib.parse
import urllib.request
from datetime import datetime
from enum import Enum


class Operation(Enum):
    """The kinds of jobs that were known; another one raises ValueError."""

    CONVERT = "convert"
    DOWNLOAD = "download"


class Status(Enum):
    """The states that were known. What else there is counts as pending."""

    PENDING = "pending"
    DOWNLOADING = "downloading"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @classmethod
    def _missing_(cls, value):  # noqa: ARG003
        return cls.PENDING


class Kind(Enum):
    """The types that could be asked for."""

    LLM = "llm"
    EMBEDDINGS = "embeddings"
    RERANKER = "reranker"
    VLM = "vlm"
    VISION = "vision"


@dataclasses.dataclass
class Job:
    """What was read of a job."""

    id: str
    operation: Operation
    name: str
    status: Status
    hub: str
    created_at: datetime
    completed_at: datetime | None
    error: str | None
    output_dir: str | None
    plugin: str | None

    @classmethod
    def of(cls, document):
        """Absent is unknown; what is there must parse."""
        ended = datetime.fromisoformat(document["completion_time"]) if "completion_time" in document else None
        created = document.get("creation_time")
        return cls(
            id=document.get("job_id", "unknown"),
            operation=Operation(document["operation_type"]),
            name=document["model_name"],
            status=Status(document["status"]),
            hub=document["hub"],
            created_at=datetime.fromisoformat(created) if created else datetime.now(),
            completed_at=ended,
            error=document.get("error"),
            output_dir=document.get("output_dir"),
            plugin=document.get("plugin_name"),
        )


class Client:
    """The calls of the library."""

    def __init__(self, url, first_wait_s=0.2):
        self._url = url
        self._first_wait_s = first_wait_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def health(self):
        return self._call("/health")["status"]

    def submit(self, name, hub, kind, download_path):
        model = {"name": name, "hub": hub, "type": kind.value, "is_ovms": True, "revision": "main"}
        query = urllib.parse.urlencode({"download_path": download_path})
        (job_id,) = self._call(f"/models/download?{query}", {"models": [model]})["job_ids"]
        return self.job(job_id)

    def job(self, job_id):
        return Job.of(self._call(f"/jobs/{job_id}"))

    def wait_for_job(self, job_id, timeout_s=90):
        """Half as long again between any two looks, as the library has it."""
        wait_s, until = self._first_wait_s, time.monotonic() + timeout_s
        while (job := self.job(job_id)).status not in {Status.COMPLETED, Status.FAILED}:
            if time.monotonic() > until:
                raise TimeoutError(job_id)
            time.sleep(wait_s)
            wait_s = min(wait_s * 1.5, 60)
        return job

    def list_jobs(self):
        return [Job.of(one) for one in self._call("/jobs")["jobs"]]

    def jobs_of(self, name):
        query = urllib.parse.urlencode({"model_name": name})
        return [Job.of(one) for one in self._call(f"/models/jobs?{query}")["jobs"]]

    def results(self):
        return self._call("/models/results")["results"]

    def list_plugins(self):
        groups = self._call("/plugins")["available_plugins"]
        return [plugin["name"] for group in groups.values() for plugin in group]

    def _call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=30) as answer:
            return json.load(answer)


def main(url, name, hub, kind, download_path):
    client = Client(url)
    submitted = client.submit(name, hub, Kind(kind), download_path)
    job = client.wait_for_job(submitted.id)
    understood = {
        "health": client.health(),
        "submitted": submitted.id,
        "job": dataclasses.asdict(job),
        "listed": [one.id for one in client.list_jobs()],
        "of_model": [one.id for one in client.jobs_of(name)],
        "results": [one["job_id"] for one in client.results()],
        "plugins": client.list_plugins(),
    }
    print(json.dumps(understood, default=lambda value: value.value if isinstance(value, Enum) else str(value)))


if __name__ == "__main__":
    main(*sys.argv[1:])
