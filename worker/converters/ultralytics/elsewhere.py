"""Runs one export in the environment that has Ultralytics' library: in a process of its own, below this one."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from common.errors import ChildCrashed, Internal, StageError
from common.plugins import Attempt
from worker.converters.ultralytics.errand import Done, Errand, Failed, Report

ENTRY = "worker.converters.ultralytics.export"

_LOOK_S = 0.2
_READ_BYTES = 64 * 1024
_MOST_BYTES = 1024 * 1024
_REPORT: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def export_elsewhere(errand: Errand, environment: Path, attempt: Attempt) -> Done:
    """Have the errand done with the packages in the folder `environment`, and wait for that.

    The process lives in this one's group, below its limits and without a network as this one; it ends with it. Raises
    what the export says has gone wrong, ChildCrashed, or JobCancelled.
    """
    request = Path(errand.scratch) / "errand.json"
    request.write_bytes(msgspec.json.encode(errand))
    with _process(environment, request) as (process, reports):
        told = _read_all(reports, attempt)
        code = process.wait()
    # Who ends the whole group wants this attempt to end, and says so.
    attempt.checkpoint()
    if not told:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise ChildCrashed(f"The process of the export {how} without a result")
    match _decoded(told):
        case Failed() as failed:
            raise _error(failed)
        case Done() as done:
            return done


@contextlib.contextmanager
def _process(environment: Path, request: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process at work, and the pipe that it reports through. It is gone afterwards, whatever happened."""
    reports, theirs = os.pipe()
    command = [sys.executable, "-m", ENTRY, str(environment), str(request), str(theirs)]
    try:
        # Not a session of its own: whoever kills this process's group is to end it too.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs])
    except BaseException:
        os.close(reports)
        raise
    finally:
        os.close(theirs)
    try:
        yield process, reports
    finally:
        os.close(reports)
        process.kill()
        process.wait()


def _read_all(reports: int, attempt: Attempt) -> bytes:
    """What the process writes until it closes the pipe. Raises JobCancelled."""
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    told = b""
    while True:
        attempt.checkpoint()
        if not poll.poll(_LOOK_S * 1000):
            continue
        content = os.read(reports, _READ_BYTES)
        if not content:
            return told
        told += content
        if len(told) > _MOST_BYTES:
            raise Internal("The process of the export reports without an end")


def _decoded(told: bytes) -> Report:
    try:
        return _REPORT.decode(told)
    except msgspec.DecodeError as error:
        raise ChildCrashed("The process of the export ended in the middle of its report") from error


def _error(failed: Failed) -> StageError:
    """The error as it was raised there."""
    kind = next((kind for kind in _kinds(StageError) if kind.__name__ == failed.error), Internal)
    return kind(failed.detail, hint=failed.hint)


def _kinds(root: type[StageError]) -> Iterator[type[StageError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
