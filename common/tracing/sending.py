"""The tracer that sends spans off, by OpenTelemetry's SDK. The only door to that library: imported where it is used."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtherSpan
from opentelemetry.trace import Tracer as OtherTracer

from common.tracing.places import Place
from common.tracing.spans import Kind, Span, SpanNote, Tracer, Value

_NAME = "modelferry"
_LAST_MOMENT_S = 2.0
_KINDS: Mapping[Kind, SpanKind] = {
    Kind.SERVER: SpanKind.SERVER,
    Kind.CONSUMER: SpanKind.CONSUMER,
    Kind.INTERNAL: SpanKind.INTERNAL,
}


class _Sent:
    """A span of the SDK."""

    def __init__(self, own: OtherSpan, tracer: "_Sending") -> None:
        self._own = own
        self._tracer = tracer

    @property
    def place(self) -> Place | None:
        context = self._own.get_span_context()
        return Place(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=context.trace_flags.sampled)

    def child(self, name: str, began_ns: int, attributes: Mapping[str, Value]) -> Span:
        return self._tracer.below(self._own, name, began_ns, attributes)

    def rename(self, name: str) -> None:
        self._own.update_name(name)

    def note(self, attributes: Mapping[str, Value]) -> None:
        self._own.set_attributes(attributes)

    def fail(self, error: str) -> None:
        self._own.set_attribute("error.type", error)
        self._own.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._own.end()

    def adopt(self, noted: SpanNote) -> None:
        if isinstance(self._own, SdkSpan):
            self._tracer.send(noted, self._own)


class _Sending:
    """Makes spans, and sends them off in the background. What cannot be sent is dropped."""

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor) -> None:
        self._provider = provider
        self._processor = processor
        self._tracer: OtherTracer = provider.get_tracer(_NAME, version(_NAME))
        self._scope = InstrumentationScope(_NAME, version(_NAME))

    def begin(
        self, name: str, kind: Kind, parent: Place | None, links: Sequence[Place], attributes: Mapping[str, Value]
    ) -> Span:
        own = self._tracer.start_span(
            name,
            context=set_span_in_context(NonRecordingSpan(_INVALID if parent is None else _context(parent))),
            kind=_KINDS[kind],
            attributes=attributes,
            links=[Link(_context(place)) for place in links],
        )
        return _Sent(own, self)

    def below(self, parent: OtherSpan, name: str, began_ns: int, attributes: Mapping[str, Value]) -> Span:
        """A part of a span of ours."""
        own = self._tracer.start_span(
            name, context=set_span_in_context(parent), start_time=began_ns, attributes=attributes
        )
        return _Sent(own, self)

    def send(self, noted: SpanNote, top: SdkSpan) -> None:
        """Send off what went on below a span of ours, in another process."""
        context = top.get_span_context()
        attributes = dict(noted.attributes) | ({"error.type": noted.error} if noted.error else {})
        done = ReadableSpan(
            name=noted.name,
            context=_placed(context, noted.span_id),
            parent=_placed(context, noted.parent_id),
            resource=top.resource,
            attributes=attributes,
            status=Status(StatusCode.ERROR if noted.error else StatusCode.UNSET),
            start_time=noted.began_ns,
            end_time=noted.ended_ns,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(done)

    def close(self) -> None:
        # To a dead collector the library would send again and again before it gives up.
        ending = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        # A process whose interpreter has begun to end starts no thread any more: then what is left is lost.
        with suppress(RuntimeError):
            ending.start()
            ending.join(_LAST_MOMENT_S)


_INVALID = SpanContext(trace_id=0, span_id=0, is_remote=False)


def make_tracer(service: str, names: Mapping[str, str], *, console: bool) -> Tracer:
    """A tracer that sends to where the OTEL_* variables say, or shows what it would send."""
    ours = Resource.create({"service.name": service, "service.version": version(_NAME), **names})
    # An operator's own words go before ours.
    resource = ours.merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    processor = BatchSpanProcessor(ConsoleSpanExporter() if console else OTLPSpanExporter())
    provider.add_span_processor(processor)
    return _Sending(provider, processor)


def _context(place: Place) -> SpanContext:
    return SpanContext(
        trace_id=int(place.trace_id, 16),
        span_id=int(place.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT),
    )


def _placed(context: SpanContext, span_id: str) -> SpanContext:
    return SpanContext(
        trace_id=context.trace_id, span_id=int(span_id, 16), is_remote=False, trace_flags=context.trace_flags
    )
