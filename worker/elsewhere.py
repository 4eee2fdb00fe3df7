"""Work in another Python environment: a process of its own below this one, which gets an errand and sends reports.

The process lives in the group of the one that waits for it, and below its limits; it ends with it.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from common.errors import ChildCrashed, Internal, PluginNotInstalled, StageError, TransientError
from common.log import configure
from common.plugins import Attempt
from worker.isolation import forbid_pickles

_LOOK_S = 0.2
_READ_BYTES = 64 * 1024
_MOST_BYTES = 1024 * 1024
"""A report that is longer is none."""
_PR_SET_PDEATHSIG = 1


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A report: a StageError was raised."""

    error: str
    """The name of its class."""
    detail: str
    hint: str
    wait_s: float | None = None

    @classmethod
    def by(cls, error: StageError) -> "Failed":
        """The report of an error."""
        wait_s = error.wait_s if isinstance(error, TransientError) else None
        return cls(error=type(error).__name__, detail=str(error), hint=error.advice, wait_s=wait_s)

    def as_raised(self) -> StageError:
        """The error as it was raised there."""
        kind = next((kind for kind in _kinds(StageError) if kind.__name__ == self.error), Internal)
        if issubclass(kind, TransientError):
            return kind(self.detail, hint=self.hint, wait_s=self.wait_s)
        return kind(self.detail, hint=self.hint)


# What the one who waits does


@contextlib.contextmanager
def sent(entry: str, folder: Path, errand: msgspec.Struct, attempt: Attempt) -> Iterator[Iterator[bytes]]:
    """Start the module `entry` with the packages in `folder` before all others, and yield its reports as they come.

    It is gone afterwards, whatever happened. To read the reports raises JobCancelled, and ChildCrashed where the
    process has ended without a last one: leave off reading at that.
    """
    with tempfile.TemporaryDirectory(prefix="elsewhere-", ignore_cleanup_errors=True) as room:
        request = Path(room) / "errand.json"
        request.write_bytes(msgspec.json.encode(errand))
        reports, theirs = os.pipe()
        command = [sys.executable, "-m", entry, str(folder), str(request), str(theirs)]
        try:
            # Not a session of its own: whoever kills this process's group is to end it too.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs])
        except BaseException:
            os.close(reports)
            raise
        finally:
            os.close(theirs)
        try:
            yield _reports(process, reports, attempt)
        finally:
            os.close(reports)
            process.kill()
            process.wait()


def _reports(process: subprocess.Popen[bytes], reports: int, attempt: Attempt) -> Iterator[bytes]:
    yield from _lines(reports, attempt)
    code = process.wait()
    # Who ends the whole group wants this attempt to end, and says so.
    attempt.checkpoint()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise ChildCrashed(f"The process of the conversion {how} without a result")


def _lines(reports: int, attempt: Attempt) -> Iterator[bytes]:
    """What the process writes, until it closes the pipe."""
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    unfinished = b""
    while True:
        attempt.checkpoint()
        if not poll.poll(_LOOK_S * 1000):
            continue
        content = os.read(reports, _READ_BYTES)
        if not content:
            return
        *lines, unfinished = (unfinished + content).split(b"\n")
        if len(unfinished) > _MOST_BYTES:
            raise Internal("The process of the conversion reports without an end")
        yield from lines


def _kinds(root: type[StageError]) -> Iterator[type[StageError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


# What the process itself does


def begin(folder: str) -> None:
    """Be bound to whoever has started this process, and look into `folder` for packages before anywhere else."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    sys.path.insert(0, folder)
    configure("info", "text")
    # The rule of the process that this one works for does not outlive the start of a new program.
    forbid_pickles()


def send(reports: int, report: msgspec.Struct) -> None:
    """Report, in one line of JSON."""
    content = memoryview(msgspec.json.encode(report) + b"\n")
    while content:
        content = content[os.write(reports, content) :]


def end() -> None:
    """End this process at once: native libraries may hang in their own clean-up."""
    sys.stdout.flush()
    os._exit(0)


def check_packages(profile: str, wanted: Mapping[str, str]) -> None:
    """What is known of a profile holds for these releases only. Raises PluginNotInstalled."""
    for name, release in sorted(wanted.items()):
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != release:
            raise PluginNotInstalled(
                f"Profile '{profile}' is not whole: it takes {name} {release}, and there is {found}",
                hint=f"Install it again: python3 scripts/setup.py --profile {profile}",
            )
