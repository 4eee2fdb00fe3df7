"""A conversion reaches no network, no secret and no other process, and runs no pickle. It still converts."""

import logging
import os
import platform
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.artefacts.layout import Volume
from common.catalog.openvino import OPENVINO
from common.vocabulary import Pool
from worker.forkserver import Child, ForkServer
from worker.service import _environment

JOBS = "tests.integration.isolation_jobs"
PRELOAD = ("numpy", *OPENVINO.preload, JOBS)
LOG = logging.getLogger("test.isolation")
ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
SECRETS = {
    "HF_TOKEN": "hf_planted",
    "HUGGINGFACEHUB_API_TOKEN": "hf_planted_too",
    "DATABASE_URL": "postgresql://user:planted_password@db/jobs",
    "REDIS_URL": "redis://:planted_password@redis:6379/0",
    "AWS_SECRET_ACCESS_KEY": "planted_key",
    "MODELFERRY_ANYTHING": "planted_setting",
}
intel = pytest.mark.skipif(platform.machine() != "x86_64", reason="only this processor has other ways to call")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A convert worker's fork server, with a convert worker's environment."""
    volume = Volume(tmp_path_factory.mktemp("models"))
    volume.prepare()
    before = {name: os.environ.get(name) for name in SECRETS}
    os.environ.update(SECRETS)
    try:
        with ForkServer(PRELOAD, _environment(Pool.CONVERT, 1, volume), LOG) as server:
            assert not server.wait_ready().cold
            yield server
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def spawn(server: ForkServer, job: str, log: Path, request: object = None) -> Child:
    content = request.encode() if isinstance(request, str) else msgspec.json.encode(request)
    return server.spawn(f"{JOBS}:{job}", content, log=log)


def told_by(server: ForkServer, job: str, log: Path, request: object = None) -> Any:
    with spawn(server, job, log, request) as child:
        try:
            return child.channel.receive(ANY, timeout_s=60)
        except Exception as error:
            raise AssertionError(log.read_text()) from error


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """A port that takes connections, and one that takes datagrams."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield tcp.getsockname()[1], udp.getsockname()[1]


class TestNetwork:
    def test_nothing_makes_a_socket_any_more(self, server: ForkServer, log: Path, ports: tuple[int, int]) -> None:
        before, done, after, again = told_by(server, "reach", log, ports)
        assert {name for name, how in before.items() if how != "ok"} <= {"dns", "ipv6"}, "what a machine may not have"
        assert (done, again) == (True, True)
        refused = dict.fromkeys(before, "PermissionError")
        assert after == {**refused, "dns": "gaierror", "hosts": "ok", "pair of streams": "ok"}

    def test_neither_does_a_thread_or_a_process_of_it(
        self, server: ForkServer, log: Path, ports: tuple[int, int]
    ) -> None:
        with spawn(server, "reach_from_elsewhere", log, ports[0]) as child:
            assert child.channel.receive(ANY, timeout_s=30) == "PermissionError", "the fork"
            assert child.channel.receive(ANY, timeout_s=30) == ["PermissionError"] * 2, "the thread and the program"

    @intel
    @pytest.mark.parametrize("way", ["i386", "x32"])
    def test_who_calls_as_another_processor_is_killed(self, server: ForkServer, log: Path, way: str) -> None:
        with spawn(server, "call_as_another_processor", log, (way, False)) as child:
            free = child.wait(10)
        with spawn(server, "call_as_another_processor", log, (way, True)) as child:
            filtered = child.wait(10)
        assert free is not None
        assert filtered is not None
        if free.signal is not None:
            pytest.skip(f"this kernel has no calls of {way}")
        assert filtered.signal == signal.SIGSYS

    def test_an_old_kernel_says_no(self, server: ForkServer, log: Path) -> None:
        assert told_by(server, "be_on_an_old_kernel", log) == [False, False]


class TestPrying:
    def test_others_are_out_of_sight_and_its_own_are_not(self, server: ForkServer, log: Path, tmp_path: Path) -> None:
        before, done, after, own, moving, death = told_by(server, "pry", log, (os.getpid(), str(tmp_path)))
        if not done:
            pytest.skip("this kernel has no Landlock")
        assert set(before.values()) == {"ok"}
        assert set(after.values()) == {"PermissionError"}
        assert set(own.values()) == {"ok"}
        assert set(moving.values()) == {"ok"}
        assert death == signal.SIGKILL, "it still dies with the fork server"


class TestSecrets:
    def test_a_convert_child_knows_none(self, server: ForkServer, log: Path, tmp_path: Path) -> None:
        environment, kernel, home, files = told_by(server, "tell_environment", log, str(tmp_path / "home"))
        assert os.environ["HF_TOKEN"] == "hf_planted"
        assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
        assert "planted" not in kernel + " ".join(environment.values())
        assert not set(SECRETS) & set(environment)
        assert (home, files) == (str(tmp_path / "home"), {"intel/openvino_telemetry": "0"})


class TestPickles:
    def test_a_pickle_that_would_run_code_is_not_loaded(self, server: ForkServer, log: Path, tmp_path: Path) -> None:
        before, outcomes, sprung, plain = told_by(server, "load_pickles", log, str(tmp_path))
        assert before == list(outcomes), "all of them are dangerous"
        assert sprung == []
        assert "ok" not in outcomes.values()
        assert {outcomes[name] for name in ("pickle", "pickle in Python", "numpy")} == {"PickleRefused"}
        assert set(plain.values()) == {"ok"}


def test_a_conversion_needs_none_of_it(server: ForkServer, log: Path, tmp_path: Path) -> None:
    held, files, inputs = told_by(server, "convert", log, str(tmp_path))
    assert held is True
    assert {"openvino_model.xml", "openvino_tokenizer.xml"} <= set(files)
    assert inputs == 3
