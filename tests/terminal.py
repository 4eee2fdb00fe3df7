"""A terminal for programs under test: a pseudo-terminal whose screen is kept."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07")

_CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal the controlling one, so that Ctrl-C reaches the program as it would a user's."""


class Terminal:
    """One program with a pseudo-terminal as its standard input and error, and as its standard output unless piped."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, piped: bool = False, columns: int = 120
    ) -> None:
        self._command = command
        self._environment = {**environment, "TERM": "xterm-256color"}
        self._environment.pop("COLUMNS", None)
        self._piped = piped
        self._columns = columns
        self._raw = bytearray()
        self.output = ""
        """What went to standard output, where that is a pipe. Known at the end."""

    def __enter__(self) -> Self:
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self._columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLED, *self._command],
            env=self._environment,
            stdin=theirs,
            stdout=subprocess.PIPE if self._piped else theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._fd)

    @property
    def raw(self) -> str:
        """Everything that was written to the terminal."""
        return self._raw.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without what moves the cursor and sets colours."""
        return _CONTROL.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read_until(self, fulfilled: Callable[[str], object], timeout_s: float = 60.0) -> str:
        """The text once it is as wanted."""
        until = time.monotonic() + timeout_s
        while not fulfilled(self.text):
            assert time.monotonic() < until, f"not on the screen after {timeout_s} s:\n{self.text}"
            assert self._read(0.1) or self.process.poll() is None, f"it has ended with\n{self.text}"
        return self.text

    def end(self, timeout_s: float = 60.0) -> int:
        """The exit code, once the program has ended by itself."""
        until = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < until, f"still running after {timeout_s} s:\n{self.text}"
            self._read(0.1)
        while self._read(0.1):
            pass
        if self.process.stdout is not None:
            self.output = self.process.stdout.read().decode()
        return self.process.wait()

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if not ready:
            return False
        with contextlib.suppress(OSError):
            # An error is how a terminal says that nobody holds its other end any more.
            piece = os.read(self._fd, 65536)
            self._raw += piece
            return bool(piece)
        return False
