"""One process of the service: started tethered, its lines shown, started again when it has crashed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from api.embedded import tether
from api.embedded.console import SERVICE, Console

_WAITS_S = (1, 2, 4, 8, 16, 30)
_STEADY_S = 60.0
"""A process that ran this long has recovered: its next crash is a first one again."""
_TETHER = [sys.executable, "-I", "-S", str(Path(tether.__file__))]


def python(module: str, *arguments: str) -> list[str]:
    """The command for a module of ours. `-P`: no file of the current directory may pass for one of ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Process:
    """A process in a session of its own, so that Ctrl-C reaches nobody but the service. Use from the main thread."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], console: Console) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._console = console
        self._process: subprocess.Popen[str] | None = None
        self._started_at = 0.0
        self._crashes = 0
        self._again_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, which is its process group too, once it has been started."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and show its lines from now on."""
        process = subprocess.Popen(
            [*_TETHER, str(os.getpid()), *self._command],
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._process, self._again_at, self._started_at = process, None, time.monotonic()
        if process.stdout is not None:
            threading.Thread(target=self._show, args=(process.stdout,), name=f"show-{self.name}", daemon=True).start()

    def tend(self) -> None:
        """Report a crash, and start the process again when its wait is over. Cheap: call it often."""
        if self.running:
            return
        now = time.monotonic()
        if self._again_at is None:
            self._crashes = 1 if now - self._started_at > _STEADY_S else self._crashes + 1
            wait_s = _WAITS_S[min(self._crashes, len(_WAITS_S)) - 1]
            self._console.line(SERVICE, f"{self.name} {self.ending()}; starting it again in {wait_s} s")
            self._again_at = now + wait_s
            # What it left behind must not work beside its successor.
            self.kill()
        elif now >= self._again_at:
            self.start()

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return "is running"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it still runs after that long."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_end(self) -> None:
        """Send SIGTERM. It may take its time."""
        if self._process is not None and self.running:
            self._process.terminate()

    def kill(self) -> None:
        """End it now, with whatever else is in its process group."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _show(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                if line.strip():
                    self._console.line(self.name, line.rstrip())
