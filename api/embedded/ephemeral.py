"""A service for one errand: started, used by one program, and ended with it, whatever becomes of that program."""

import base64
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from api.embedded.console import Console
from api.embedded.process import Process, python
from api.embedded.readiness import lacking
from api.embedded.redis_server import LOOPBACK, free_port

_TICK_S = 0.1
_END_S = 60.0
"""Longer than the service needs to end all of its processes, one after the other."""
_KEY_BYTES = 32
_LAST_LINES = 12
_SHARED = ("state", "work", "locks", "parts", "replaced")
"""Folders of the volume's private part that stay only if something is in them."""


class ServiceEnded(Exception):
    """The service has ended by itself, or never came up. The message has its last words."""


class EphemeralService:
    """A whole service with a database and a queue of its own in a private folder. Use from the main thread."""

    def __init__(self, environment: Mapping[str, str], models_dir: Path, folder: Path, workers: Sequence[str]) -> None:
        self._models_dir = models_dir
        self._folder = folder
        self._log = folder / "service.log"
        self._port = free_port()
        self._stream = self._log.open("w", encoding="utf-8")
        given = {
            "MODELS_DIR": str(models_dir),
            "DATABASE_URL": f"sqlite:///{folder / 'jobs.db'}",
            "HOST": LOOPBACK,
            "PORT": str(self._port),
            # Nobody else can reach it; and whatever keys another service knows, this one does not.
            "MODELFERRY_ACCESS": "off",
            # Without one, a key would be made on the volume.
            "MODELFERRY_SECRET_KEY": base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode(),
        }
        others = {name: value for name, value in environment.items() if name not in _NOT_OURS}
        command = python("api.embedded", str(folder), *workers)
        self._process = Process("service", command, others | given, Console(self._stream, colour=False))

    @property
    def address(self) -> str:
        """Where it answers, once it is ready."""
        return f"http://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start it. It is not ready at once."""
        self._process.start()

    def await_ready(self, timeout_s: float, *, without: Collection[str] = ()) -> None:
        """Wait until it could run a job. `without` are parts that need not be there. Raises ServiceEnded."""
        until = time.monotonic() + timeout_s
        while True:
            self.tend()
            missing = "; ".join(lack for part, lack in lacking(LOOPBACK, self._port).items() if part not in without)
            if not missing:
                return
            if time.monotonic() > until:
                raise ServiceEnded(f"The service is not ready after {timeout_s:.0f} s: {missing}\n{self._last_words()}")
            time.sleep(_TICK_S)

    def tend(self) -> None:
        """Raises ServiceEnded when it has. Cheap: call it often."""
        if not self._process.running:
            # Its last lines may still be on their way.
            time.sleep(_TICK_S)
            raise ServiceEnded(f"The service {self._process.ending()}.\n{self._last_words()}")

    def stop(self) -> None:
        """End every process, and wait for it."""
        self._process.ask_to_end()
        self._process.wait(_END_S)
        self._process.kill()
        self._stream.close()

    def _last_words(self) -> str:
        self._stream.flush()
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])


_NOT_OURS = frozenset(
    {
        "DATABASE_URL", "DATABASE_URL_FILE", "REDIS_URL", "REDIS_URL_FILE", "STARTUP_MODELS_CONFIG",
        "MODELFERRY_SECRET_KEY_FILE", "MODELFERRY_ADMIN_KEY", "MODELFERRY_ADMIN_KEY_FILE",
        "MODELFERRY_RATE_LIMIT", "MODELFERRY_METRICS_PORT", "MODELFERRY_DRAIN_S",
    }
)  # fmt: skip
"""Settings of another service: its table and its queue hold work that is none of ours, its port is taken."""


@contextmanager
def ephemeral_service(
    environment: Mapping[str, str], models_dir: Path, *, converting: bool = True
) -> Iterator[EphemeralService]:
    """The service while the block runs. Afterwards nothing is left of it but the volume's models and their content.

    Without `converting` there is no worker that converts: its libraries are large, and may be missing here.
    """
    state = models_dir / ".modelferry" / "state"
    homes = _homes(state)
    workers = ["download", *(["convert"] if converting else []), "reconcile"]
    folder = Path(tempfile.mkdtemp(prefix="modelferry-"))
    try:
        service = EphemeralService(environment, models_dir.absolute(), folder, workers)
        try:
            service.start()
            yield service
        finally:
            service.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for home in _homes(state) - homes:
            shutil.rmtree(home, ignore_errors=True)
        _tidy(state.parent)


def _homes(state: Path) -> set[Path]:
    """The folders that workers have made for their tools, as a user's home."""
    return set(state.glob("home-*"))


def _tidy(private: Path) -> None:
    """Take away what is empty: folders that only a service at work needs."""
    for name in _SHARED:
        with suppress(OSError):
            (private / name).rmdir()
