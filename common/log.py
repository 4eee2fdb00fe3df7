"""Logging set-up: events with fields, as readable text or JSON, with secrets blotted out."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

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
    r"hf_[A-Za-z0-9]{8,}|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{6,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)|(?<=\?)[^\s\"'<>)]*(?:(?i:signature|token|sig|credential)=)[^\s\"'<>)]*"
)


def configure(level: str, style: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send every log record of this process to one stream, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else _TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _LEAST.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def redact(text: str) -> str:
    """Blot out whatever looks like a token, a password in a URL, or a signed query."""
    return _SECRETS.sub("***", text)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}" + (f"  {fields}" if fields else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name}
        line.update({name: str(value) for name, value in fields_of(record).items()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, ensure_ascii=False))


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What a record says beside its event."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
