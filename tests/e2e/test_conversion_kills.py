"""The child of a conversion is killed at random moments: nothing half-made is ever seen, and nothing is left."""

import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psutil
import pytest

from common.artefacts.manifest import check_published
from tests.e2e.service import ENDED, Service
from tests.e2e.test_crashes import alive
from tests.fakes.huggingface import FakeHuggingFace

KILLS = 30
AT_A_TIME = 3
PRECISIONS = ("int8", "fp16")
_LOOK_S = 0.005
_LUCK = 1.6
"""So that now and then one gets away: two at a time take longer than one alone."""


class Killer:
    """Kills children of the convert worker, each at a random moment of the life that it would have had."""

    def __init__(self, server: psutil.Process, chance: random.Random, kills: int) -> None:
        self.killed: list[float] = []
        """After how many seconds, each."""
        self._server = server
        self._chance = chance
        self._left = kills
        self._longest_s = 0.0
        self._born: dict[psutil.Process, float] = {}
        self._due: dict[psutil.Process, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @property
    def done(self) -> bool:
        return not self._left

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def learn(self) -> None:
        """Watch a child live to its end, to know how long that takes."""
        until = time.monotonic() + 60
        while not (children := self._server.children()):
            assert time.monotonic() < until, "no conversion began"
            time.sleep(_LOOK_S)
        born = time.monotonic()
        while alive_now(children[0]):
            time.sleep(_LOOK_S)
        self._longest_s = time.monotonic() - born

    def _work(self) -> None:
        while self._left and not self._stop.wait(_LOOK_S):
            for child in self._server.children():
                if child not in self._born:
                    self._born[child] = time.monotonic()
                    self._due[child] = time.monotonic() + self._chance.uniform(0, _LUCK * self._longest_s)
                if time.monotonic() >= self._due[child] and self._left:
                    # One that is dying is still there for a while, and dies only once.
                    self._due[child] = math.inf
                    self._kill(child)

    def _kill(self, child: psutil.Process) -> None:
        if alive_now(child):
            child.kill()
            self._left -= 1
            self.killed.append(round(time.monotonic() - self._born[child], 2))


class Sights:
    """What a reader of the volume has seen: every folder of a model, and whatever was wrong with one."""

    def __init__(self, root: Path) -> None:
        self.folders: set[Path] = set()
        self.wrong: list[str] = []
        self._root = root

    def look(self) -> None:
        for folder in self._root.glob("openvino_models/*/*/*/*"):
            self.folders.add(folder)
            self.wrong += check_published(folder)


@contextmanager
def watched(root: Path) -> Iterator[Sights]:
    """Look all the time."""
    sights = Sights(root)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_LOOK_S):
            sights.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sights
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thirty_kills_publish_nothing_and_leave_nothing(tmp_path: Path, tiny: SimpleNamespace) -> None:
    seed = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"the moments are those of KILLS_SEED={seed}")
    with FakeHuggingFace() as hub, Service(
        tmp_path, HF_ENDPOINT=hub.endpoint, MODELFERRY_CONVERT_SLOTS=str(AT_A_TIME - 1)
    ) as service:  # fmt: skip
        (server,) = psutil.Process(service.pid("convert")).children()
        killer = Killer(server, random.Random(seed), KILLS)
        wanted = wishes(hub, tiny.bert)
        (undisturbed,) = service.submit(next(wanted))
        killer.learn()
        assert service.wait(undisturbed)["status"] == "completed"
        jobs: dict[str, dict[str, Any]] = {}
        with watched(service.models_dir) as sights, killer:
            while not killer.done:
                jobs.update({job_id: service.job(job_id) for job_id, job in jobs.items() if not ended(job)})
                while sum(not ended(job) for job in jobs.values()) < AT_A_TIME:
                    (job_id,) = service.submit(next(wanted))
                    jobs[job_id] = service.job(job_id)
                time.sleep(0.05)
            jobs = {job_id: service.wait(job_id) for job_id in jobs}
            sights.look()
        print(f"killed after {sorted(killer.killed)} s; {[outcome(job) for job in jobs.values()]}")

        assert len(killer.killed) == KILLS
        assert {outcome(job) for job in jobs.values()} <= {
            ("completed", None),
            ("failed", "child_crashed"),
        }
        assert sights.wrong == []
        published = {Path(job["path"]) for job in jobs.values() if job["status"] == "completed"}
        assert sights.folders - {Path(service.job(undisturbed)["path"])} == published
        for folder in published:
            assert check_published(folder, rehash=True) == []
        service.wait_until(lambda: not server.children(recursive=True), 3, "the last child gone")
        assert psutil.Process(service.pid("convert")).children(recursive=True) == [server]
        service.wait_until(
            lambda: not list((service.models_dir / ".modelferry/work").iterdir()), 3, "no workspace left"
        )


def test_the_child_of_a_conversion_is_shut_in(world: SimpleNamespace, tiny: SimpleNamespace) -> None:
    service = world.service
    (server,) = psutil.Process(service.pid("convert")).children()
    (job_id,) = service.submit(next(wishes(world.hub, tiny.bert)), download_path="shut-in")
    filtered, environments = set(), set()
    while not ended(job := service.job(job_id)):
        for child in server.children():
            with suppress(OSError):
                own = Path(f"/proc/{child.pid}")
                filtered |= {line for line in own.joinpath("status").read_text().splitlines() if "Seccomp:" in line}
                environments.add(own.joinpath("environ").read_text())
        time.sleep(_LOOK_S)
    assert job["status"] == "completed", job
    assert "Seccomp:\t2" in filtered, "no process without a network was seen"
    assert environments
    for name in ("DATABASE_URL", "REDIS_URL", "HF_ENDPOINT", "MODELS_DIR", "HF_TOKEN"):
        assert not any(f"{name}=" in environment for environment in environments)


def wishes(hub: FakeHuggingFace, model: Path) -> Iterator[dict[str, Any]]:
    """Conversions of a model whose content nobody has seen before, one after the other."""
    number = 0
    while True:
        name = f"kills/model-{number}"
        hub.add_directory(name, model)
        hub.commit(name, {"number.txt": str(number).encode()})
        for precision in PRECISIONS:
            yield {
                "name": name, "hub": "openvino", "type": "embeddings", "is_ovms": True,
                "config": {"precision": precision},
            }  # fmt: skip
        number += 1


def outcome(job: dict[str, Any]) -> tuple[str, str | None]:
    return job["status"], job.get("error_code")


def ended(job: dict[str, Any]) -> bool:
    return job["status"] in ENDED


def alive_now(process: psutil.Process) -> bool:
    try:
        return alive(process)
    except psutil.NoSuchProcess:
        return False
