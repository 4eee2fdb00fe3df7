"""Traces: what happened within a request, from the API through the queue into the process that runs a stage.

A span is made where something begins, and is the current one of its thread or coroutine until it ends. Without a tracer
(see `configure`) none is made, and no library is imported for it. Nothing here raises because of a trace.
"""

from common.tracing.places import Place, place_of
from common.tracing.process import configure, finish
from common.tracing.spans import (
    NO_SPAN,
    Kind,
    Span,
    SpanNote,
    Tracer,
    Value,
    current,
    fail,
    is_kept,
    note,
    past,
    span,
    step,
    trace_id,
    traceparent,
    under,
)

__all__ = [
    "NO_SPAN",
    "Kind",
    "Place",
    "Span",
    "SpanNote",
    "Tracer",
    "Value",
    "configure",
    "current",
    "fail",
    "finish",
    "is_kept",
    "note",
    "past",
    "place_of",
    "span",
    "step",
    "trace_id",
    "traceparent",
    "under",
]
