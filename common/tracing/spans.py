"""Spans, whoever keeps them: a library that sends them off, a channel to another process, or nobody."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol

import msgspec

from common.tracing.places import Place

Value = str | int | float | bool | Sequence[str]

_NS_PER_S = 1_000_000_000


class Kind(StrEnum):
    """What a span is to those around it."""

    SERVER = "server"
    CONSUMER = "consumer"
    INTERNAL = "internal"


class SpanNote(msgspec.Struct, frozen=True, kw_only=True):
    """A span that has ended, as plain data: what a process tells that sends nothing off itself."""

    name: str
    span_id: str
    parent_id: str
    began_ns: int
    """Since 1970."""
    ended_ns: int
    attributes: dict[str, str | int | float | bool] = {}
    error: str = ""
    """What went wrong, in one word; empty if nothing did."""


class Span(Protocol):
    """Something that goes on. No method raises."""

    @property
    def place(self) -> Place | None:
        """Where it is in its trace; None if there is no trace."""

    def child(self, name: str, began_ns: int, attributes: Mapping[str, Value]) -> "Span":
        """A part of it."""

    def rename(self, name: str) -> None:
        """Call it something else, once more is known."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add what is known by now."""

    def fail(self, error: str) -> None:
        """Say that it went wrong, in one word."""

    def end(self) -> None:
        """It is over."""

    def adopt(self, noted: SpanNote) -> None:
        """Take in a part of it that went on in another process."""


class Tracer(Protocol):
    """Makes spans that begin something, and keeps them. No method raises."""

    def begin(
        self, name: str, kind: Kind, parent: Place | None, links: Sequence[Place], attributes: Mapping[str, Value]
    ) -> Span:
        """A span below `parent`, or the first one of a trace."""

    def close(self) -> None:
        """Send off what has not been sent yet, as far as that is possible within a moment."""


class _Nothing:
    """A span that nobody keeps. It may still know the trace of somebody else, to hand it on."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place

    def child(self, name: str, began_ns: int, attributes: Mapping[str, Value]) -> "Span":  # noqa: ARG002
        return self

    def rename(self, name: str) -> None:
        pass

    def note(self, attributes: Mapping[str, Value]) -> None:
        pass

    def fail(self, error: str) -> None:
        pass

    def end(self) -> None:
        pass

    def adopt(self, noted: SpanNote) -> None:
        pass


NO_SPAN: Span = _Nothing()

_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)
_tracer: list[Tracer] = []
"""That of this process, if there is one. As with logging, there is one for the whole process, made by its entry."""


def use(tracer: Tracer | None) -> Tracer | None:
    """From now on this one makes the spans of this process. Returns the one before."""
    former = _tracer.pop() if _tracer else None
    if tracer is not None:
        _tracer.append(tracer)
    return former


def begun(
    name: str,
    *,
    kind: Kind,
    parent: Place | None = None,
    links: Sequence[Place] = (),
    attributes: Mapping[str, Value] | None = None,
) -> Span:
    """A span that begins something. Without a tracer, one that only hands on where its parent is."""
    if not _tracer:
        return NO_SPAN if parent is None else _Nothing(parent)
    return _tracer[0].begin(name, kind, parent, links, attributes or {})


def current() -> Span:
    """The span of this thread or coroutine."""
    return _current.get()


def is_kept() -> bool:
    """Whether somebody keeps the current span, so that it is worth while to tell more."""
    return not isinstance(_current.get(), _Nothing)


def traceparent() -> str | None:
    """Where the current span is, for whoever goes on with it elsewhere."""
    place = _current.get().place
    return None if place is None else place.traceparent


def trace_id() -> str | None:
    """The trace of the current span."""
    place = _current.get().place
    return None if place is None else place.trace_id


def note(**attributes: Value) -> None:
    """Add to the current span what is known by now. `a__b` is written `modelferry.a.b`."""
    _current.get().note(named(attributes))


def fail(error: str) -> None:
    """Say of the current span that it went wrong."""
    _current.get().fail(error)


def named(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Attributes under names of our own."""
    return {f"modelferry.{name.replace('__', '.')}": value for name, value in attributes.items() if value is not None}


@contextmanager
def under(span: Span) -> Iterator[Span]:
    """Let this span be the current one, and leave its end to whoever has begun it."""
    token = _current.set(span)
    try:
        yield span
    finally:
        _current.reset(token)


@contextmanager
def span(
    name: str, *, kind: Kind, parent: Place | None = None, links: Sequence[Place] = (), **attributes: Value | None
) -> Iterator[Span]:
    """A span that begins something, and is the current one until it ends."""
    began = begun(name, kind=kind, parent=parent, links=links, attributes=named(attributes))
    with under(began):
        yield from _to_its_end(began)


@contextmanager
def step(name: str, **attributes: Value | None) -> Iterator[Span]:
    """A part of the current span, which it is meanwhile itself. Nothing where there is no current span."""
    above = _current.get()
    if isinstance(above, _Nothing):
        yield above
        return
    began = above.child(name, time.time_ns(), named(attributes))
    with under(began):
        yield from _to_its_end(began)


def past(name: str, seconds: float, **attributes: Value | None) -> None:
    """A part of the current span that has ended just now, after so many seconds."""
    above = _current.get()
    if not isinstance(above, _Nothing):
        above.child(name, time.time_ns() - int(seconds * _NS_PER_S), named(attributes)).end()


def _to_its_end(began: Span) -> Iterator[Span]:
    try:
        yield began
    except BaseException as error:
        began.fail(getattr(error, "code", None) or type(error).__name__)
        raise
    finally:
        began.end()
