"""SIGTERM, to real processes: what runs may end, what takes too long is given back, and nothing waits for anything else."""

import io
import os
import random
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command

from common.artefacts.manifest import check_published
from common.store.database import Database
from migrations.command import configuration
from tests.e2e.conftest import PLUGINS
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

MIB = 1024 * 1024
DOWNLOADS = ("redis", "api", "download", "reconcile")
READY = "worker.ready"


@contextmanager
def downloads(
    folder: Path, seconds: float, run: tuple[str, ...] = DOWNLOADS, size: int = 12 * MIB, **variables: str
) -> Iterator[tuple[Service, FakeHuggingFace]]:
    """A service whose fetches of `org/model-<n>` take about so long."""
    with FakeHuggingFace(bytes_per_s=max(1, int(size / seconds / 2))) as hub:
        for number in range(4):
            content = bytes([number]) + os.urandom(size - 1)
            hub.add_repo(f"org/model-{number}", {"model.safetensors": content, "config.json": b"{}"})
        hub.add_repo("org/tiny", {"config.json": b"{}"})
        settings = {
            "HF_ENDPOINT": hub.endpoint, "ENABLED_PLUGINS": "huggingface",
            "MODELFERRY_CONNECTIONS": "2", "MODELFERRY_BLOCK_MB": "1",
        }  # fmt: skip
        with Service(folder, run=run, **{**settings, **variables}) as service:
            workers = sum(name.partition("-")[0] == "download" for name in run)
            service.wait_until(lambda: service.log.read_text().count(READY) == workers, 40, "ready workers")
            yield service, hub


def fetch(service: Service, name: str = "org/model-0") -> str:
    (job_id,) = service.submit({"name": name, "hub": "huggingface"})
    return job_id


def moving(job: dict[str, Any]) -> bool:
    return bool(job["progress"]["bytes_done"] > 2 * MIB)


def ask_to_end(service: Service, name: str) -> float:
    os.kill(service.pid(name), signal.SIGTERM)
    return time.monotonic()


def ended_after(service: Service, name: str, since: float, timeout_s: float) -> float:
    service.wait_until(lambda: not service.is_running(name), timeout_s, f"ended: {name}")
    return time.monotonic() - since


def attempts(service: Service, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/jobs/{job_id}/attempts").json()["attempts"]
    return found


def pid_of(attempt: dict[str, Any]) -> int:
    return int(attempt["worker"].split("/")[3])


def states(service: Service) -> list[str]:
    return [worker["state"] for worker in service.get("/workers").json()["workers"]]


def test_what_ends_in_time_is_settled_by_the_worker_that_drains(tmp_path: Path) -> None:
    with downloads(tmp_path, 3.0, MODELFERRY_DRAIN_S="10") as (service, _):
        job_id = fetch(service)
        service.wait_for(job_id, moving)
        drained = service.pid("download")
        asked = ask_to_end(service, "download")
        service.wait_until(lambda: states(service) == ["draining"], 2, "shown as draining")
        waiting = fetch(service, "org/tiny")
        took = ended_after(service, "download", asked, 12)
        assert 0.5 < took < 10, "it waits for its stage, and for nothing else"
        fetched, *_ = attempts(service, job_id)
        assert (fetched["stage"], fetched["outcome"], pid_of(fetched)) == ("fetch", "succeeded", drained)
        assert attempts(service, waiting) == [], "it claims nothing more"
        assert states(service) == []
        service.start("download")
        for one in (job_id, waiting):
            assert service.wait(one)["status"] == "completed"


@pytest.mark.slow
def test_what_takes_longer_is_given_back_and_goes_on_elsewhere_with_its_bytes(tmp_path: Path) -> None:
    run = (*DOWNLOADS, "download-2")
    with downloads(tmp_path, 6.0, run, size=24 * MIB, MODELFERRY_DRAIN_S="2") as (service, hub):
        job_id = fetch(service)
        service.wait_for(job_id, moving)
        first = pid_of(attempts(service, job_id)[0])
        drained, other = sorted(("download", "download-2"), key=lambda name: service.pid(name) != first)
        other_pid = service.pid(other)
        took = ended_after(service, drained, ask_to_end(service, drained), 17)
        assert 2.0 <= took < 8.0
        assert service.wait(job_id)["status"] == "completed"
        fetches = [one for one in attempts(service, job_id) if one["stage"] == "fetch"]
        assert [(one["outcome"], pid_of(one)) for one in fetches] == [("released", first), ("succeeded", other_pid)]
        assert hub.requests.bytes_served(origin="cdn") < 24 * MIB + 5 * MIB, "no more than what was on its way"
        assert check_published(service.models_dir / "huggingface/org_model-0", rehash=True) == []


def test_asked_again_it_hands_back_at_once(tmp_path: Path) -> None:
    with downloads(tmp_path, 20.0, MODELFERRY_DRAIN_S="600") as (service, _):
        job_id = fetch(service)
        service.wait_for(job_id, moving)
        ask_to_end(service, "download")
        time.sleep(1.5)
        assert service.is_running("download")
        took = ended_after(service, "download", ask_to_end(service, "download"), 10)
        assert took < 5
        assert [one["outcome"] for one in attempts(service, job_id)] == ["released"]


@pytest.mark.slow
def test_a_conversion_ends_in_the_worker_that_drains(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "org" / "slow"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with Service(tmp_path, ENABLED_PLUGINS="folder,noisy", PYTHONPATH=str(PLUGINS), MODELFERRY_DRAIN_S="10") as service:
        config = {"mood": "slow", "seconds": 3, "root": str(tmp_path / "hub")}
        wish = {"name": "org/slow", "hub": "folder", "type": "llm", "is_ovms": True, "config": config}
        (job_id,) = service.submit(wish)
        service.wait_for(job_id, lambda job: job["progress"]["phase"] == "converting")
        took = ended_after(service, "convert", ask_to_end(service, "convert"), 12)
        assert 1 < took < 9
        assert [(one["stage"], one["outcome"]) for one in attempts(service, job_id)] == [
            ("fetch", "succeeded"), ("convert", "succeeded"),
        ]  # fmt: skip
        service.start("convert")
        assert service.wait(job_id)["status"] == "completed"


@pytest.mark.slow
def test_the_work_behind_it_goes_to_others_without_a_reconciler(tmp_path: Path) -> None:
    """One fetch at a time is allowed: who looked while it ran found nothing, and must hear when there is something."""
    run = ("redis", "api", "download", "download-2")
    with downloads(tmp_path, 3.0, run, MODELFERRY_DRAIN_S="20") as (service, _):
        limited = httpx.put(f"{service.url()}/limits/hub/huggingface", json={"max_running": 1}, trust_env=False)
        assert limited.is_success, limited.text
        jobs = [fetch(service, f"org/model-{number}") for number in range(3)]
        service.wait_until(lambda: any(moving(service.job(job)) for job in jobs), 20, "a fetch that runs")
        (running,) = [job for job in jobs if attempts(service, job)]
        holder = pid_of(attempts(service, running)[0])
        drained = "download" if service.pid("download") == holder else "download-2"
        ended_after(service, drained, ask_to_end(service, drained), 25)
        ended = time.monotonic()
        others = [job for job in jobs if job != running]
        service.wait_until(lambda: any(attempts(service, job) for job in others), 3, "claimed by the other one")
        assert time.monotonic() - ended < 3
        for job in jobs:
            assert service.wait(job)["status"] == "completed"
            assert {one["number"] for one in attempts(service, job)} == {1}


@pytest.mark.slow
def test_a_queue_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    with downloads(tmp_path, 4.0, MODELFERRY_DRAIN_S="15") as (service, _):
        job_id = fetch(service)
        service.wait_for(job_id, moving)
        service.kill("redis")
        time.sleep(1.0)
        took = ended_after(service, "download", ask_to_end(service, "download"), 25)
        assert took < 20
        assert attempts(service, job_id)[0]["outcome"] == "succeeded"


@pytest.mark.slow
def test_asked_to_end_at_any_moment_it_charges_nobody(tmp_path: Path) -> None:
    """Between claim and child, in mid-stage, while it settles: two workers, ended again and again under small jobs."""
    chance = random.Random(7)
    run = (*DOWNLOADS, "download-2")
    with FakeHuggingFace() as hub:
        for number in range(120):
            hub.add_repo(f"org/m{number}", {"config.json": b"{}", "weights.bin": os.urandom(20_000)})
        settings = {"HF_ENDPOINT": hub.endpoint, "ENABLED_PLUGINS": "huggingface", "MODELFERRY_DRAIN_S": "0.3"}
        with Service(tmp_path, run=run, **settings) as service:
            jobs = [fetch(service, f"org/m{number}") for number in range(120)]
            for turn in range(10):
                name = ("download", "download-2")[turn % 2]
                starts = service.log.read_text().count(READY)
                time.sleep(chance.uniform(0.0, 0.5))
                assert service.terminate(name, timeout_s=20) == 0
                service.start(name)
                service.wait_until(lambda starts=starts: service.log.read_text().count(READY) > starts, 30, "ready")
            for job in jobs:
                assert service.wait(job)["status"] == "completed"
            outcomes = {one["outcome"] for job in jobs for one in attempts(service, job)}
            assert outcomes <= {"succeeded", "released"}, outcomes
            assert "stage.taken_back" not in service.log.read_text()


def test_the_reconciler_ends_between_two_rounds(tmp_path: Path) -> None:
    settings = {"MODELFERRY_RECONCILE_S": "30", "MODELFERRY_LEASE_S": "130"}
    with Service(tmp_path, run=("redis", "reconcile"), **settings) as service:
        time.sleep(3.0)
        asked = time.monotonic()
        assert service.terminate("reconcile") == 0
        assert time.monotonic() - asked < 3


def test_an_api_says_first_that_it_goes_and_answers_meanwhile(tmp_path: Path) -> None:
    with downloads(tmp_path, 30.0, MODELFERRY_DRAIN_S="8") as (service, _):
        job_id = fetch(service)
        assert service.get("/ready").status_code == 200
        ends: list[float] = []
        listening = threading.Thread(target=lambda: ends.append(stream_end(service, job_id)))
        listening.start()
        service.wait_for(job_id, moving)
        asked = ask_to_end(service, "api")
        going = service.get("/ready")
        assert (going.status_code, going.json()["parts"]["process"]) == (
            503,
            "This process is going away; ask another one.",
        )
        for _ in range(5):
            answer = service.get(f"/jobs/{job_id}")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            time.sleep(0.5)
        assert not ends, "streams go on until it closes its doors"
        took = ended_after(service, "api", asked, 12)
        assert 4.0 <= took < 7.0, "half of its time, and then nobody is there to wait for"
        listening.join(5)
        assert ends
        assert ends[0] - asked < 6


@pytest.mark.slow
def test_an_upload_that_is_on_its_way_gets_to_its_end(tmp_path: Path) -> None:
    with Service(tmp_path, run=("redis", "api"), MODELFERRY_DRAIN_S="12") as service:
        form = a_form()
        answers: list[httpx.Response] = []
        sending = threading.Thread(target=lambda: answers.append(slow_upload(service, form, 8.0)))
        sending.start()
        time.sleep(1.0)
        asked = ask_to_end(service, "api")
        took = ended_after(service, "api", asked, 16)
        sending.join(5)
        assert [answer.status_code for answer in answers] == [200], answers[0].text
        assert 6.5 < took < 12


def test_an_api_that_is_asked_again_waits_no_longer(tmp_path: Path) -> None:
    with Service(tmp_path, run=("redis", "api"), MODELFERRY_DRAIN_S="60") as service:
        ask_to_end(service, "api")
        time.sleep(1.0)
        assert service.get("/health").status_code == 200
        assert ended_after(service, "api", ask_to_end(service, "api"), 5) < 2


@pytest.mark.parametrize("part", ["api", "download", "reconcile"])
def test_nothing_starts_on_tables_that_are_too_old(tmp_path: Path, part: str) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    command.upgrade(configuration(url), "0005")
    service = Service(tmp_path, run=(), database_url=url, ENABLED_PLUGINS="huggingface")
    try:
        service.start(part)
        service.wait_until(lambda: not service.is_running(part), 20, "ended")
        assert service._processes[part].wait(1) == 2
        assert "The tables are of migration 0005, and this release needs" in service.tail()
    finally:
        service.__exit__(None, None, None)


@pytest.mark.slow
def test_everything_starts_on_tables_that_are_newer(tmp_path: Path) -> None:
    with downloads(tmp_path, 1.0) as (service, _):
        database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        for name in ("api", "download", "reconcile"):
            service.terminate(name)
            service.start(name)
        service.await_ready()
        assert service.wait(fetch(service))["status"] == "completed"
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0005'")
        database.dispose()
        lacking = service.get("/ready")
        assert lacking.status_code == 503
        assert "migration 0005" in lacking.json()["parts"]["database"]


def stream_end(service: Service, job_id: str) -> float:
    """When a stream of events ended, in order."""
    with httpx.stream("GET", f"{service.url()}/jobs/{job_id}/events", trust_env=False, timeout=60) as answer:
        for _ in answer.iter_bytes():
            pass
    return time.monotonic()


def a_form() -> tuple[bytes, str]:
    """The body of an upload, and its kind."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("model.xml", "<net/>")
        archive.writestr("model.bin", os.urandom(200_000))
    request = httpx.Request(
        "POST", "http://there", files={"file": ("model.zip", made.getvalue())}, data={"model_name": "My Model"}
    )
    return request.read(), request.headers["Content-Type"]


def slow_upload(service: Service, form: tuple[bytes, str], seconds: float) -> httpx.Response:
    """Send a form bit by bit."""
    body, kind = form

    def bits() -> Iterator[bytes]:
        step = len(body) // 16 + 1
        for start in range(0, len(body), step):
            yield body[start : start + step]
            time.sleep(seconds / 16)

    headers = {"Content-Type": kind, "Content-Length": str(len(body))}
    return httpx.post(f"{service.url()}/models/upload", content=bits(), headers=headers, trust_env=False, timeout=60)
