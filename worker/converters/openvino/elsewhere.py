"""The entry of a conversion in another environment; only `profiles.convert_elsewhere` starts it.

`python -m worker.converters.openvino.elsewhere <folder of the environment> <errand> <file descriptor for reports>`
"""

import ctypes
import importlib
import importlib.metadata
import logging
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec

from common.errors import PluginNotInstalled, StageError, TransientError
from common.log import configure
from common.plugins import Access, Allowance, Order, TransferLimits
from common.spec import Evidence, Progress
from worker.converters.openvino.errand import Advanced, Broken, Done, Errand, Failed, Report
from worker.converters.openvino.older import complete_transformers
from worker.isolation import forbid_pickles
from worker.machine import no_memory

log = logging.getLogger(__name__)

_CONVERTER = "worker.converters.openvino.converter"
_PR_SET_PDEATHSIG = 1
_LONGEST = 2000


def main(folder: str, request: str, reports: int) -> None:
    """Do what the errand says, with the packages of `folder` before all others."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    sys.path.insert(0, folder)
    configure("info", "text")
    # The rule of the process that this one works for does not outlive the start of a new program.
    forbid_pickles()
    errand = msgspec.json.decode(Path(request).read_bytes(), type=Errand)
    tempfile.tempdir = errand.scratch
    wire = Wire(reports)
    wire.send(_outcome(errand, wire))
    # Native libraries may hang in their own clean-up.
    sys.stdout.flush()
    os._exit(0)


@dataclass(frozen=True)
class Wire:
    """The way back."""

    file: int

    def send(self, report: Report) -> None:
        """Report, in one line of JSON."""
        content = memoryview(msgspec.json.encode(report) + b"\n")
        while content:
            content = content[os.write(self.file, content) :]


@dataclass(frozen=True)
class ErrandAttempt:
    """The attempt as the converter sees it. It is cancelled by an end of this process. Implements `plugins.Attempt`."""

    workspace: Path
    wire: Wire
    limits: TransferLimits = field(default_factory=TransferLimits)

    @property
    def parts(self) -> Path:
        return _refuse()

    def allowance(self) -> Allowance:
        return _refuse()

    def hub_asks_to_wait(self, wait_s: float) -> None:
        _refuse(wait_s)

    def stored(self, sha256: str) -> Path | None:
        return _refuse(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        return _refuse(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        return _refuse(sha256, path)

    def finished(self, file: Path) -> None:
        """Who waits for this process takes the files into the store, and computes their digests then."""

    def progress(self, progress: Progress) -> None:
        self.wire.send(Advanced(progress=progress))

    def checkpoint(self) -> None:
        """Who waits for this process asks for itself, and kills it."""


def _outcome(errand: Errand, wire: Wire) -> Report:
    try:
        return Done(evidence=_convert(errand, wire))
    except StageError as error:
        wait_s = error.wait_s if isinstance(error, TransientError) else None
        return Failed(error=type(error).__name__, detail=str(error), hint=error.advice, wait_s=wait_s)
    except MemoryError:
        wanted = no_memory("The conversion ran out of memory")
        return Failed(error=type(wanted).__name__, detail=str(wanted), hint=wanted.advice)
    except Exception as error:
        # The last fence before the process ends.
        log.exception("conversion.broken")
        return Broken(detail=f"{type(error).__name__}: {error}"[:_LONGEST])


def _convert(errand: Errand, wire: Wire) -> Evidence:
    _check_versions(errand)
    complete_transformers()
    converter = importlib.import_module(_CONVERTER).OpenVINOConverter(Access(settings=errand.settings))
    order = Order(target=errand.target, options=errand.options, folder=Path(errand.folder))
    attempt = ErrandAttempt(Path(errand.workspace), wire)
    evidence = converter.convert(Path(errand.model), [order], attempt)[0]
    return msgspec.convert(evidence, Evidence)


def _check_versions(errand: Errand) -> None:
    """What is known of the profile holds for these releases only. Raises PluginNotInstalled."""
    for name, wanted in sorted(errand.versions.items()):
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != wanted:
            raise PluginNotInstalled(
                f"Profile '{errand.profile}' is not whole: it takes {name} {wanted}, and there is {found}",
                hint=f"Install it again: python3 scripts/setup.py --profile {errand.profile}",
            )


def _refuse(*given: object) -> NoReturn:
    raise RuntimeError(f"A conversion moves no files of the content store {given}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
