"""The limit's breach, the system's want of memory and a crash are three different ends."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.outcome import Failed, Retry
from common.records import Claim
from common.vocabulary import Pool, StageKind
from tests.integration.forkserver_jobs import ANY
from worker.autopsy import cause_of_death, over_limit
from worker.forkserver import Child, ForkServer
from worker.machine import Machine, MemoryWatch, hard_limit, private_bytes, used_bytes

ROOT = Path(__file__).parents[2]
JOBS = "tests.integration.memory_jobs"
MB = 1024 * 1024
LIMIT = 100 * MB
PATIENCE_S = 20.0
CLAIM = Claim(stage_id="s", kind=StageKind.CONVERT, pool=Pool.CONVERT, attempt=1, owner="o", work={})


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with ForkServer((JOBS,), environment, logging.getLogger("test.memory")) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def spawn(server: ForkServer, job: str, log: Path, limit: int | None = LIMIT) -> Child:
    memory_bytes = None if limit is None else hard_limit(limit)
    return server.spawn(f"{JOBS}:{job}", b"", log=log, memory_bytes=memory_bytes)


def watch(server: ForkServer, child: Child, limit: int | None = LIMIT) -> MemoryWatch:
    assert server.pid is not None
    return MemoryWatch(limit, child.pid, private_bytes(server.pid))


def breach(memory: MemoryWatch, seconds: float = PATIENCE_S) -> int | None:
    until = time.monotonic() + seconds
    while (used := memory.exceeded()) is None and time.monotonic() < until:
        time.sleep(memory.wait_s(1.0))
    return used


def death(child: Child, log: Path, limit: int | None = LIMIT, *, kills_before: int = 0) -> Failed | Retry:
    ended = child.wait(PATIENCE_S)
    killed = Machine().oom_kills() > kills_before
    outcome = cause_of_death(CLAIM, ended, log, oom_killed=killed, memory_limit=limit, peak_bytes=0)
    assert isinstance(outcome, Failed | Retry)
    return outcome


class TestLimit:
    def test_slow_growth_is_seen_soon_after_the_limit(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "grow", log) as child:
            memory = watch(server, child)
            used = breach(memory)
            assert used is not None
            child.kill()
        assert LIMIT < used < 2 * LIMIT
        assert memory.peak_bytes == used
        outcome = over_limit(CLAIM, LIMIT, used)
        assert outcome.code == "memory_limit_exceeded"
        assert "0.1 GB" in outcome.detail

    def test_what_other_processes_of_the_child_hold_counts(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "delegate", log) as child:
            assert breach(watch(server, child)) is not None
        # The kernel takes a moment to let go of what a killed process had.
        deadline = time.monotonic() + 5
        while used_bytes(child.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert used_bytes(child.pid) == 0

    def test_what_was_preloaded_does_not_count(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "sleep", log) as child:
            child.channel.receive(ANY, timeout_s=5)
            memory = watch(server, child, MB * 10)
            assert private_bytes(child.pid) > MB * 2
            assert breach(memory, seconds=0.7) is None
            assert memory.peak_bytes < MB * 5

    def test_a_leap_is_stopped_by_the_kernel(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "leap", log) as child:
            assert child.channel.receive(ANY, timeout_s=5) == "memory_limit_exceeded"

    @pytest.mark.parametrize(("limit", "code"), [(LIMIT, "memory_limit_exceeded"), (None, "out_of_memory")])
    def test_a_native_leap_ends_the_process(self, server: ForkServer, log: Path, limit: int | None, code: str) -> None:
        with spawn(server, "native_leap", log, limit) as child:
            outcome = death(child, log, limit)
        assert (type(outcome), outcome.code) == (Failed, code), outcome.detail

    def test_without_a_limit_nothing_is_watched(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "sleep", log, None) as child:
            memory = watch(server, child, None)
            assert memory.exceeded() is None
            assert memory.wait_s(0.5) == 0.5

    def test_a_look_is_cheap(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "sleep", log) as child:
            began = time.process_time()
            for _ in range(50):
                used_bytes(child.pid)
            assert (time.process_time() - began) / 50 < 0.01


class TestCrash:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    def test_a_signal_from_elsewhere_is_a_crash(self, server: ForkServer, log: Path, number: signal.Signals) -> None:
        before = Machine().oom_kills()
        with spawn(server, "sleep", log) as child:
            child.channel.receive(ANY, timeout_s=5)
            os.kill(child.pid, number)
            outcome = death(child, log, kills_before=before)
        assert isinstance(outcome, Retry)
        assert (outcome.code, outcome.crashed) == ("child_crashed", True)
        assert f"signal {number.value}" in outcome.detail


class TestOutOfMemory:
    def test_a_kill_by_the_system_is_told(self, group: Path, log: Path) -> None:
        command = [sys.executable, "-m", "tests.integration.confined", str(group), str(log)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        told = json.loads(ended.stdout)
        assert (told["outcome"], told["code"]) == ("Failed", "out_of_memory"), told
        assert told["free_mb"] < 250, "a container's limit bounds what is free"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group below our own, with room for 250 MB."""
    own = Machine()._groups("memory")[0]
    group = own / f"modelferry-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group may be made here: {error}")
    try:
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                (group / name).write_text(str(250 * MB))
                yield group
                break
        else:
            pytest.skip("the memory controller is not at hand here")
    finally:
        # The kernel needs a moment to let go of the dead.
        until = time.monotonic() + 5
        while group.exists() and time.monotonic() < until:
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.05)
