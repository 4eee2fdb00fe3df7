"""`modelferry up`, for real: it starts everything, keeps it running, stops all of it, and keeps its state."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from api.embedded.redis_server import LOOPBACK, free_port
from tests.e2e.service import clean_environment

pytestmark = pytest.mark.slow

PARTS = {"redis", "api", "download", "convert", "reconcile"}


class Up:
    """One run of `modelferry up`."""

    def __init__(self, folder: Path, port: int, **variables: str) -> None:
        self.models_dir = folder / "models"
        self.address = f"http://{LOOPBACK}:{port}"
        self._log = folder / f"up-{port}.log"
        command = [sys.executable, "-P", "-m", "api.cli", "up", "--models-dir", str(self.models_dir)]
        # No converter: its libraries take seconds to load, and `up` treats all workers alike.
        environment = clean_environment(folder) | {"ENABLED_PLUGINS": "huggingface", **variables}
        with self._log.open("a") as log:
            self.process = psutil.Popen(
                [*command, "--host", LOOPBACK, "--port", str(port)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def part(self, *words: str) -> psutil.Process | None:
        """The process of ours whose command line ends with these words."""
        for child in self.process.children():
            try:
                if tuple(child.cmdline()[-len(words) :]) == words:
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(self.address + path, trust_env=False, timeout=5)
        except httpx.TransportError:
            return None

    def is_ready(self) -> bool:
        answer = self.get("/ready")
        return answer is not None and answer.status_code == httpx.codes.OK

    def await_ready(self) -> None:
        self.wait_until(self.is_ready, 60, "ready")

    def wait_until(self, fulfilled: Callable[[], object], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s
        while not fulfilled():
            assert self.process.is_running(), f"it has ended\n{self.output}"
            assert time.monotonic() < until, f"not {what} after {timeout_s} s\n{self.output}"
            time.sleep(0.05)


@contextmanager
def up(folder: Path, port: int | None = None, **variables: str) -> Iterator[Up]:
    run = Up(folder, port or free_port(), **variables)
    try:
        yield run
    finally:
        family = [*run.process.children(recursive=True), run.process] if run.process.is_running() else []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        run.process.wait()
        print(f"--- output of modelferry up ---\n{run.output}")


def submit(run: Up) -> str:
    model = {"name": "org/model", "hub": "huggingface"}
    answer = httpx.post(
        f"{run.address}/api/v1/models/download",
        params={"download_path": "."},
        json={"models": [model]},
        trust_env=False,
    )
    assert answer.is_success, answer.text
    return str(answer.json()["job_ids"][0])


def test_it_starts_everything_survives_crashes_and_stops_all_of_it(tmp_path: Path) -> None:
    port = free_port()
    # Nothing listens there: the job that is submitted stays unfinished.
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    with up(tmp_path, port, HF_ENDPOINT=nowhere) as run:
        run.await_ready()
        run.wait_until(lambda: f"ready at {run.address}" in run.output, 5, "telling that it is ready")
        assert str(run.models_dir) in run.output
        assert f"{run.address}/docs" in run.output
        job_id = submit(run)

        api = run.part("api.asgi")
        assert api is not None
        api.kill()
        run.wait_until(lambda: "api was ended by SIGKILL; starting it again in 1 s" in run.output, 5, "reporting it")
        run.wait_until(lambda: run.part("api.asgi") not in {None, api} and run.is_ready(), 30, "ready again")

        redis = next(child for child in run.process.children() if "-server" in child.cmdline()[0])
        redis.kill()
        run.wait_until(lambda: "redis was ended by SIGKILL" in run.output, 5, "reporting it")
        run.await_ready()

        family = run.process.children(recursive=True)
        assert len(family) >= len(PARTS)
        begun = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(40) == 0
        assert time.monotonic() - begun < 25, "it should not have had to kill anybody"
        assert "is killed" not in run.output
        assert [process for process in family if process.is_running()] == []

    with up(tmp_path, port, HF_ENDPOINT=nowhere) as run:
        run.await_ready()
        answer = run.get(f"/api/v1/jobs/{job_id}")
        assert answer is not None
        assert answer.status_code == httpx.codes.OK
        jobs = run.get("/api/v1/jobs")
        assert jobs is not None
        assert [job["id"] for job in jobs.json()["jobs"]] == [job_id]


def test_a_second_one_on_the_same_models_or_the_same_port_is_refused(tmp_path: Path) -> None:
    with up(tmp_path) as first:
        first.await_ready()
        with up(tmp_path) as second:
            assert second.process.wait(20) == 2
            assert (
                f"Another 'modelferry up' (process {first.process.pid}) serves this models directory" in second.output
            )
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        with up(elsewhere, int(first.address.rpartition(":")[2])) as third:
            assert third.process.wait(20) == 2
            assert "Address already in use" in third.output
            assert not any((third.models_dir / ".modelferry" / "state").glob("*.db"))
        assert first.is_ready()


def test_a_second_interrupt_does_not_wait_for_anybody(tmp_path: Path) -> None:
    with up(tmp_path) as run:
        run.await_ready()
        worker = run.part("worker", "download")
        assert worker is not None
        family = run.process.children(recursive=True)
        worker.suspend()
        run.process.send_signal(signal.SIGINT)
        run.wait_until(lambda: run.part("worker", "convert") is None, 15, "stopping the workers")
        assert run.process.is_running()
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(5) == 0
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []


def test_when_it_is_killed_nothing_of_it_stays(tmp_path: Path) -> None:
    with up(tmp_path) as run:
        run.await_ready()
        family = run.process.children(recursive=True)
        run.process.kill()
        run.process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []


def test_a_wrong_setting_is_named_before_anything_starts(tmp_path: Path) -> None:
    with up(tmp_path, MODELFERRY_CONVERT_SLOTS="many") as run:
        assert run.process.wait(20) == 2
        assert "MODELFERRY_CONVERT_SLOTS='many'" in run.output
    assert not (tmp_path / "models").exists()


def test_a_redis_url_where_nothing_listens_is_refused(tmp_path: Path) -> None:
    with up(tmp_path, REDIS_URL=f"redis://:secret@{LOOPBACK}:{free_port()}/0") as run:
        assert run.process.wait(20) == 2
        assert "REDIS_URL" in run.output
        assert "secret" not in run.output


def test_redis_starts_anew_when_its_data_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "models" / ".modelferry" / "state" / "redis" / "appendonlydir"
    broken.mkdir(parents=True)
    (broken / "appendonly.aof.manifest").write_text("this is no manifest\n")
    with up(tmp_path) as run:
        run.await_ready()
        assert "Redis does not start with its old data" in run.output


def test_the_version_is_told() -> None:
    command = [sys.executable, "-P", "-m", "api.cli", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "0.1.0"
