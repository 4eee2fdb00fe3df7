"""The processes of a measurement: started with their output in files, held still and let go, none left behind."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from redis import Redis

from api.embedded.process import python
from api.embedded.redis_server import LOOPBACK, answers, find_redis_server, free_port, redis_command, redis_url
from tests.e2e.service import clean_environment

ROOT = Path(__file__).resolve().parent.parent.parent
_START_S = 60.0
_SHOWN_LINES = 40


class Process:
    """One process in a group of its own, with its output in a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        self.pid = self._process.pid

    def hold(self) -> None:
        """SIGSTOP the group: what is prepared meanwhile costs it nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def let_go(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.log.read_text(errors="replace"))

    def await_line(self, pattern: str, timeout_s: float = _START_S) -> re.Match[str]:
        """Wait until it has said this."""
        found: list[re.Match[str]] = []

        def looked() -> bool:
            found.extend(filter(None, [self.said(pattern)]))
            return bool(found)

        self.await_true(looked, timeout_s, pattern)
        return found[0]

    def await_true(self, fulfilled: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for something that needs this process. Ends the measurement when it does not come."""
        until = time.monotonic() + timeout_s
        while not fulfilled():
            over = self._process.poll() is not None or time.monotonic() > until
            if over and not fulfilled():
                last = "\n".join(self.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
                raise SystemExit(f"not within {timeout_s:.0f} s: {what}\n{last}")
            time.sleep(0.01)

    def last_line(self, timeout_s: float) -> str:
        """The last line of its output, once it has ended well."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        lines = self.log.read_text(errors="replace").splitlines()
        if code != 0 or not lines:
            raise SystemExit("\n".join([f"{self.log.name} ended with {code}", *lines[-_SHOWN_LINES:]]))
        return lines[-1]


class Processes:
    """One Redis for a whole run, and whatever is started beside it; all of it ends with the `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis_port = free_port()
        self.redis_url = redis_url(self.redis_port)
        self.redis = Redis(host=LOOPBACK, port=self.redis_port)
        self._processes: list[Process] = []
        self._environment = clean_environment(folder) | {"PYTHONPATH": str(ROOT), "REDIS_URL": self.redis_url}

    def __enter__(self) -> Self:
        server = find_redis_server(os.environ)
        if server is None:
            raise SystemExit("no Redis-compatible server is installed")
        data = self.folder / "redis"
        data.mkdir()
        redis = self.start(redis_command(server, self.redis_port, data))
        redis.await_true(lambda: answers(self.redis_port), _START_S, "Redis answers")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.redis.close()
        for process in reversed(self._processes):
            process.kill()

    def start(self, command: Sequence[str], **variables: str) -> Process:
        log = self.folder / f"process-{len(self._processes)}.log"
        process = Process(command, {**self._environment, **variables}, log)
        self._processes.append(process)
        return process

    def start_module(self, module: str, *arguments: object, **variables: str) -> Process:
        """Start one of our modules."""
        return self.start(python(module, *map(str, arguments)), **variables)

    def worker(self, how: str, database_url: str, slots: int) -> Process:
        """A download worker whose stages do nothing; ready when this returns."""
        worker = self.start_module(
            "bench.queue_parts.worker", how, **self._service(database_url), MODELFERRY_DOWNLOAD_SLOTS=str(slots)
        )
        worker.await_line(r"worker\.ready")
        worker.await_line(r"ready\.")
        return worker

    def api(self, database_url: str) -> tuple[Process, int]:
        """The web process as it is shipped, and its port; answering when this returns."""
        port = free_port()
        api = self.start_module("api.asgi", **self._service(database_url), HOST=LOOPBACK, PORT=str(port))
        with httpx.Client(trust_env=False) as client:
            api.await_true(lambda: _healthy(client, port), _START_S, "the API answers")
        return api, port

    def _service(self, database_url: str) -> dict[str, str]:
        return {"MODELS_DIR": str(self.folder / "models"), "DATABASE_URL": database_url}


def _healthy(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://{LOOPBACK}:{port}/health").is_success
    except httpx.TransportError:
        return False
