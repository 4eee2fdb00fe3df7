"""`modelferry pull --ephemeral`: a whole service for one errand, of which nothing is left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.service import clean_environment
from tests.fakes.huggingface import FakeHuggingFace
from tests.terminal import Terminal

TOKEN = "hf_" + "t" * 20


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHuggingFace]:
    def weights(count: int, seed: int) -> dict[str, bytes]:
        return {"config.json": b"{}", "model.safetensors": random.Random(seed).randbytes(count)}

    with FakeHuggingFace(bytes_per_s=1_500_000) as hub:
        hub.add_repo("org/model", weights(1_000_000, 1))
        hub.add_repo("org/gated", weights(1000, 2), gated="manual")
        hub.add_repo("org/slow", weights(60_000_000, 3))
        hub.tokens[TOKEN] = {"org/gated"}
        yield hub


class Place:
    """A folder for models, a folder for temporary things, and an environment that knows of no other service."""

    def __init__(self, folder: Path, hub: FakeHuggingFace) -> None:
        self.models = folder / "models"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = clean_environment(folder) | {
            "HF_ENDPOINT": hub.endpoint, "TMPDIR": str(self.temporary), "MODELFERRY_CONNECTIONS": "1",
            # It must not be spoken to: the job is done at home.
            "MODELFERRY_URL": "http://127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1/0",
        }  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        pull = [sys.executable, "-P", "-m", "api.cli", "pull", "--ephemeral", "--models-dir", str(self.models)]
        return [*pull, *arguments]

    def family(self) -> list[psutil.Process]:
        """Every process that works for this place."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.temporary) in process.environ().get("TMPDIR", ""):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def check_that_nothing_is_left(self) -> None:
        assert self.family() == []
        assert list(self.temporary.iterdir()) == []
        assert not (self.models / ".modelferry" / "state").exists()


@pytest.fixture
def place(tmp_path: Path, hub: FakeHuggingFace) -> Iterator[Place]:
    place = Place(tmp_path, hub)
    yield place
    for process in place.family():
        process.kill()


OF_ANOTHER = {
    "MODELFERRY_ACCESS": "required",
    "MODELFERRY_API_KEY": "a-key-of-another-service",
    **{
        f"{name}_FILE": "/of/another/service"
        for name in ("MODELFERRY_ADMIN_KEY", "MODELFERRY_SECRET_KEY", "DATABASE_URL", "REDIS_URL")
    },
}
"""What is around where another service runs: none of it is this one's."""


def test_it_publishes_and_leaves(place: Place) -> None:
    done = subprocess.run(
        place.command("org/model", "org/gated", "--format", "json"),
        env=place.environment | {"HF_TOKEN": TOKEN} | OF_ANOTHER, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["jobs"]
    assert [job["status"] for job in jobs] == ["completed", "completed"]
    assert (Path(jobs[0]["path"]) / "model.safetensors").stat().st_size == 1_000_000
    assert Path(jobs[0]["path"]).is_relative_to(place.models)
    assert "org/model: completed" in done.stderr
    place.check_that_nothing_is_left()


@pytest.mark.slow
def test_a_failure_has_its_exit_code_and_leaves_nothing(place: Place) -> None:
    done = subprocess.run(
        place.command("org/gated"), env=place.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "HF_TOKEN" in done.stderr
    place.check_that_nothing_is_left()


def test_a_wrong_setting_is_told(place: Place) -> None:
    done = subprocess.run(
        place.command("org/model"), env=place.environment | {"MODELFERRY_CONVERT_SLOTS": "many"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6
    assert "MODELFERRY_CONVERT_SLOTS" in done.stderr
    place.check_that_nothing_is_left()


def test_ctrl_c_ends_everything_in_order(place: Place) -> None:
    with Terminal(place.command("org/slow"), place.environment) as terminal:
        terminal.read_until(lambda text: "fetching" in text, 120)
        terminal.press("\x03")
        terminal.press("\x03")
        assert terminal.end() == 130
    assert "What has arrived is kept" in terminal.text
    place.check_that_nothing_is_left()


@pytest.mark.slow
def test_sigterm_while_it_starts_ends_everything(place: Place) -> None:
    running = subprocess.Popen(
        place.command("org/slow"), env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        await_family(place, 4)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 128 + signal.SIGTERM, said
    finally:
        running.kill()
        running.communicate()
    place.check_that_nothing_is_left()


def test_when_it_is_killed_no_process_stays(place: Place) -> None:
    running = subprocess.Popen(
        place.command("org/slow"), env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await_family(place, 5)
        os.kill(running.pid, signal.SIGKILL)
    finally:
        running.kill()
        running.wait()
    until = time.monotonic() + 10
    while left := place.family():
        assert time.monotonic() < until, left
        time.sleep(0.1)


def await_family(place: Place, count: int) -> None:
    until = time.monotonic() + 60
    while len(place.family()) < count:
        assert time.monotonic() < until, "its processes have not come"
        time.sleep(0.1)
