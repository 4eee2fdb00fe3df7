"""Runs conversions the way a convert worker does: each in a process forked from one that has only imported."""

import contextlib
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import msgspec

from common.artefacts.blobs import sha256_of
from common.catalog.openvino import OPENVINO, OpenVINOOptions, normalise
from common.errors import JobCancelled, StageError
from common.plugins import Access, Allowance, Converter, Dossier, Order, Policy, TransferLimits
from common.spec import Evidence, Progress, Source, Target
from common.vocabulary import Format, ModelType, Phase, Precision

PATIENCE_S = 240.0

_TRUST = "MODELFERRY_TRUST_REMOTE_CODE"
_PICKLES = "MODELFERRY_ALLOW_PICKLE"


class ChildFailed(AssertionError):
    """The function raised, or its process died."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a test wants converted."""

    model: Path
    workspace: Path
    model_type: ModelType | None
    precision: Precision = Precision.INT8
    device: str = "CPU"
    config: Mapping[str, object] = field(default_factory=dict)
    siblings: tuple[Mapping[str, object], ...] = ()
    """The configs of other orders that are to come along, each with its `precision`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    cancelled_in: Phase | None = None

    @property
    def output(self) -> Path:
        """Where the result of the first order goes."""
        return self.workspace / "output"

    def sibling(self, number: int) -> Path:
        """Where the result of another order goes, counted from 0."""
        return self.workspace / f"sibling-{number}"


@dataclass(frozen=True)
class Conversion:
    """How one conversion ended. `error` is the class of the StageError, or nothing."""

    error: str | None = None
    text: str = ""
    hint: str = ""
    phases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    evidence: tuple[Evidence | None, ...] = ()

    @property
    def engine(self) -> str | None:
        """What has fulfilled the first order."""
        return self.evidence[0].engine if self.evidence and self.evidence[0] else None


@dataclass
class RecordingAttempt:
    """An attempt that remembers its phases, and is cancelled in one of them if told so."""

    workspace: Path
    cancelled_in: Phase | None = None
    phases: list[Phase] = field(default_factory=list)

    @property
    def parts(self) -> Path:
        return self.workspace / "parts"

    @property
    def limits(self) -> TransferLimits:
        return TransferLimits()

    def allowance(self) -> Allowance:
        return Allowance()

    def hub_asks_to_wait(self, wait_s: float) -> None:
        raise AssertionError(wait_s)

    def stored(self, sha256: str) -> Path | None:
        raise AssertionError(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        raise AssertionError(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        raise AssertionError(sha256, path)

    def finished(self, file: Path, sha256: str | None = None) -> None:
        assert sha256 in {None, sha256_of(file)}

    def progress(self, progress: Progress) -> None:
        self.phases.append(progress.phase)

    def checkpoint(self) -> None:
        if self.phases and self.phases[-1] is self.cancelled_in:
            raise JobCancelled


def in_child(function: Callable[..., object], *args: object) -> object:
    """What the function returns in a process of its own. It must be found by its module and name."""
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with _environment():
            process = context.Process(target=_run, args=(sender, str(log), function, args))
            process.start()
        sender.close()
        try:
            done, value = receiver.recv() if receiver.poll(PATIENCE_S) else (False, "It took too long")
        except EOFError:
            done, value = False, "The process died without a word"
        finally:
            process.kill()
            process.join()
            process.close()
            receiver.close()
        if not done:
            raise ChildFailed(f"{value}\n{_end_of(log)}")
        return value


def convert(wanted: Wanted) -> Conversion:
    """Plan, examine and convert, in this process: call it through `in_child`."""
    return run(OPENVINO.load(Access(settings=dict(wanted.settings))), wanted)


def run(converter: Converter[OpenVINOOptions], wanted: Wanted) -> Conversion:
    """Let a converter work, in this process."""
    attempt = RecordingAttempt(wanted.workspace, wanted.cancelled_in)
    started = time.monotonic()
    error: str | None = None
    text = hint = ""
    evidence: tuple[Evidence | None, ...] = ()
    try:
        evidence = converter.convert(wanted.model, orders(wanted), attempt)
    except StageError as ended:
        error, text, hint = type(ended).__name__, str(ended), ended.advice
    except JobCancelled:
        error = JobCancelled.__name__
    files = sorted(path.relative_to(wanted.output).as_posix() for path in wanted.output.rglob("*") if path.is_file())
    return Conversion(
        error=error,
        text=text,
        hint=hint,
        phases=tuple(attempt.phases),
        files=tuple(files),
        seconds=time.monotonic() - started,
        evidence=evidence,
    )


def orders(wanted: Wanted) -> list[Order[OpenVINOOptions]]:
    """The orders as the convert stage makes them: normalised at submit, then completed by an examination."""
    first = _order(wanted, {"precision": wanted.precision, **wanted.config}, wanted.output)
    return [first, *(_order(wanted, one, wanted.sibling(number)) for number, one in enumerate(wanted.siblings))]


def _order(wanted: Wanted, config: Mapping[str, object], folder: Path) -> Order[OpenVINOOptions]:
    precision, recipe, _ = normalise(wanted.model_type, wanted.device, config)
    target = Target(format=Format.OPENVINO, model_type=wanted.model_type, precision=precision, device=wanted.device)
    policy = Policy(code=wanted.settings.get(_TRUST) == "*", pickles=wanted.settings.get(_PICKLES) == "*")
    assert OPENVINO.examine is not None
    found = OPENVINO.examine(_dossier(wanted.model), target, recipe, policy)
    target = msgspec.structs.replace(target, model_type=found.model_type)
    return Order(target=target, options=OPENVINO.bind(found.options), folder=folder)


def _dossier(model: Path) -> Dossier:
    files = {file.relative_to(model).as_posix(): file for file in sorted(model.rglob("*")) if file.is_file()}
    papers = {path: file for path, file in files.items() if any(fnmatchcase(path, one) for one in OPENVINO.papers)}
    documents = {}
    for path, file in papers.items():
        with contextlib.suppress(ValueError):
            documents[path] = json.loads(file.read_bytes())
    return Dossier(
        source=Source(hub="huggingface", name="org/model"),
        revision="0" * 40,
        sizes={path: file.stat().st_size for path, file in files.items()},
        documents=documents,
    )


_lock = threading.Lock()
_made: list[ForkServerContext] = []
_home = tempfile.TemporaryDirectory(prefix="home-")


def _context() -> ForkServerContext:
    with _lock:
        if not _made:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(OPENVINO.preload))
            _made.append(context)
        return _made[0]


@contextmanager
def _environment():
    """What the fork server, started by the first process, is to see."""
    wanted = {
        "HOME": _home.name,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(sender: Connection, log: str, function: Callable[..., object], args: tuple[object, ...]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    # As the worker's own fork server does, so that no collection walks through all that was imported.
    gc.freeze()
    try:
        sender.send((True, function(*args)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
    # Native libraries may hang in their own clean-up; a worker's child does not wait for that either.
    os._exit(0)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""
