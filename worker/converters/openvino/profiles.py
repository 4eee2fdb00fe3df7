"""Runs a conversion in another Python environment: in a process of its own, below this one."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from common.catalog.openvino.capabilities import DEFAULT, GUIDE, tables
from common.catalog.openvino.fields import OpenVINOOptions
from common.errors import ChildCrashed, Internal, PluginNotInstalled, StageError, TransientError
from common.plugins import Access, Attempt, Order
from common.spec import Evidence
from worker.converters.openvino.errand import Advanced, Broken, Done, Errand, Failed, Report

ENTRY = "worker.converters.openvino.elsewhere"
SETTING = "MODELFERRY_PROFILES"

_LOOK_S = 0.2
_READ_BYTES = 64 * 1024
_REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def convert_elsewhere(model: Path, order: Order[OpenVINOOptions], attempt: Attempt, access: Access) -> Evidence:
    """Fulfil the order in the environment that its options name, and wait for that.

    The process lives in this one's group and below its limits; it ends with it. Raises what the converter would raise
    here, PluginNotInstalled where there is no such environment on this machine, and JobCancelled.
    """
    profile = order.options.profile or DEFAULT
    folder = _folder(profile, access)
    errand = Errand(
        model=str(model),
        target=order.target,
        options=msgspec.structs.replace(order.options, profile=DEFAULT),
        folder=str(order.folder),
        settings={name: value for name, value in access.settings.items() if name != SETTING},
        workspace=str(attempt.workspace),
        scratch=tempfile.gettempdir(),
        profile=profile,
        versions=versions_of(profile),
    )
    with _process(folder, errand) as (process, reports):
        evidence = _attend(process, reports, attempt)
    return msgspec.structs.replace(evidence, profile=profile)


def versions_of(profile: str) -> dict[str, str]:
    """The tools of a profile with the releases that its table was made for. Raises PluginNotInstalled.

    `convert_elsewhere` compares them with what is really there before it begins.
    """
    table = tables().get(profile)
    if table is None:
        raise PluginNotInstalled(
            f"Nothing is known of a profile '{profile}'; known are: {', '.join(tables())}", hint=f"See {GUIDE}."
        )
    return dict(table.versions)


def _folder(profile: str, access: Access) -> Path:
    named = json.loads(access.settings.get(SETTING) or "{}").get(profile)
    if not isinstance(named, str) or not Path(named).is_dir():
        raise PluginNotInstalled(
            f"This worker has no profile '{profile}'" + (f": there is no folder {named}" if named else ""),
            hint=f"Install it and name its folder in {SETTING}: see {GUIDE}.",
        )
    return Path(named)


@contextlib.contextmanager
def _process(folder: Path, errand: Errand) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process at work, and the pipe that it reports through. It is gone afterwards, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="elsewhere-", ignore_cleanup_errors=True) as room:
        request = Path(room) / "errand.json"
        request.write_bytes(msgspec.json.encode(errand))
        reports, theirs = os.pipe()
        command = [sys.executable, "-m", ENTRY, str(folder), str(request), str(theirs)]
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


def _attend(process: subprocess.Popen[bytes], reports: int, attempt: Attempt) -> Evidence:
    """Hand on what the process reports, and end with its result."""
    for line in _lines(reports, attempt):
        match _REPORTS.decode(line):
            case Advanced(progress=progress):
                attempt.progress(progress)
            case Done(evidence=evidence):
                return evidence
            case Failed() as failed:
                raise _error(failed)
            case Broken(detail=detail):
                raise Internal(detail)
    code = process.wait()
    # Who ends the whole group wants this attempt to end, and says so.
    attempt.checkpoint()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise ChildCrashed(f"The process of the conversion {how} without a result")


def _lines(reports: int, attempt: Attempt) -> Iterator[bytes]:
    """What the process writes, until it closes the pipe. Raises JobCancelled."""
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
        yield from lines


def _error(failed: Failed) -> StageError:
    """The error as it was raised there."""
    kind = next((kind for kind in _kinds(StageError) if kind.__name__ == failed.error), Internal)
    if issubclass(kind, TransientError):
        return kind(failed.detail, hint=failed.hint, wait_s=failed.wait_s)
    return kind(failed.detail, hint=failed.hint)


def _kinds(root: type[StageError]) -> Iterator[type[StageError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
