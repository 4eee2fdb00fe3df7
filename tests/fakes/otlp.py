"""A collector of traces: takes OTLP over HTTP on loopback, as the specification has it, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.fakes.exchange import Reply, Request, reply_with
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog


@dataclass(frozen=True)
class CollectedSpan:
    """One span as it came."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    began_ns: int
    ended_ns: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[str] = field(default_factory=list)
    """The spans that it refers to: `trace/span`."""


class Collector(OnLoopback):
    """A server on loopback."""

    def __init__(self, log: RequestLog | None = None) -> None:
        self.log = log or RequestLog()
        self.headers: list[dict[str, str]] = []
        self._server = LoopbackServer("collector", self._answer, self.log)
        self._spans: list[CollectedSpan] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def spans(self) -> list[CollectedSpan]:
        with self._lock:
            return list(self._spans)

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.began_ns)

    def wait(self, fulfilled: Callable[[list[CollectedSpan]], object], timeout_s: float = 15.0) -> list[CollectedSpan]:
        """The spans, once they are as wanted."""
        until = time.monotonic() + timeout_s
        while not fulfilled(spans := self.spans):
            assert time.monotonic() < until, f"after {timeout_s} s there are {[span.name for span in spans]}"
            time.sleep(0.05)
        return spans

    def _answer(self, request: Request) -> Reply:
        if request.method != "POST" or request.target != "/v1/traces":
            return reply_with(404)
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        asked = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.headers.append(dict(request.headers))
            for group in asked.resource_spans:
                resource = _attributes(group.resource.attributes)
                self._spans += [_span(span, resource) for scope in group.scope_spans for span in scope.spans]
        taken = ExportTraceServiceResponse().SerializeToString()
        return reply_with(200, taken, headers={"Content-Type": "application/x-protobuf"})


def _span(span: WireSpan, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        resource=resource,
        links=[f"{link.trace_id.hex()}/{link.span_id.hex()}" for link in span.links],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)
