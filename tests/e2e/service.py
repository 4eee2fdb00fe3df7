"""The real processes of Modelferry for a test: started one by one, ended in any way, with their lines kept.

    with FakeHuggingFace() as hub, Service(tmp_path, HF_ENDPOINT=hub.endpoint) as service:
        [job_id] = service.submit({"name": "org/model", "hub": "huggingface"})
        job = service.wait(job_id)

A process is named for its part: redis, api, download, convert, reconcile. More of one part are `api-2`, `download-2`.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from api.embedded.console import Console
from api.embedded.process import Process, python
from api.embedded.redis_server import LOOPBACK, answers, find_redis_server, free_port, redis_command, redis_url
from common.settings import VARIABLES

ALL = ("redis", "api", "download", "convert", "reconcile")
ENDED = frozenset({"completed", "failed", "canceled"})

_QUICK = {
    "MODELFERRY_LEASE_S": "6",
    "MODELFERRY_RECONCILE_S": "0.5",
    "MODELFERRY_RETRY_BASE_S": "0.2",
    "MODELFERRY_SPARE_MB": "0",
}
"""Shorter waits than a production has, so that a test of a recovery does not take minutes."""


class Service:
    """A service of its own: own ports, own Redis, own models directory below `folder`, SQLite unless told otherwise.

    `run` names the processes that are started on entry; further settings are given as environment variables.
    Every process is tied to this one, so that none is left when a test run is killed. Use from the main thread.
    """

    def __init__(
        self, folder: Path, *, run: Sequence[str] = ALL, database_url: str | None = None, **variables: str
    ) -> None:
        self.folder = folder
        self.models_dir = folder / "models"
        self.log = folder / "service.log"
        self._run = run
        self._redis_port = free_port()
        self._ports: dict[str, int] = {}
        self._processes: dict[str, Process] = {}
        self._environment = clean_environment(folder) | {
            "MODELS_DIR": str(self.models_dir),
            "DATABASE_URL": database_url or f"sqlite:///{folder / 'jobs.db'}",
            "REDIS_URL": redis_url(self._redis_port),
            **_QUICK,
            **variables,
        }
        self._stream = self.log.open("a", encoding="utf-8")
        self._console = Console(self._stream, colour=False)
        self._client = httpx.Client(trust_env=False, timeout=10)

    def __enter__(self) -> Self:
        try:
            self.migrate()
            for name in self._run:
                self.start(name)
            if "redis" in self._run:
                self.await_redis()
            for name in self._run:
                if _part(name) == "api":
                    self.await_health(name)
            if set(ALL) <= {_part(name) for name in self._run}:
                self.await_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
        self._client.close()
        self._stream.close()
        # pytest shows this only when the test has failed.
        print(f"--- the end of {self.log} ---\n{self.tail()}")

    # The processes

    def start(self, name: str, **variables: str) -> None:
        """Start a process, the first time or again. `variables` are added to its environment alone."""
        command, own = self._command(name)
        process = Process(name, command, {**self._environment, **own, **variables}, self._console)
        process.start()
        self._processes[name] = process

    def kill(self, name: str) -> None:
        """kill -9, and wait for its end."""
        self._processes[name].kill()

    def terminate(self, name: str, timeout_s: float = 30.0) -> int:
        """SIGTERM. Its exit code, once it has ended by itself."""
        process = self._processes[name]
        process.ask_to_end()
        code = process.wait(timeout_s)
        assert code is not None, f"{name} has not ended within {timeout_s} s of SIGTERM\n{self.tail()}"
        return code

    def restart(self, name: str, **variables: str) -> None:
        """kill -9 and start again."""
        self.kill(name)
        self.start(name, **variables)

    def pause(self, name: str) -> None:
        """SIGSTOP: the process is there and does nothing."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGCONT)

    def pid(self, name: str) -> int:
        pid = self._processes[name].pid
        assert pid is not None
        return pid

    def is_running(self, name: str) -> bool:
        return name in self._processes and self._processes[name].running

    def migrate(self) -> None:
        """Bring the database to the newest schema."""
        process = Process("migrate", python("migrations.command"), self._environment, self._console)
        process.start()
        assert process.wait(60) == 0, f"the migrations failed\n{self.tail()}"

    # The API

    def url(self, name: str = "api") -> str:
        return f"http://{LOOPBACK}:{self._ports[name]}"

    def get(self, path: str, *, api: str = "api", **parameters: Any) -> httpx.Response:
        return self._client.get(self.url(api) + path, params=parameters)

    def post(self, path: str, body: Any = None, *, api: str = "api", **parameters: Any) -> httpx.Response:
        return self._client.post(self.url(api) + path, json=body, params=parameters)

    def submit(self, *models: Mapping[str, Any], download_path: str = ".", api: str = "api") -> list[str]:
        """POST these models. The ids of their jobs."""
        answer = self.post("/api/v1/models/download", {"models": list(models)}, api=api, download_path=download_path)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        ids: list[str] = answer.json()["job_ids"]
        return ids

    def cancel(self, job_id: str, *, api: str = "api") -> httpx.Response:
        return self.post(f"/api/v1/jobs/{job_id}/cancel", api=api)

    def job(self, job_id: str, *, api: str = "api") -> dict[str, Any]:
        answer = self.get(f"/api/v1/jobs/{job_id}", api=api)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        job: dict[str, Any] = answer.json()
        return job

    def wait(self, job_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The job, once it has ended, however it has."""
        return self.wait_for(job_id, lambda job: job["status"] in ENDED, timeout_s)

    def wait_for(
        self, job_id: str, fulfilled: Callable[[dict[str, Any]], bool], timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """The job, once it is as wanted. Fails at once when it has ended otherwise."""
        until = time.monotonic() + timeout_s
        while not fulfilled(job := self.job(job_id)):
            assert job["status"] not in ENDED, f"the job has ended: {job}\n{self.tail()}"
            assert time.monotonic() < until, f"after {timeout_s} s the job is {job}\n{self.tail()}"
            time.sleep(0.05)
        return job

    # The waiting

    def await_ready(self, timeout_s: float = 90.0) -> None:
        self.wait_until(lambda: self._status("/ready") == httpx.codes.OK, timeout_s, "ready")

    def await_health(self, name: str = "api", timeout_s: float = 30.0) -> None:
        self.wait_until(lambda: self._status("/health", name) == httpx.codes.OK, timeout_s, f"{name} answering")

    def await_redis(self, timeout_s: float = 10.0) -> None:
        self.wait_until(lambda: answers(self._redis_port), timeout_s, "Redis answering")

    def wait_until(self, fulfilled: Callable[[], object], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s
        while not fulfilled():
            assert time.monotonic() < until, f"not {what} after {timeout_s} s\n{self.tail()}"
            time.sleep(0.05)

    # The log

    def lines(self, name: str | None = None) -> list[str]:
        """What the processes have said so far, or one of them."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return lines if name is None else [line for line in lines if line.partition("|")[0].strip() == name]

    def tail(self, count: int = 80) -> str:
        return "\n".join(self.lines()[-count:])

    def _command(self, name: str) -> tuple[list[str], dict[str, str]]:
        match _part(name):
            case "redis":
                server = find_redis_server(self._environment)
                assert server is not None, "no Redis-compatible server is installed"
                data = self.folder / "redis"
                data.mkdir(exist_ok=True)
                return redis_command(server, self._redis_port, data), {}
            case "api":
                port = self._ports.setdefault(name, free_port())
                return python("api.asgi"), {"HOST": LOOPBACK, "PORT": str(port)}
            case part:
                return python("worker", part), {}

    def _status(self, path: str, api: str = "api") -> int | None:
        try:
            return self.get(path, api=api).status_code
        except httpx.TransportError:
            return None


def _part(name: str) -> str:
    return name.partition("-")[0]


def clean_environment(folder: Path) -> dict[str, str]:
    """The environment of the tests without the user's own settings, home directory and proxies."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    own.pop("HUGGINGFACEHUB_API_TOKEN", None)
    home = folder / "home"
    consent = home / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    consent.write_text("0")
    return own | {"HOME": str(home), "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}
