"""The embedded service: what `modelferry up` runs, from the first check to the last process ended."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from api.embedded.console import SERVICE, Console
from api.embedded.process import Process, python
from api.embedded.readiness import ReadinessWatch
from api.embedded.redis_server import (
    answers,
    find_redis_server,
    listens,
    obstacle,
    redis_command,
    redis_url,
    remembered_port,
)
from common.settings import Settings, SettingsError, read_settings

DEFAULT_MODELS_DIR = "./models"
WORKERS = ("download", "convert", "reconcile")
"""The worker processes of a whole service."""
_TELLING = ("api", *WORKERS)
"""Of a metrics port that is set, the first has the number itself, and each other one the next."""

_TICK_S = 0.2
_REDIS_START_S = 10.0


class CannotStart(Exception):
    """Something is in the way. The message says what, and nothing has been started."""


@dataclass(frozen=True)
class _Step:
    """Processes that are stopped together, after those of the steps before."""

    names: tuple[str, ...]
    grace_s: float


# Nothing new comes in; nothing is revived; work is given back, which needs the queue; last, the queue itself.
_STOPPING = (
    _Step(("migrate", "api"), 5),
    _Step(("reconcile",), 5),
    _Step(("download", "convert"), 20),
    _Step(("redis",), 10),
)


class EmbeddedService:
    """All processes of Modelferry on this machine. Run it in the main thread.

    Raises CannotStart or SettingsError while nothing has been started yet.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        console: Console,
        *,
        own_state: Path | None = None,
        workers: Sequence[str] = WORKERS,
    ) -> None:
        """`own_state` is where the state of a service lies that leaves nothing of it on the volume."""
        settings = read_settings({**environment, "MODELS_DIR": environment.get("MODELS_DIR") or DEFAULT_MODELS_DIR})
        self._settings = settings
        self._console = console
        self._environment = {**_without_files(environment), **_derived(settings), "PYTHONUNBUFFERED": "1"}
        self._own_state = own_state
        self._workers = workers
        self._own_redis = not (environment.get("REDIS_URL") or environment.get("REDIS_URL_FILE"))
        self._processes: dict[str, Process] = {}
        self._stopping = threading.Event()
        self._at_once = threading.Event()

    def run(self) -> int:
        """Start everything, keep it running until SIGINT, SIGTERM or SIGHUP, stop everything. The exit code."""
        state = self._settings.state_dir
        _make_folder(state)
        with _sole_owner(state / "up.lock", for_once=self._own_state is not None), self._heeding_signals():
            self._check_port()
            try:
                return self._serve()
            finally:
                self._stop()

    def _serve(self) -> int:
        self._start_redis() if self._own_redis else self._check_redis()
        if not self._migrate():
            return 0 if self._stopping.is_set() else 1
        self._start("api", python("api.asgi"))
        for worker in self._workers:
            self._start(worker, python("worker", worker))
        readiness = ReadinessWatch(self._settings, self._console)
        while not self._stopping.wait(_TICK_S):
            for process in self._processes.values():
                process.tend()
            readiness.look()
        return 0

    def _check_port(self) -> None:
        host, port = self._settings.host, self._settings.port
        reason = obstacle(host, port)
        if reason is not None:
            raise CannotStart(f"Cannot listen at {host}:{port}: {reason}. Choose another with --port or PORT.")

    def _check_redis(self) -> None:
        if not listens(self._settings.redis_url):
            raise CannotStart(
                "Nothing listens where REDIS_URL points to. Unset it to use a Redis of the service's own."
            )

    def _start_redis(self) -> None:
        server = find_redis_server(self._environment)
        if server is None:
            raise CannotStart("There is no Redis: install redis-server, or modelferry[embedded], or set REDIS_URL.")
        state = self._own_state or self._settings.state_dir
        folder = state / "redis"
        _make_folder(folder)
        port = remembered_port(state / "redis.port")
        self._environment["REDIS_URL"] = redis_url(port)
        process = self._start("redis", redis_command(server, port, folder))
        if self._redis_answers(port, process):
            return
        # Another program's data, or broken ones. They hold wake-up tickets only: without them, jobs start later.
        process.kill()
        aside = folder.with_name(f"redis.unreadable-{int(time.time())}")
        folder.rename(aside)
        _make_folder(folder)
        self._say(f"Redis does not start with its old data, which are now in {aside}; starting it without")
        process.start()
        if not self._redis_answers(port, process):
            raise CannotStart(f"Redis does not start ({process.ending()}); {folder / 'redis.log'} says why.")

    def _redis_answers(self, port: int, process: Process) -> bool:
        until = time.monotonic() + _REDIS_START_S
        while process.running and time.monotonic() < until and not self._stopping.is_set():
            if answers(port):
                return True
            time.sleep(0.02)
        return self._stopping.is_set()

    def _migrate(self) -> bool:
        """Whether the job table is up to date now."""
        process = Process("migrate", python("migrations.command"), self._environment, self._console)
        process.start()
        while not self._stopping.is_set():
            code = process.wait(_TICK_S)
            if code is not None:
                if code != 0:
                    self._say(f"The job table cannot be prepared: migrate {process.ending()}")
                return code == 0
        process.kill()
        return False

    def _start(self, name: str, command: list[str]) -> Process:
        environment = {**self._environment, **_own_port(name, self._settings)}
        process = Process(name, command, environment, self._console)
        self._processes[name] = process
        if not self._stopping.is_set():
            process.start()
        return process

    def _stop(self) -> None:
        self._stopping.set()
        if any(process.running for process in self._processes.values()):
            self._say("stopping; press Ctrl-C again to stop at once")
        for step in _STOPPING:
            stopping = [self._processes[name] for name in step.names if name in self._processes]
            self._stop_together(stopping, step.grace_s + self._settings.drain_s)

    def _stop_together(self, processes: list[Process], grace_s: float) -> None:
        for process in processes:
            process.ask_to_end()
        until = time.monotonic() + grace_s
        while any(process.running for process in processes) and not self._at_once.is_set():
            if time.monotonic() > until:
                for process in processes:
                    if process.running:
                        self._say(f"{process.name} has not ended within {grace_s:.0f} s and is killed")
                break
            time.sleep(0.05)
        for process in processes:
            process.kill()

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        def heed(_number: int, _frame: object) -> None:
            if self._stopping.is_set():
                self._at_once.set()
            self._stopping.set()

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # Under nohup a closed terminal is no reason to stop.
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, heed) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, text: str) -> None:
        self._console.line(SERVICE, text)


def run(
    environment: Mapping[str, str],
    console: Console,
    *,
    own_state: Path | None = None,
    workers: Sequence[str] = WORKERS,
) -> int:
    """Run the embedded service; says what is in the way. The exit code."""
    try:
        return EmbeddedService(environment, console, own_state=own_state, workers=workers).run()
    except (CannotStart, SettingsError) as error:
        console.line(SERVICE, str(error))
        return 2


def _derived(settings: Settings) -> dict[str, str]:
    """What the processes must agree on, wherever each of them would take it from."""
    return {
        "MODELS_DIR": str(settings.models_dir.absolute()),
        "DATABASE_URL": settings.store_url,
        "REDIS_URL": settings.redis_url,
        "HOST": settings.host,
        "PORT": str(settings.port),
    }


def _without_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without files of what is handed on in the variables themselves: one of both is enough."""
    return {name: value for name, value in environment.items() if name not in {"DATABASE_URL_FILE", "REDIS_URL_FILE"}}


def _own_port(name: str, settings: Settings) -> dict[str, str]:
    """Where a process tells of its health and its metrics: on one machine no two can have one port."""
    if not settings.metrics_port or name not in _TELLING:
        return {}
    return {"MODELFERRY_METRICS_PORT": str(settings.metrics_port + _TELLING.index(name))}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"Cannot make the folder {folder}: {error.strerror}") from error


@contextmanager
def _sole_owner(lock: Path, *, for_once: bool) -> Iterator[None]:
    """Hold the models directory for this process alone; the kernel lets go of it whatever becomes of us.

    `for_once` takes the file away again.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            raise CannotStart(
                f"Another 'modelferry up' (process {owner}) serves this models directory: {lock.parents[2]}"
            ) from None
        if not _is_at(lock, descriptor):
            # Somebody who had it for once took it away between our two steps.
            raise CannotStart(f"Another service has just left this models directory: {lock.parents[2]}. Try again.")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
        if for_once:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
