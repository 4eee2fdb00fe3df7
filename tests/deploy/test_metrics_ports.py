"""Real processes, looked at from outside: what they count, and whether they say truly how they are."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.embedded.process import Process, python
from api.embedded.redis_server import LOOPBACK, free_port
from common.settings import Settings
from tests.deploy.promql import ROOT, alerts, asked, base_name, expressions, grouped_by, recorded
from tests.deploy.scrapes import BYTES, MODEL, TELLING, Watched, families, value, watched_service
from tests.fakes.faults import Fault, Throttle
from tests.fakes.traffic import Match


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_service(tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.mark.parametrize("name", TELLING)
def test_each_process_is_alive_and_ready_and_tells_its_part(watched: Watched, name: str) -> None:
    assert watched.ask(name, "/healthz").json()["status"] == "alive"
    ready = watched.ask(name, "/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready"), ready.text
    assert value(watched.scrape(name), "modelferry_build_info", part=name) == 1
    assert (watched.ask(name, "/").status_code, watched.ask(name, "/jobs").status_code) == (404, 404)
    with httpx.Client(trust_env=False) as client:
        assert client.post(f"http://{LOOPBACK}:{watched.ports[name]}/metrics").status_code == 501


def test_a_worker_counts_what_its_children_have_fetched_and_heard(watched: Watched) -> None:
    found = watched.scrape("download")
    assert value(found, "modelferry_download_bytes_total", hub="huggingface") == BYTES
    answered = {sample.labels["code"]: sample.value for sample in found["modelferry_upstream_responses"].samples}
    heard = Counter(f"{request.status // 100}xx" for request in watched.hub.requests)
    assert answered == heard
    assert answered["4xx"] >= 1
    assert value(found, "modelferry_stages_total", kind="fetch", hub="huggingface", outcome="failed") == 1
    assert value(found, "modelferry_cache_requests_total", result="miss") == 1


def test_the_api_tells_of_the_whole_service(watched: Watched) -> None:
    done = {"operation": "download", "hub": "huggingface"}
    watched.await_value("api", "modelferry_jobs_total", 1, **done, outcome="failed")
    watched.await_value("api", "modelferry_jobs_total", 2, **done, outcome="completed")
    watched.await_value("api", "modelferry_workers", 1, pool="download", state="ready")
    watched.await_value("api", "modelferry_gate_ready", 1, gate="ready-soon")
    found = watched.scrape("api")
    assert 500 < (value(found, "modelferry_upstream_backoff_seconds", hub="ollama") or 0) <= 600
    assert value(found, "modelferry_queue_depth", pool="convert", state="waiting") == 0
    assert value(found, "modelferry_database_up") == value(found, "modelferry_redis_up") == 1
    assert 0 < (value(found, "modelferry_volume_free_bytes") or 0) < (value(found, "modelferry_volume_size_bytes") or 0)
    # What people edit in place is no link to the store: it is told as content that nobody shows.
    assert (value(found, "modelferry_cache_bytes", state="published") or 0) == BYTES - 2
    assert (value(found, "modelferry_http_requests_total", operation="put_gate", method="PUT", status="2xx")) == 1


def told(watched: Watched) -> dict[str, dict[str, set[str]]]:
    """Metric -> its labels -> their values, from all processes."""
    found: dict[str, dict[str, set[str]]] = {}
    for name in TELLING:
        for family in watched.scrape(name).values():
            labels = found.setdefault(family.name, {})
            for sample in family.samples:
                for label, known in sample.labels.items():
                    labels.setdefault(label, set()).add(known)
    return found


def test_rules_and_dashboard_ask_only_for_what_is_told(watched: Watched) -> None:
    known = told(watched)
    handlers = [one for route in create_app(Settings()).routes for one in getattr(route, "route_handlers", [])]
    operations = {str(handler.handler_name) for handler in handlers} | {"mcp"}
    records = recorded()
    for where, expression in expressions().items():
        labels = {"namespace", "instance"}
        for metric, chosen in asked(expression):
            if metric in records:
                labels |= {label for one in known.values() for label in one}
                continue
            assert base_name(metric) in known, f"{where}: nobody tells {metric}"
            labels |= known[base_name(metric)].keys()
            assert chosen.keys() <= {"namespace", *known[base_name(metric)]}, f"{where}: {metric} {chosen}"
            for label in chosen.keys() & {"outcome", "state", "result", "part"}:
                values = set(chosen[label].split("|"))
                assert values <= known[base_name(metric)][label], f"{where}: {metric} {label}={values}"
            if "operation" in chosen:
                wanted = set(chosen["operation"].replace(".*", "").split("|"))
                assert wanted <= operations, f"{where}: {wanted - operations}"
        assert grouped_by(expression) <= labels, f"{where}: {grouped_by(expression) - labels}"


def test_the_documentation_names_every_metric_as_it_is_told(watched: Watched) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(modelferry_\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    exposed = {}
    for process in TELLING:
        for family in watched.scrape(process).values():
            if not family.name.startswith("process_"):
                labels = {label for sample in family.samples for label in sample.labels} - {"le"}
                name = f"{family.name}_total" if family.type == "counter" else family.name
                exposed[name] = (family.type, labels)
    assert documented == exposed
    for rule in alerts():
        assert f"`{rule['alert']}`" in page, f"{rule['alert']} is not in docs/monitoring.md"


def test_what_is_in_the_store_already_is_not_counted_as_fetched(watched: Watched) -> None:
    (job_id,) = watched.service.submit({"name": MODEL, "hub": "huggingface"}, download_path="again")
    assert watched.service.wait(job_id)["status"] == "completed"
    found = watched.scrape("download")
    assert value(found, "modelferry_download_bytes_total", hub="huggingface") == BYTES
    assert (value(found, "modelferry_cache_requests_total", result="hit") or 0) >= 1


@pytest.mark.slow
def test_resumed_bytes_do_not_count(watched: Watched) -> None:
    size = 24_000_000
    watched.hub.add_repo("demo/slow", {"model.safetensors": b"y" * size})
    watched.start("download-2", MODELFERRY_BLOCK_MB="1", MODELFERRY_CONNECTIONS="2")
    watched.await_ready("download-2")
    watched.service.kill("download")
    slow = watched.hub.add_fault(Fault(kind=Throttle(6_000_000), match=Match("/repos/demo/slow*", origin="cdn")))
    (job_id,) = watched.service.submit({"name": "demo/slow", "hub": "huggingface"})
    watched.service.wait_for(job_id, lambda job: job["progress"]["bytes_done"] > size / 3)
    watched.service.kill("download-2")
    watched.hub.remove_fault(slow)
    watched.start("download")
    assert watched.service.wait(job_id)["status"] == "completed"
    (told,) = [
        line for line in watched.service.lines("download") if "source.fetched" in line and f"bytes={size}" in line
    ]
    resumed = int(re.findall(r"resumed_bytes=(\d+)", told)[0])
    assert resumed > 0
    assert value(watched.scrape("download"), "modelferry_download_bytes_total", hub="huggingface") == size - resumed


def test_a_process_that_is_stopped_answers_nobody(watched: Watched) -> None:
    watched.service.pause("reconcile")
    try:
        with pytest.raises(httpx.TimeoutException):
            watched.ask("reconcile", "/healthz", timeout_s=0.5)
    finally:
        watched.service.resume("reconcile")
    assert watched.ask("reconcile", "/healthz").status_code == 200


def test_without_redis_a_worker_lives_and_is_not_ready(watched: Watched) -> None:
    watched.service.kill("redis")
    try:
        watched.service.wait_until(lambda: watched.ask("download", "/readyz").status_code == 503, 10, "told")
        told = watched.ask("download", "/readyz").json()
        assert (told["status"], told["parts"]["redis"]) == ("not ready", "Redis does not answer.")
        assert watched.ask("download", "/healthz").status_code == 200
        assert watched.ask("api", "/readyz").status_code == 200
        watched.await_value("reconcile", "modelferry_redis_up", 0)
    finally:
        watched.service.start("redis")
        watched.service.await_redis()
    watched.await_ready("download")


def test_an_api_that_is_going_away_is_not_ready(watched: Watched) -> None:
    watched.service._processes["api"].ask_to_end()
    watched.service.wait_until(lambda: watched.ask("api", "/readyz").status_code == 503, 2, "told")
    assert "going away" in watched.ask("api", "/readyz").json()["parts"]["staying"]
    assert watched.ask("api", "/healthz").status_code == 200
    assert watched.service.terminate("api") in {0, -signal.SIGTERM}
    watched.start("api")
    watched.service.await_health()


@pytest.mark.slow
def test_several_processes_behind_one_port_tell_one_story(watched: Watched, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    port, metrics = free_port(), free_port()
    command = python("uvicorn", "api.asgi:app", "--workers", "2", "--port", str(port))
    own = {"PROMETHEUS_MULTIPROC_DIR": str(shared), "MODELFERRY_METRICS_PORT": str(metrics)}
    server = Process("pair", command, {**watched.service._environment, **own}, watched.service._console)

    def writers() -> set[str]:
        return {file.stem.rpartition("_")[2] for file in shared.iterdir()}

    server.start()
    try:
        watched.service.wait_until(lambda: _answer(port, "/health") and len(writers()) == 2, 60, "a pair")
        for _ in range(30):
            assert _answer(port, "/jobs")
        found = families(_answer(metrics, "/metrics") or "")
        assert value(found, "modelferry_http_requests_total", operation="list_jobs") == 30
        assert value(found, "modelferry_build_info", part="api") == 1
        assert value(found, "modelferry_workers", pool="download", state="ready") == 1
        assert "process_cpu_seconds" not in found
        for writer in writers():
            # Whoever had the port is among them; the server starts another one for each.
            os.kill(int(writer), signal.SIGKILL)
        watched.service.wait_until(lambda: _answer(metrics, "/metrics"), 120, "taken over")
        found = families(_answer(metrics, "/metrics") or "")
        assert value(found, "modelferry_http_requests_total", operation="list_jobs") == 30
    finally:
        server.kill()


def _answer(port: int, path: str) -> str | None:
    """On a connection of its own: whichever process is free takes it."""
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}{path}", trust_env=False, timeout=10).text
    except httpx.TransportError:
        return None
