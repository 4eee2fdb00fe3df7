"""Two conversions that would not fit into the machine together do not run together, on one worker or on two."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.conftest import PLUGINS
from tests.e2e.service import ALL, Service

BUDGET_MB = 300
"""The `noisy` converter says that it needs 200 MB beyond its source: one fits, two do not."""


def test_conversions_wait_for_memory(tmp_path: Path) -> None:
    models = tmp_path / "hub"
    for number in range(3):
        (models / f"org/m{number}").mkdir(parents=True)
        (models / f"org/m{number}/config.json").write_text(str(number))
    with Service(
        tmp_path,
        run=(*ALL, "convert-2"),
        PYTHONPATH=str(PLUGINS),
        ENABLED_PLUGINS="folder,noisy",
        MODELFERRY_CONVERT_SLOTS="2",
        MODELFERRY_MEMORY_BUDGET_MB=str(BUDGET_MB),
    ) as service:
        service.wait_until(lambda: service.log.read_text().count("worker.ready") == 3, 60, "three ready workers")
        ids = service.submit(*(wish(f"org/m{number}", models) for number in range(3)))
        jobs = [service.wait(job_id) for job_id in ids]
        assert {job["status"] for job in jobs} == {"completed"}, jobs
        spans = sorted(conversion(service, job_id) for job_id in ids)
    for (_, ended_at), (began_at, _) in pairwise(spans):
        assert ended_at <= began_at, spans


def wish(name: str, models: Path) -> dict[str, Any]:
    config = {"mood": "slow", "seconds": 1, "root": str(models)}
    return {"name": name, "hub": "folder", "type": "llm", "is_ovms": True, "config": config}


def conversion(service: Service, job_id: str) -> tuple[str, str]:
    """From when to when a job's model was converted."""
    attempts = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    (only,) = [attempt for attempt in attempts if attempt["stage"] == "convert"]
    return only["began_at"], only["ended_at"]
