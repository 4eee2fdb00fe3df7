"""The entry of a conversion in another environment; only `profiles.convert_elsewhere` starts it.

`python -m worker.converters.openvino.elsewhere <folder of the environment> <errand> <file descriptor for reports>`
"""

import importlib
import importlib.metadata
import logging
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec

from common.errors import StageError
from common.plugins import Access, Allowance, Order, TransferLimits
from common.spec import Evidence, Progress
from worker.converters.openvino.errand import Advanced, Broken, Done, Errand, Report
from worker.converters.openvino.older import complete_transformers
from worker.elsewhere import Failed, begin, check_packages, end, send
from worker.machine import no_memory

log = logging.getLogger(__name__)

_CONVERTER = "worker.converters.openvino.converter"
_LONGEST = 2000


def main(folder: str, request: str, reports: int) -> None:
    """Do what the errand says, with the packages of `folder` before all others."""
    begin(folder)
    errand = msgspec.json.decode(Path(request).read_bytes(), type=Errand)
    tempfile.tempdir = errand.scratch
    send(reports, _outcome(errand, reports))
    end()


@dataclass(frozen=True)
class ErrandAttempt:
    """The attempt as the converter sees it. It is cancelled by an end of this process. Implements `plugins.Attempt`."""

    workspace: Path
    reports: int
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

    def finished(self, file: Path, sha256: str | None = None) -> None:
        """Who waits for this process takes the files into the store, and computes their digests then."""

    def progress(self, progress: Progress) -> None:
        send(self.reports, Advanced(progress=progress))

    def checkpoint(self) -> None:
        """Who waits for this process asks for itself, and kills it."""


def _outcome(errand: Errand, reports: int) -> Report:
    try:
        return Done(evidence=_convert(errand, reports))
    except StageError as error:
        return Failed.by(error)
    except MemoryError:
        return Failed.by(no_memory("The conversion ran out of memory"))
    except Exception as error:
        # The last fence before the process ends.
        log.exception("conversion.broken")
        return Broken(detail=f"{type(error).__name__}: {error}"[:_LONGEST])


def _convert(errand: Errand, reports: int) -> Evidence:
    check_packages(errand.profile, errand.versions)
    complete_transformers()
    converter = importlib.import_module(_CONVERTER).OpenVINOConverter(Access(settings=errand.settings))
    order = Order(target=errand.target, options=errand.options, folder=Path(errand.folder))
    attempt = ErrandAttempt(Path(errand.workspace), reports)
    evidence = converter.convert(Path(errand.model), [order], attempt)[0]
    return msgspec.convert(evidence, Evidence)


def _refuse(*given: object) -> NoReturn:
    raise RuntimeError(f"A conversion moves no files of the content store {given}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
