"""Logging set-up: events with fields, as readable text or JSON, with secrets blotted out."""

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TextIO, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_LEAST = {
    **dict.fromkeys(("httpx", "httpcore", "filelock", "urllib3", "kombu", "amqp", "alembic"), logging.WARNING),
    # A line of our own tells of each stage; Celery's would repeat every ticket, twice.
    **dict.fromkeys(("celery.app.trace", "celery.worker.strategy"), logging.WARNING),
    # At every lost connection Celery announces that late acknowledgement may change; ours is early.
    "py.warnings": logging.ERROR,
}
"""Chatty loggers, and the least level at which they are heard."""

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{8,}|mf_[0-9a-f]{12}_[A-Za-z0-9_-]{8,}|(?<=modelferry_session=)[A-Za-z0-9_-]+|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{6,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|(?<=\?)[^\s\"'<>)]*(?:(?i:signature|token|sig|credential)=)[^\s\"'<>)]*"
)


_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))


def configure(
    level: str,
    style: Literal["text", "json"],
    stream: TextIO | None = None,
    *,
    names: Mapping[str, object] | None = None,
) -> None:
    """Send every log record of this process to one stream, stderr by default.

    `names` say which process it is, in every JSON line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines(names or {}) if style == "json" else _TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _LEAST.items():
        logging.getLogger(name).setLevel(max(least, root.level))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Every record of this thread or coroutine has these fields meanwhile, whichever library makes it."""
    token = _about.set({**_about.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _about.reset(token)


def known(name: str) -> object | None:
    """What this thread or coroutine is about, by one of those names."""
    return _about.get().get(name)


class SharedThreads(ThreadPoolExecutor):
    """Threads that work under the fields, and in the trace, of whoever gives them something to do."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ThreadPoolExecutor does."""
        run: Callable[..., T] = copy_context().run
        return super().submit(run, fn, *args, **kwargs)


def redact(text: str) -> str:
    """Blot out whatever looks like a token, a password in a URL, or a signed query."""
    return _SECRETS.sub("***", text)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _all_fields_of(record).items())
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}" + (f"  {fields}" if fields else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class _JsonLines(logging.Formatter):
    def __init__(self, names: Mapping[str, object]) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name}
        fields = {**self._names, **_all_fields_of(record)}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        # What every line has is not to be had under another meaning.
        told = line | {f"{name}_" if name in line else name: value for name, value in fields.items()}
        return json.dumps({redact(name): _plain(value) for name, value in told.items()}, ensure_ascii=False)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What a record says beside its event."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def not_reserved(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a record may be given: `logging` refuses names of its own."""
    return {name: value for name, value in fields.items() if name not in _STANDARD}


def _all_fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Its own, and what it is about. That holds: whoever is quoted in a line cannot make it one of another stage."""
    return {**fields_of(record), **_about.get()}


def _plain(value: object) -> object:
    """Numbers as numbers; everything else as text, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return redact(str(value))
