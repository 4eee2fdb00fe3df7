"""The process as an operator starts it, over a real socket, through our own client."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.client import Client, Refused, Unreachable, WantedModel
from common.vocabulary import JobState, ModelType
from migrations.command import upgrade
from tests.web import NOBODY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(models_dir: Path) -> Iterator[str]:
    """`python -m api.asgi`, its address once it answers, and its end in order."""
    port = free_port()
    url = f"sqlite:///{models_dir / 'jobs.db'}"
    upgrade(url)
    own = {
        "MODELS_DIR": str(models_dir),
        "DATABASE_URL": url,
        "REDIS_URL": NOBODY,
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "api.asgi"], env={**os.environ, **own}, stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, running)
        yield address
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=10)
        assert running.returncode in {0, -signal.SIGTERM}, log
        assert "Traceback" not in log
    finally:
        running.kill()
        running.communicate()


def wait_for(address: str, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and running.poll() is None:
        with Client(address) as client:
            try:
                client.health()
            except Unreachable:
                time.sleep(0.05)
            else:
                return
    running.kill()
    pytest.fail(f"the web process did not start: {running.communicate()[1]}")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with process(tmp_path_factory.mktemp("models")) as address:
        yield address


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_user_goes_all_the_way_in_both_forms(address: str, prefix: str) -> None:
    with Client(address + prefix) as client:
        assert client.health().status == "ok"
        assert client.ready().parts["database"] == "ok"
        wanted = WantedModel(
            name="org/model", hub="openvino", type=ModelType.LLM, is_ovms=True, config={"cache_size": 2}
        )
        ids = client.submit([wanted, WantedModel(name="org/other", hub="huggingface", revision="main")], "here").job_ids
        first, second = (client.job(job_id) for job_id in ids)
        assert (first.model_name, first.config, first.model_type) == ("org/model", {"cache_size": 2}, ModelType.LLM)
        assert (second.revision, second.output_dir.rpartition("/")[2]) == ("main", "here")
        assert client.cancel(ids[0]).status is JobState.CANCELED
        assert [job.id for job in client.jobs_of_model("org/other").jobs][-1] == ids[1]
        page = client.jobs(status=JobState.QUEUED, limit=1)
        assert len(page.jobs) == 1
        assert client.results().results == []
        assert client.plugins().available_count == 3


def test_the_client_passes_on_what_the_service_says(address: str) -> None:
    with Client(address) as client:
        with pytest.raises(Refused, match=r"^Job no such\?job not found$") as unknown:
            client.job("no such?job")
        assert unknown.value.status == 404
        with pytest.raises(Refused, match=r"body\.models\.0\.name: String should have at least 1 character") as faulty:
            client.submit([WantedModel(name="", hub="huggingface")])
        assert faulty.value.status == 422


def test_the_client_says_when_nobody_answers() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable, match="No answer from"):
        client.health()


def test_head_has_no_body_and_the_path_may_be_anything(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        head = client.head("/health")
        assert (head.status_code, head.content) == (405, b"")
        for path in ("/%ff", "/jobs/%ff", "/jobs/..%2f..%2fetc", "/%00", "//health", "/jobs/" + "x" * 5000):
            assert client.get(path).status_code in {200, 404}, path


def test_a_slow_and_large_body_is_cut_off(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        answer = client.post("/models/download?download_path=x", content=(b" " * 65536 for _ in range(40)))
        assert answer.status_code == 413
        assert client.get("/health").status_code == 200
