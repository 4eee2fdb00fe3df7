"""Tells the errors of the conversion tools apart."""

import errno
import os
import re
import shutil
import stat
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import (
    ConversionFailed,
    DiskFull,
    InvalidParameters,
    JobCancelled,
    StageError,
    UnsupportedModel,
    is_disk_full,
)
from worker.machine import left_to_map, no_memory

_OPTION_ERRORS = frozenset(
    {"InvalidGroupSizeError", "ParameterNotSupportedError", "UnsupportedDatasetError", "ValidationError"}
)
"""nncf's own errors, by their names: to import them would load torch, and a model that is IR already needs none."""
# The native libraries throw plain RuntimeErrors for this; there is no type to go by.
_NO_MEMORY = ("std::bad_alloc", "bad allocation", "DefaultCPUAllocator", "Cannot allocate memory")
# Whatever fails this close to the process's limit (a thread's stack, a library to load), fails for want of memory.
_CLOSE_BYTES = 256 * 1024 * 1024
_FULL_BELOW_BYTES = 1024 * 1024

_SAID_LINES = 12
_TRACE_LINES = 8
_LINE_LENGTH = 300
_TAIL_BYTES = 64 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def tool_errors(volume: Path, otherwise: type[StageError] = ConversionFailed) -> Iterator[None]:
    """Turn whatever a tool raises into the StageError that says what happened.

    `volume` is where the tool writes; `otherwise` is for errors that no rule knows.
    """
    start = _log_size()
    try:
        yield
    except (StageError, JobCancelled):
        raise
    except Exception as error:
        raise _explained(error, volume, otherwise, start) from error


@contextmanager
def option_errors() -> Iterator[None]:
    """Where the tools judge options: their ValueErrors are about what the user asked for."""
    try:
        yield
    except Exception as error:
        if not _is_about_options(error):
            raise
        if any(_is_memory(cause) for cause in _chain(error)) or _is_close_to_limit():
            raise
        raise InvalidParameters(f"The options do not fit this model: {_one_line(error)}") from error


def _is_about_options(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("nncf.")}
    return isinstance(error, ValueError) or bool(kinds & _OPTION_ERRORS)


def _explained(error: Exception, volume: Path, otherwise: type[StageError], start: int | None) -> StageError:
    causes = list(_chain(error))
    if any(_is_memory(cause) for cause in causes) or _is_close_to_limit():
        return no_memory(f"The conversion ran out of memory: {_one_line(error)}")
    if any(is_disk_full(cause) for cause in causes) or shutil.disk_usage(volume).free < _FULL_BELOW_BYTES:
        return DiskFull(f"The volume is full: {_one_line(error)}")
    for cause in causes:
        if isinstance(cause, ImportError):
            library = cause.name or _one_line(cause)
            return UnsupportedModel(f"This model needs a library that is not installed: {library}")
    said = [*_log_tail(start)[-_SAID_LINES:], *_trace_tail(error)]
    return otherwise(f"{_one_line(error)}\nThe end of the tool's output:\n" + "\n".join(said))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, as far as it goes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _NO_MEMORY)


def _is_close_to_limit() -> bool:
    left = left_to_map()
    return left is not None and left < _CLOSE_BYTES


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[: 2 * _LINE_LENGTH]


def _trace_tail(error: Exception) -> list[str]:
    return _clean("".join(traceback.format_exception(error)))[-_TRACE_LINES:]


def _log_size() -> int | None:
    """How long the log is that this process's errors go to, or None where they go to no file."""
    try:
        status = os.fstat(2)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _log_tail(start: int | None) -> list[str]:
    """What was written to the log since it was `start` long."""
    end = _log_size()
    if start is None or end is None:
        return []
    first = max(start, end - _TAIL_BYTES)
    try:
        with Path("/proc/self/fd/2").open("rb") as log:
            log.seek(first)
            text = log.read(end - first).decode("utf-8", "replace")
    except OSError:
        return []
    return _clean(text)


def _clean(text: str) -> list[str]:
    """The lines without colours and old progress bars, and without where this installation lies."""
    lines = (_ANSI.sub("", line).rsplit("\r", 1)[-1].rstrip() for line in text.split("\n"))
    return [line.replace(sys.prefix, "...")[:_LINE_LENGTH] for line in lines if line.strip()]
