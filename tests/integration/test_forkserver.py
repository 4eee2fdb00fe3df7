"""Children are quick to come, alone in their group, and never outlive those who asked for them."""

import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ChildCrashed
from tests.integration.forkserver_jobs import ANY
from worker.forkserver import ChannelBroken, ChannelClosed, Child, ForkServer

ROOT = Path(__file__).parents[2]
JOBS = "tests.integration.forkserver_jobs"
PRELOAD = ("colorsys", "msgspec", JOBS)
LOG = logging.getLogger("test.forkserver")


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    os.environ["PLANTED_SECRET"] = "hf_planted"
    with ForkServer(PRELOAD, environment(GIVEN="yes"), LOG) as server:
        yield server
    del os.environ["PLANTED_SECRET"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def spawn(server: ForkServer, job: str, log: Path, request: bytes = b"") -> Child:
    return server.spawn(f"{JOBS}:{job}", request, log=log)


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def threads_of(pid: int | None) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class TestChild:
    def test_messages_go_both_ways(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "echo", log, b"hello") as child:
            assert child.channel.receive(ANY) == ["request", "hello"]
            assert child.channel.receive(ANY, timeout_s=0.05) is None
            big = "x" * 3_000_000
            for message in ({"a": 1}, [None], big):
                child.channel.send(message)
                assert child.channel.receive(ANY, timeout_s=10) == ["echo", message]
            child.channel.finish_sending()
            ended = child.wait(5)
        assert ended is not None
        assert ended.ok
        assert ended.signal is None
        assert ended.max_rss_bytes > 5_000_000
        assert 0 <= ended.cpu_s < 5
        with pytest.raises(ChannelClosed):
            child.channel.receive(ANY)

    def test_a_large_request_arrives(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "echo", log, b"y" * 2_000_000) as child:
            assert child.channel.receive(ANY, timeout_s=10) == ["request", "y" * 2_000_000]

    @pytest.mark.parametrize(
        ("how", "code", "number"),
        [
            ("", 0, None), ("3", 3, None), ("raise", 1, None), ("exit", 4, None), ("words", 1, None),
            ("signal", None, signal.SIGKILL), ("segfault", None, signal.SIGSEGV),
        ],
    )  # fmt: skip
    def test_its_end_is_told(
        self, server: ForkServer, log: Path, how: str, code: int | None, number: int | None
    ) -> None:
        with spawn(server, "leave", log, how.encode()) as child:
            ended = child.wait(5)
            assert ended is not None
            assert (ended.code, ended.signal, ended.lost) == (code, number, False)
            with pytest.raises(ChannelClosed):
                child.channel.receive(ANY)
        text = log.read_text()
        expected = {"raise": "RuntimeError: planted", "words": "last words", "segfault": "Segmentation fault"}
        assert expected.get(how, "") in text
        assert log.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("target", ["no.such.module:run", f"{JOBS}:no_such_function"])
    def test_a_target_that_does_not_exist_is_a_failure(self, server: ForkServer, log: Path, target: str) -> None:
        with server.spawn(target, b"", log=log) as child:
            ended = child.wait(5)
        assert ended is not None
        assert ended.code == 1
        assert "Error" in log.read_text()

    def test_it_stands_alone(self, server: ForkServer, log: Path) -> None:
        with server.spawn(f"{JOBS}:describe", b"", log=log, nice=5, environment={"MORE": "too"}) as child:
            told = child.channel.receive(ANY, timeout_s=5)
        assert isinstance(told, dict)
        assert told["threads"] == 1
        assert told["group"]
        assert told["parent"] == server.pid
        assert told["files"] == ["/dev/null", str(log), "socket"]
        assert told["nice"] == os.nice(0) + 5
        assert told["oom"] >= 300
        assert told["frozen"]
        assert told["preloaded"]
        assert told["stdin"] == ""
        own = {name: value for name, value in told["environment"].items() if name != "LC_CTYPE"}
        assert own == environment(GIVEN="yes", MORE="too")
        assert log.read_text() == "to stdout\nto stderr\n"

    def test_no_secret_of_the_worker_is_in_the_server(self, server: ForkServer) -> None:
        server.wait_ready()
        assert os.environ["PLANTED_SECRET"] == "hf_planted"
        assert b"hf_planted" not in Path(f"/proc/{server.pid}/environ").read_bytes()

    def test_memory_is_limited(self, server: ForkServer, log: Path) -> None:
        limit = 200 * 1024 * 1024
        with server.spawn(f"{JOBS}:eat", b"", log=log, memory_bytes=limit) as child:
            told = child.channel.receive(ANY, timeout_s=10)
            ended = child.wait(5)
        assert isinstance(told, dict)
        assert told["limit"] > limit, "what the child was born with comes on top"
        assert 15 <= told["eaten"] < 20
        assert ended is not None
        assert ended.code == 3

    def test_the_log_may_be_an_open_file(self, server: ForkServer, tmp_path: Path) -> None:
        with (tmp_path / "open.log").open("w+") as file:
            with server.spawn(f"{JOBS}:describe", b"", log=file.fileno()) as child:
                child.wait(5)
            file.seek(0)
            assert file.read() == "to stdout\nto stderr\n"

    def test_garbage_on_the_channel_is_told_apart(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "garbage", log) as child, pytest.raises(ChannelBroken):
            child.channel.receive(ANY, timeout_s=5)

    def test_a_closed_channel_is_seen_by_the_child(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "until_closed", log) as child:
            child.channel.close()
            ended = child.wait(5)
            assert ended is not None
            assert ended.ok
            with pytest.raises(ChannelClosed):
                child.channel.send("x")


class TestKill:
    def test_a_child_that_listens_ends_by_itself(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "wait_for_term", log) as child:
            child.channel.receive(ANY)
            ended = child.kill(grace_s=5)
        assert ended is not None
        assert ended.code == 7
        assert child.kill() == ended

    @pytest.mark.parametrize("request_", [b"", b"ignore", b"leave"])
    def test_grandchildren_go_with_the_child(self, server: ForkServer, log: Path, request_: bytes) -> None:
        with spawn(server, "breed", log, request_) as child:
            grandchildren = child.channel.receive(ANY, timeout_s=10)
            assert isinstance(grandchildren, list)
            began = time.monotonic()
            ended = child.wait(5) if request_ == b"leave" else child.kill(grace_s=0.1)
            assert time.monotonic() - began < 1
        assert ended is not None
        expected = {b"": (None, signal.SIGTERM), b"ignore": (None, signal.SIGKILL), b"leave": (0, None)}
        assert (ended.code, ended.signal) == expected[request_]
        assert gone_within(1, child.pid, *grandchildren)

    def test_a_child_is_killed_in_the_moment_of_its_birth(self, server: ForkServer, log: Path) -> None:
        for _ in range(10):
            with spawn(server, "wait_for_term", log) as child:
                ended = child.kill(grace_s=0)
                assert ended is not None
                assert ended.signal in {signal.SIGTERM, signal.SIGKILL} or ended.code == 7

    def test_leaving_the_block_kills(self, server: ForkServer, log: Path) -> None:
        with spawn(server, "breed", log, b"ignore") as child:
            pass
        assert gone_within(1, child.pid)


class TestServer:
    def test_thirty_children(self, server: ForkServer, log: Path) -> None:
        server.wait_ready()
        births = []
        for number in range(30):
            began = time.monotonic()
            with spawn(server, "echo", log, str(number).encode()) as child:
                assert child.channel.receive(ANY, timeout_s=5) == ["request", str(number)]
                births.append(time.monotonic() - began)
                child.channel.finish_sending()
                ended = child.wait(5)
            assert ended is not None
            assert ended.ok
        print(f"child up: median {statistics.median(births) * 1000:.1f} ms, worst {max(births) * 1000:.1f} ms")
        assert statistics.median(births) < 0.03
        assert threads_of(server.pid) == 1
        assert Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text() == ""

    def test_many_threads_spawn_at_once(self, server: ForkServer, log: Path) -> None:
        answers: list[object] = []

        def one(number: int) -> None:
            with spawn(server, "echo", log, str(number).encode()) as child:
                answers.append(child.channel.receive(ANY, timeout_s=10))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, answers)) == [str(["request", str(number)]) for number in range(8)]

    def test_it_has_one_thread_and_says_how_long_it_imported(self, server: ForkServer) -> None:
        ready = server.wait_ready()
        assert not ready.cold
        assert ready.reason is None
        assert 0 <= ready.import_s < 10
        assert threads_of(server.pid) == 1

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            ("tests.integration.threaded_module", "the imports left 2 threads"),
            ("no_such_module", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ],
    )
    def test_an_unfit_server_is_replaced_by_a_cold_one(
        self, log: Path, caplog: pytest.LogCaptureFixture, module: str, reason: str
    ) -> None:
        with ForkServer(["colorsys", module], environment(), LOG) as server:
            ready = server.wait_ready()
            assert (ready.cold, ready.reason, server.cold) == (True, reason, True)
            with spawn(server, "describe", log) as child:
                told = child.channel.receive(ANY, timeout_s=10)
            assert isinstance(told, dict)
            assert not told["preloaded"]
        assert [record.getMessage() for record in caplog.records] == ["forkserver.cold"]

    def test_a_killed_server_takes_all_along_and_is_replaced(self, log: Path) -> None:
        with ForkServer(PRELOAD, environment(), LOG) as server:
            child = spawn(server, "breed", log, b"ignore")
            grandchildren = child.channel.receive(ANY, timeout_s=10)
            assert isinstance(grandchildren, list)
            first = server.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            ended = child.wait(5)
            assert ended is not None
            assert (ended.code, ended.signal, ended.lost) == (None, signal.SIGKILL, True)
            # The second grandchild has a session of its own: only a living server finds that one.
            assert gone_within(1, first, child.pid, grandchildren[0])
            os.kill(grandchildren[1], signal.SIGKILL)
            child.close()
            with spawn(server, "echo", log, b"again") as child:
                assert child.channel.receive(ANY, timeout_s=5) == ["request", "again"]
            assert server.pid != first

    def test_stop_ends_everything(self, log: Path) -> None:
        server = ForkServer(PRELOAD, environment(), LOG)
        child = spawn(server, "breed", log, b"ignore")
        grandchildren = child.channel.receive(ANY, timeout_s=10)
        assert isinstance(grandchildren, list)
        pid = server.pid
        assert pid is not None
        server.stop()
        server.stop()
        ended = child.wait(1)
        assert ended is not None
        assert (ended.signal, ended.lost) == (signal.SIGKILL, False)
        assert gone_within(1, pid, child.pid, *grandchildren)
        assert server.pid is None
        child.close()
        with pytest.raises(ChildCrashed):
            spawn(server, "echo", log)

    def test_stop_does_not_wait_for_a_slow_import(self) -> None:
        server = ForkServer(["tests.integration.slow_module"], environment(), LOG)
        server.start()
        refused = threading.Event()

        def wait() -> None:
            with pytest.raises(ChildCrashed):
                server.wait_ready()
            refused.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        began = time.monotonic()
        server.stop()
        waiting.join(5)
        assert refused.is_set()
        assert time.monotonic() - began < 2
        assert server.pid is None

    @pytest.mark.parametrize("moment", ["running", "importing"])
    def test_nothing_outlives_a_killed_supervisor(self, log: Path, moment: str) -> None:
        preload = ["tests.integration.slow_module"] if moment == "importing" else [JOBS]
        command = [sys.executable, "-m", "tests.integration.supervisor", json.dumps(environment()), json.dumps(preload)]
        with subprocess.Popen([*command, moment, str(log)], cwd=ROOT, stdout=subprocess.PIPE) as supervisor:
            assert supervisor.stdout is not None
            pids = json.loads(supervisor.stdout.readline())
            time.sleep(0.5 if moment == "importing" else 0)
            assert all(is_alive(pid) for pid in pids)
            supervisor.kill()
            assert gone_within(1, *pids)
        assert len(pids) == (1 if moment == "importing" else 4)
