"""Exports Ultralytics' weights to OpenVINO in three forms, and proves each of them."""

import importlib.metadata
import json
import resource
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.catalog.ultralytics import CALIBRATION, PACKAGES, PROFILE, ExportOptions, official_models
from common.errors import OutputIncomplete, PermanentError, PluginNotInstalled
from common.plugins import Access, Attempt, Converter, Order
from common.spec import Evidence, Progress, Target
from common.vocabulary import Phase
from worker.converters.ultralytics.errand import Errand, Pictures, Report
from worker.converters.ultralytics.kinds import kind_of
from worker.converters.ultralytics.pictures import unpack_pictures
from worker.converters.ultralytics.proof import prove
from worker.elsewhere import Failed, sent

_ENTRY = "worker.converters.ultralytics.export"
_REPORT: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_OWN_TOOLS = ("nncf", "openvino", "torch")
"""What an export takes from the worker's environment."""
_FLOATS, _INT8 = ("FP32", "FP16"), "INT8"
_SUFFIX = ".pt"
_GUIDE = "docs/hubs/ultralytics.md"


@dataclass(frozen=True, slots=True)
class _Weights:
    """One model among those that were fetched."""

    name: str
    file: Path
    output: Path
    """Gets a folder for each form."""


@dataclass(slots=True)
class _Line:
    """Makes and proves one form after another, and remembers what is to be told of it."""

    environment: Path
    attempt: Attempt
    most_unpacked_mb: int | None
    seconds: dict[str, float] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    peak_memory_bytes: int = 0

    def make_floats(self, weights: _Weights) -> None:
        """The two forms in floating point."""
        with _scratch(self.attempt) as scratch:
            self._export("export", _errand(weights, scratch))
            self._prove(weights, _FLOATS)

    def make_int8(self, weights: _Weights, archive: Path) -> None:
        """The quantized form, calibrated with the pictures in the archive."""
        with _scratch(self.attempt) as scratch, _int8_errors(weights.name, archive.stem):
            pictures = Pictures(name=archive.stem, folder=str(scratch / "pictures"))
            with self._step("pictures"):
                count = unpack_pictures(archive, Path(pictures.folder), self.most_unpacked_mb, self.attempt.checkpoint)
            self._export("quantize", _errand(weights, scratch, pictures))
            self._prove(weights, (_INT8,), f", calibrated with {count} pictures of {archive.stem}")

    def _export(self, step: str, errand: Errand) -> None:
        with self._step(step), sent(_ENTRY, self.environment, errand, self.attempt) as reports:
            report = _REPORT.decode(next(reports))
        if isinstance(report, Failed):
            raise report.as_raised()
        self.peak_memory_bytes = max(self.peak_memory_bytes, report.peak_memory_bytes)

    def _prove(self, weights: _Weights, forms: Sequence[str], remark: str = "") -> None:
        with self._step("check"):
            for form in forms:
                self.attempt.checkpoint()
                self.checks.append(f"{weights.name} {prove(weights.output, weights.name, form)}{remark}")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Count the time inside as this step's."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begun, 3)


class UltralyticsExporter:
    """Has one model after another exported by the library, which lives in an environment of its own."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def convert(
        self, model: Path, orders: Sequence[Order[ExportOptions]], attempt: Attempt
    ) -> tuple[Evidence | None, ...]:
        """Leave each model's forms in folders named for them. Safe to repeat.

        Raises StageError: PluginNotInstalled, PickleRefused, ConversionFailed, OutputIncomplete, VerificationFailed,
        MemoryLimitExceeded, OutOfMemory, DiskFull, ChildCrashed; or JobCancelled.
        """
        order, *others = orders
        line = _Line(self._environment(), attempt, self._most_unpacked_mb())
        shutil.rmtree(order.folder, ignore_errors=True)
        found = _weights_in(model, order.folder)
        for number, weights in enumerate(found):
            attempt.progress(Progress(phase=Phase.CONVERTING, files_done=number, files_total=len(found)))
            line.make_floats(weights)
            if order.options.quantize is not None:
                line.make_int8(weights, model / CALIBRATION / f"{order.options.quantize}.zip")
        attempt.progress(Progress(phase=Phase.CHECKING, files_done=len(found), files_total=len(found)))
        evidence = Evidence(
            engine=PROFILE,
            profile=PROFILE,
            seconds=line.seconds,
            peak_memory_bytes=max(line.peak_memory_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
            checks=tuple(line.checks),
        )
        return evidence, *(None for _ in others)

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        """Nothing: no model server is told of these models."""

    def register(self, folder: Path, name: str) -> None:
        """Nothing: they are listed nowhere."""

    def versions(self, options: ExportOptions) -> dict[str, str]:  # noqa: ARG002 - all options take the same tools
        """The tools whose versions decide the bytes of a result. Of the library's environment: those it must have."""
        return {**PACKAGES, **{name: importlib.metadata.version(name) for name in _OWN_TOOLS}}

    def _environment(self) -> Path:
        named = json.loads(self._access.settings.get("MODELFERRY_PROFILES") or "{}").get(PROFILE)
        if not isinstance(named, str) or not Path(named).is_dir():
            raise PluginNotInstalled(
                f"This worker has no profile '{PROFILE}'" + (f": there is no folder {named}" if named else ""),
                hint=f"Install it with: python3 scripts/setup.py --profile {PROFILE}, and name its folder in "
                f"MODELFERRY_PROFILES: see {_GUIDE}.",
            )
        return Path(named)

    def _most_unpacked_mb(self) -> int | None:
        return int(self._access.settings.get("MODELFERRY_MAX_UNPACKED_MB") or 0) or None


def _weights_in(model: Path, output: Path) -> list[_Weights]:
    """The models that were fetched: one, or several in folders of their own. Raises OutputIncomplete."""
    files = sorted(model.glob(f"*{_SUFFIX}")) or sorted(model.glob(f"*/*{_SUFFIX}"))
    unknown = [file.stem for file in files if file.stem not in official_models()]
    if not files or unknown:
        raise OutputIncomplete(f"Of what was fetched, {unknown or 'nothing'} are weights of an official model")
    return [_Weights(file.stem, file, output / file.relative_to(model).parent) for file in files]


def _errand(weights: _Weights, scratch: Path, pictures: Pictures | None = None) -> Errand:
    official = official_models()[weights.name]
    return Errand(
        weights=str(weights.file.resolve()),
        name=weights.name,
        task=official.task,
        kind=kind_of(official),
        output=str(weights.output.absolute()),
        scratch=str(scratch),
        packages=PACKAGES,
        pictures=pictures,
    )


@contextmanager
def _scratch(attempt: Attempt) -> Iterator[Path]:
    """An empty folder, on the volume, that is gone afterwards."""
    folder = (attempt.workspace / "scratch").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _int8_errors(name: str, dataset: str) -> Iterator[None]:
    """Say in the words that clients know that INT8 was wanted and is not there."""
    try:
        yield
    except PluginNotInstalled:
        raise
    except PermanentError as error:
        detail = f"INT8 download attempt failed for Ultralytics model '{name}' using dataset '{dataset}': {error}"
        raise type(error)(detail, hint=error.advice) from error


_contract: type[Converter[ExportOptions]] = UltralyticsExporter
