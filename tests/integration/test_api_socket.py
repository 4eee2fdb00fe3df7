"""The process as an operator starts it, over a real socket, through our own client."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.client import Client, Refused, Unreachable, WantedModel
from api.embedded.redis_server import free_port
from common.vocabulary import JobState, LimitScope, ModelType, Priority
from migrations.command import upgrade
from tests.web import NOBODY


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
    address = f"http://127.0.0.1:{port}"
    # Not a pipe: one that nobody reads is full after some hundred requests, and holds the process.
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "api.asgi"], env={**os.environ, **own}, stderr=log, text=True
        )
        try:
            wait_for(address, running)
            yield address
            running.send_signal(signal.SIGTERM)
            code = running.wait(timeout=10)
            log.seek(0)
            told = log.read()
            assert code in {0, -signal.SIGTERM}, told
            assert "Traceback" not in told
        finally:
            running.kill()
            running.wait()


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
        offered = client.plugins().available_plugins
        assert {"huggingface", "openvino"} <= {plugin.name for plugin in offered.downloader or ()}


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


def test_a_key_and_a_tenant_come_once(address: str) -> None:
    body = {"models": [{"name": "org/twice", "hub": "huggingface"}]}
    with httpx.Client(base_url=address, trust_env=False) as client:
        for name in ("Idempotency-Key", "Modelferry-Tenant"):
            twice = [(name, "a"), (name.lower(), "b")]
            answer = client.post("/models/download?download_path=x", json=body, headers=twice)
            assert (answer.status_code, name in answer.json()["detail"]) == (400, True)
        assert client.get("/models/jobs?model_name=org/twice").status_code == 404


def test_the_client_starts_nothing_twice_and_cleans_up(address: str) -> None:
    wanted = [WantedModel(name="org/once", hub="huggingface", priority=Priority.LOW)]
    with Client(f"{address}/api/v1") as client:
        for key in ("plain", r'with "quotes" and \ more'):
            answers = [client.submit(wanted, "once", idempotency_key=key, tenant="anna") for _ in range(2)]
            assert answers[0] == answers[1]
        (job_id,) = client.submit(wanted, "once", idempotency_key="plain", tenant="anna").job_ids
        job = client.job(job_id)
        assert (job.priority, job.tenant) == (Priority.LOW, "anna")
        with pytest.raises(Refused) as active:
            client.delete(job_id)
        assert active.value.status == 409
        client.cancel(job_id)
        assert client.attempts(job_id) == []
        again = client.retry(job_id, idempotency_key="retry", tenant="anna")
        assert (again.retry_of, again.tenant) == (job_id, "anna")
        client.delete(job_id)
        with pytest.raises(Refused) as unknown:
            client.job(job_id)
        assert unknown.value.status == 404


def test_the_client_turns_pages(address: str) -> None:
    wanted = [WantedModel(name=f"org/page-{number}", hub="huggingface") for number in range(5)]
    with Client(address) as client:
        ids = client.submit(wanted, "pages").job_ids
        first = client.page(limit=2, newest_first=True)
        assert isinstance(first.next_cursor, str)
        second = client.page(first.next_cursor, limit=2, newest_first=True)
        assert [job.id for job in (*first.jobs, *second.jobs)] == ids[:0:-1]
        assert client.page(status=JobState.FAILED).jobs == []
        with pytest.raises(Refused, match=r"query\.cursor: .*no cursor"):
            client.page("garbage")


def test_the_client_sets_limits(address: str) -> None:
    with Client(address) as client:
        limit = client.put_limit(LimitScope.SERVICE, "*", bytes_per_s=1000)
        assert (limit.bytes_per_s, limit.max_running) == (1000, None)
        assert client.limits().limits == [limit]
        client.remove_limit(LimitScope.SERVICE, "*")
        with pytest.raises(Refused, match="No limit is set"):
            client.remove_limit(LimitScope.SERVICE, "*")


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
