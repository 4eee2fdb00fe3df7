"""The job's own log: what a child says while it runs a stage, and what of it is kept."""

import logging
import select
import time
import traceback
from collections.abc import Mapping, Sequence

import msgspec

from common.log import fields_of, redact
from common.outcome import storable
from common.records import LogEntry
from common.seals import blot_out
from worker.forkserver import Channel, ChannelClosed
from worker.messages import Said

_LEVELS = frozenset({"debug", "info", "warning", "error"})
_OURS = ("worker.", "common.")
_MOST_LINES = 400
_MOST_WITH_TROUBLES = 500
"""Warnings and errors are kept where there is no room for more of the rest."""
_MOST_WAITING = 200
"""So many lines wait for a database that is away."""
_BURST = 100
_LINES_PER_S = 10.0
_SENT_CHARS = 8000
_LINE_CHARS = 2000
_FIELD_CHARS = 500
_MOST_FIELDS = 20

_SENTENCES: Mapping[str, str] = {
    "source.resolved": "The source: {files} file(s), {bytes} bytes, revision {revision}.",
    "source.reused": "All of it is in the content store already: nothing has to be fetched.",
    "source.fetched": "Fetched and verified: {files} file(s), {bytes} bytes, {resumed_bytes} of them from before.",
    "transfer.resumed": "{bytes} bytes are there from before.",
    "transfer.retried": "A request has failed and is made again in {wait_s} s: {reason}",
    "transfer.rate_limited": "The hub asks for fewer requests; the next one is made in {wait_s} s: {reason}",
    "transfer.line_reopened": "A connection had gone to sleep and is opened again.",
    "transfer.content_spoilt": "What has come is not what was promised, and is fetched once more: {reason}",
    "file.verified": "{path} is there and verified: {bytes} bytes, sha256 {sha256}.",
    "conversion.reused": "An equal conversion is in the content store: nothing has to be converted.",
    "conversion.begun": "The conversion begins: {type}, {precision} for {device}.",
    "conversion.proven": "The {engine} engine has made it, and it runs. {steps}",
    "conversion.compared": "It was compared with its source: {measure} {value} over {samples} inputs.",
    "model.published": "Published at {path}: {files} file(s), {bytes} bytes.",
    "model.kept": "The same model is at {path} already, whole: {files} file(s), {bytes} bytes.",
    "convert.not_for_fast_engine": "The fast engine does not suit this model, so the strict one converts it: {reason}",
    "convert.fast_engine_failed": "The fast engine has failed, so the strict one converts the model: {reason}",
    "pull.not_possible": "The ready-made model in {repository} cannot be taken: {reason}",
    "pull.other_model": "The ready-made model in {repository} was made of another one: {made_of}",
    "stage.broken": "Something went wrong that nobody has foreseen.",
}
"""What people read for the events that a child logs; any other is shown as it is, with its fields."""


class Telling(logging.Handler):
    """Sends what is logged in this process to the supervisor. It never fails, and hardly ever waits."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel
        self._pace = _Pace()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Our own records, and the warnings and errors of others."""
        if record.levelno < logging.WARNING and not record.name.startswith(_OURS):
            return
        if not self._pace.allows() or not has_room(self._channel):
            self._lost += 1
            return
        try:
            self._channel.send(_said(record, self._lost))
            self._lost = 0
        except ChannelClosed:
            # Nobody listens any more, and this process is about to end.
            return
        except Exception:  # noqa: BLE001 - a line that cannot be sent must not end what it tells of
            self._lost += 1


def has_room(channel: Channel) -> bool:
    """Whether something can be said without waiting for whoever listens."""
    poll = select.poll()
    try:
        poll.register(channel.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    return bool(poll.poll(0))


class Notebook:
    """The lines of one attempt, as they are kept: without credentials, bounded, until the table has them."""

    def __init__(self) -> None:
        self._hidden: list[str] = []
        self._pace = _Pace()
        self._waiting: list[tuple[float, LogEntry]] = []
        self._kept = 0
        self._lost = 0
        self._full = False

    @property
    def hidden(self) -> Sequence[str]:
        """What is kept out of every line."""
        return self._hidden

    def hide(self, secrets: Sequence[str]) -> None:
        """Keep these values out of every line, whatever form a library has given it. The longest go first."""
        self._hidden = sorted(secrets, key=len, reverse=True)

    def hear(self, said: Said) -> LogEntry | None:
        """Keep a line, where there is room for it; as it is kept, under its event, for other logs. Never fails."""
        self._lost += max(0, said.lost)
        most = _MOST_LINES if said.level in {"debug", "info"} else _MOST_WITH_TROUBLES
        if self._kept >= most:
            self._full = True
            return None
        if len(self._waiting) >= _MOST_WAITING or not self._pace.allows():
            self._lost += 1
            return None
        self._own_up()
        level = said.level if said.level in _LEVELS else "warning"
        kept = LogEntry(level=level, text=self._clean(said.text, _LINE_CHARS), fields=self._fields(said))
        self._keep(kept)
        return msgspec.structs.replace(kept, text=self._clean(said.event or said.text, _LINE_CHARS))

    def waiting(self) -> list[LogEntry]:
        """What the table does not have yet, with its age."""
        now = time.monotonic()
        return [
            LogEntry(level=entry.level, text=entry.text, fields=entry.fields, age_s=max(0.0, now - heard_at))
            for heard_at, entry in self._waiting
        ]

    def written(self, count: int) -> None:
        """The table has the first so many of them."""
        del self._waiting[:count]

    def close(self) -> list[LogEntry]:
        """The last lines, and what is to be said of those that were left out."""
        self._own_up()
        if self._full:
            self._keep(_left_out("This attempt has said more than is kept: the rest of it is left out."))
            self._full = False
        return self.waiting()

    def _own_up(self) -> None:
        if self._lost:
            self._keep(_left_out(f"{self._lost} lines were left out here: too many came at once."))
            self._lost = 0

    def _keep(self, entry: LogEntry) -> None:
        self._waiting.append((time.monotonic(), entry))
        self._kept += 1

    def _clean(self, text: str, most: int) -> str:
        clean = blot_out(text, self._hidden)
        if len(text) >= _SENT_CHARS and self._hidden:
            # It was cut off, perhaps in the middle of a credential, of which the beginning would be found by nobody.
            clean = clean[: max(0, len(clean) - len(self._hidden[0]))]
        clean = storable(redact(clean))
        return clean if len(clean) <= most else f"{clean[:most]} ..."

    def _fields(self, said: Said) -> dict[str, object]:
        return {
            self._clean(name, _FIELD_CHARS): self._clean(value, _FIELD_CHARS) if isinstance(value, str) else value
            for name, value in list(said.fields.items())[:_MOST_FIELDS]
        }


class _Pace:
    """Lets a burst of lines pass, and after that so many a second."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = time.monotonic()

    def allows(self) -> bool:
        now = time.monotonic()
        self._left = min(float(_BURST), self._left + (now - self._at) * _LINES_PER_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _left_out(text: str) -> LogEntry:
    return LogEntry(level="warning", text=text)


def _said(record: logging.LogRecord, lost: int) -> Said:
    fields = {name: _plain(value) for name, value in fields_of(record).items()}
    event = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        # Its end says what went wrong and where.
        fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-_FIELD_CHARS:]
    return Said(
        level=_level(record.levelno),
        text=_sentence(event, fields)[:_SENT_CHARS],
        event=event[:_SENT_CHARS],
        fields=fields,
        lost=lost,
    )


def _plain(value: object) -> str | int | float | bool | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        # What has more bits is read by hardly any client.
        return str(value)
    return value if isinstance(value, int | float | None) else str(value)[:_SENT_CHARS]


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    return "warning" if number >= logging.WARNING else "info"


def _sentence(event: str, fields: Mapping[str, object]) -> str:
    sentence = _SENTENCES.get(event)
    try:
        return event if sentence is None else sentence.format_map(fields)
    except (KeyError, ValueError):
        return event
