"""The spans of a stage: of the attempt in the worker, and of its parts in the child, which sends nothing off itself."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from common import tracing
from common.log import about, not_reserved, redact
from common.records import Claim, LogEntry
from common.seals import blot_out
from common.tracing import Kind, Place, Span, SpanNote, Value, place_of
from common.tracing.places import is_span_id
from worker.forkserver import Channel, ChannelClosed
from worker.joblog import has_room
from worker.messages import Timed

_child = logging.getLogger("worker.child")

_MOST_SPANS = 200
_MOST_ATTRIBUTES = 20
_NAME_CHARS = 100
_VALUE_CHARS = 300
_MOST_LINKS = 32
_MOST_JOBS = 32
_LEVELS: Mapping[str, int] = {"debug": logging.DEBUG, "info": logging.INFO, "error": logging.ERROR}


@contextmanager
def watched(claim: Claim) -> Iterator[Span]:
    """Every line that this thread logs meanwhile, and every span that it makes, is about the attempt of this claim.

    Its span is below that of the request which has asked for the first of its jobs, and refers to those of the others.
    """
    places = [place for place in map(place_of, claim.traces[: _MOST_LINKS + 1]) if place is not None]
    with (
        tracing.span(
            f"stage {claim.kind}",
            kind=Kind.CONSUMER,
            parent=places[0] if places else None,
            links=places[1:],
            stage__id=claim.stage_id,
            stage__kind=claim.kind,
            stage__attempt=claim.attempt,
            stage__waited_s=None if claim.waited_s is None else round(claim.waited_s, 3),
            pool=claim.pool,
            hub=claim.hub or None,
            job__ids=claim.job_ids[:_MOST_JOBS],
        ) as span,
        about(
            stage=claim.stage_id,
            attempt=claim.attempt,
            kind=claim.kind,
            jobs=_named(claim.job_ids),
            trace_id=tracing.trace_id(),
        ),
    ):
        yield span


def note_outcome(outcome: str, code: str | None = None) -> None:
    """Say in the span of the attempt how it has ended."""
    tracing.note(stage__outcome=outcome)
    if code is not None:
        tracing.note(error__code=code)
        tracing.fail(code)


class ChildSpans:
    """Takes in what a child tells of its spans: only as many, as long and as large as an honest one would."""

    def __init__(self) -> None:
        self._top = tracing.current()
        self._began_ns = time.time_ns()
        self._left = _MOST_SPANS

    def hear(self, timed: Timed, hidden: Sequence[str]) -> None:
        """Put a part of the attempt where it belongs. Never fails."""
        noted = timed.span
        if self._left <= 0 or not (is_span_id(noted.span_id) and is_span_id(noted.parent_id)):
            return
        self._left -= 1
        now = time.time_ns()
        began_ns = min(max(noted.began_ns, self._began_ns), now)
        self._top.adopt(
            SpanNote(
                name=_clean(noted.name, _NAME_CHARS, hidden),
                span_id=noted.span_id,
                parent_id=noted.parent_id,
                began_ns=began_ns,
                ended_ns=min(max(noted.ended_ns, began_ns), now),
                attributes={
                    _clean(name, _NAME_CHARS, hidden): _clean(value, _VALUE_CHARS, hidden)
                    if isinstance(value, str)
                    else value
                    for name, value in list(noted.attributes.items())[:_MOST_ATTRIBUTES]
                },
                error=_clean(noted.error, _NAME_CHARS, hidden),
            )
        )


def repeat(line: LogEntry | None) -> None:
    """Log what a child has said, as it is kept in the log of its jobs."""
    if line is None:
        return
    fields = not_reserved(line.fields)
    _child.log(_LEVELS.get(line.level, logging.WARNING), "%s", line.text, extra=fields)


def _named(job_ids: Sequence[str]) -> str:
    """One stage may be wanted by thousands of jobs, and stands in every line."""
    more = len(job_ids) - _MOST_JOBS
    return ",".join(job_ids[:_MOST_JOBS]) + (f" and {more} more" if more > 0 else "")


def _clean(text: str, most: int, hidden: Sequence[str]) -> str:
    return redact(blot_out(text, hidden))[:most]


# In the child


class ToldSpan:
    """A span of a child: told to the supervisor at its end. The first one stands for the supervisor's own."""

    def __init__(
        self, channel: Channel, place: Place, name: str = "", above: "ToldSpan | None" = None, began_ns: int = 0
    ) -> None:
        self.place = place
        self._channel = channel
        self._name = name
        self._above = above
        # Counts the spans of the whole child.
        self.numbers: Iterator[int] = itertools.count() if above is None else above.numbers
        self._began_ns = began_ns
        self._attributes: dict[str, str | int | float | bool] = {}
        self._error = ""

    def child(self, name: str, began_ns: int, attributes: Mapping[str, Value]) -> Span:
        made = ToldSpan(self._channel, self.place.below(), name, self, began_ns)
        made.note(attributes)
        return made

    def rename(self, name: str) -> None:
        self._name = name

    def note(self, attributes: Mapping[str, Value]) -> None:
        for name, value in attributes.items():
            self._attributes[name] = value if isinstance(value, str | int | float) else ",".join(value)

    def fail(self, error: str) -> None:
        self._error = error

    def end(self) -> None:
        if self._above is None or next(self.numbers) >= _MOST_SPANS:
            return
        noted = SpanNote(
            name=self._name,
            span_id=self.place.span_id,
            parent_id=self._above.place.span_id,
            began_ns=self._began_ns,
            ended_ns=time.time_ns(),
            attributes=self._attributes,
            error=self._error,
        )
        try:
            # Better to lose a span than to wait for a supervisor that does not read.
            if has_room(self._channel):
                self._channel.send(Timed(span=noted))
        except (ChannelClosed, TypeError, ValueError):
            return

    def adopt(self, noted: SpanNote) -> None:
        """A child has no children of its own that would tell of theirs."""


@contextmanager
def told_to(channel: Channel, traceparent: str | None) -> Iterator[None]:
    """Tell the supervisor of the spans that are made meanwhile, if somebody keeps the trace."""
    place = place_of(traceparent)
    if place is None or not place.sampled:
        yield
        return
    with tracing.under(ToldSpan(channel, place)):
        yield
