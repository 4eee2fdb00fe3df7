"""The same processes on Postgres: two APIs, two workers of the download pool, no leader."""

from pathlib import Path

from common.artefacts.manifest import check_published
from tests.databases import postgres_url
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace


def test_two_of_everything_share_the_work(tmp_path: Path) -> None:
    run = ("redis", "api", "api-2", "download", "download-2", "reconcile", "reconcile-2")
    with FakeHuggingFace() as hub, postgres_url() as url:
        for number in range(12):
            hub.add_repo(f"org/m{number}", {"config.json": b"{}", "model.safetensors": bytes([number]) * 2_000_000})
        with Service(
            tmp_path, run=run, database_url=url, HF_ENDPOINT=hub.endpoint, ENABLED_PLUGINS="huggingface"
        ) as service:
            service.wait_until(lambda: service.log.read_text().count("worker.ready") == 2, 60, "two ready workers")
            ids = [
                job_id
                for number in range(12)
                for job_id in service.submit(
                    {"name": f"org/m{number}", "hub": "huggingface"}, api="api" if number % 2 else "api-2"
                )
            ]
            jobs = [service.wait(job_id) for job_id in ids]
            assert {job["status"] for job in jobs} == {"completed"}, jobs
            assert all(check_published(Path(job["path"]), rehash=True) == [] for job in jobs)
            workers = {
                name
                for name in ("download", "download-2")
                if any("stage.claimed" in line for line in service.lines(name))
            }
            assert workers == {"download", "download-2"}
        assert hub.requests.bytes_served(origin="cdn") < 1.05 * 12 * 2_000_000
