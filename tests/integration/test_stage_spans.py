"""The spans of a stage: of its attempt, and of what a child tells of its own, honest or not."""

import socket
import time
from collections.abc import Iterator

import msgspec
import pytest

from common import tracing
from common.errors import IntegrityMismatch
from common.records import Claim
from common.tracing import SpanNote
from common.vocabulary import Pool, StageKind
from tests.fakes.otlp import CollectedSpan, Collector
from worker.forkserver import Channel
from worker.messages import FromChild, Timed
from worker.spans import ChildSpans, note_outcome, told_to, watched

DECODER: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
TRACE, OTHER = "a" * 32, "b" * 32
TRACES = (f"00-{TRACE}-{'1' * 16}-01", f"00-{OTHER}-{'2' * 16}-01", f"00-{OTHER}-{'3' * 16}-01")
SECRET = "credential0of0the0operator"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        tracing.configure("modelferry-worker", {"modelferry.pool": "download"})
        yield running
        tracing.finish()


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """The supervisor's end, and the child's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


def a_claim(*traces: str, waited_s: float | None = 1.23456) -> Claim:
    return Claim(
        stage_id="s1", kind=StageKind.FETCH, pool=Pool.DOWNLOAD, attempt=2, owner="w", work={}, hub="huggingface",
        job_ids=("j1", "j2", "j3"), traces=traces, waited_s=waited_s,
    )  # fmt: skip


def heard(channel: Channel) -> list[Timed]:
    found = []
    while (message := channel.receive(DECODER, timeout_s=0.0)) is not None:
        assert isinstance(message, Timed)
        found.append(message)
    return found


def by_name(spans: list[CollectedSpan]) -> dict[str, CollectedSpan]:
    return {span.name: span for span in spans}


def test_an_attempt_is_below_the_request_of_its_first_job_and_refers_to_the_others(collector: Collector) -> None:
    with watched(a_claim(*TRACES)):
        note_outcome("retry", "hub_unavailable")
    (span,) = collector.wait(lambda spans: spans)
    assert (span.name, span.kind, span.trace_id, span.parent_id) == ("stage fetch", "consumer", TRACE, "1" * 16)
    assert span.links == [f"{OTHER}/{'2' * 16}", f"{OTHER}/{'3' * 16}"]
    assert span.failed
    assert span.attributes == {
        "modelferry.stage.id": "s1",
        "modelferry.stage.kind": "fetch",
        "modelferry.stage.attempt": 2,
        "modelferry.stage.waited_s": 1.235,
        "modelferry.stage.outcome": "retry",
        "modelferry.pool": "download",
        "modelferry.hub": "huggingface",
        "modelferry.job.ids": ["j1", "j2", "j3"],
        "modelferry.error.code": "hub_unavailable",
        "error.type": "hub_unavailable",
    }
    assert span.resource["modelferry.pool"] == "download"


def test_a_stage_whose_jobs_have_no_trace_begins_one(collector: Collector) -> None:
    with watched(a_claim("not a trace", waited_s=None)):
        pass
    (span,) = collector.wait(lambda spans: spans)
    assert span.parent_id == ""
    assert "modelferry.stage.waited_s" not in span.attributes


def test_what_a_child_tells_of_lies_below_the_attempt(collector: Collector, channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    with watched(a_claim(TRACES[0])):
        taken = ChildSpans()
        with told_to(theirs, tracing.traceparent()):
            with tracing.step("fetch", files=3, hub="huggingface"):
                tracing.past("part", 0.001)
            with pytest.raises(IntegrityMismatch), tracing.step("verify"):
                raise IntegrityMismatch("no")
        for message in heard(ours):
            taken.hear(message, [])
    spans = by_name(collector.wait(lambda spans: len(spans) == 4))
    stage, fetch, part, verify = spans["stage fetch"], spans["fetch"], spans["part"], spans["verify"]
    assert [span.parent_id for span in (fetch, part, verify)] == [stage.span_id, fetch.span_id, stage.span_id]
    assert {span.trace_id for span in spans.values()} == {TRACE}
    assert fetch.attributes == {"modelferry.files": 3, "modelferry.hub": "huggingface"}
    assert (verify.failed, verify.attributes) == (True, {"error.type": "integrity_mismatch"})
    assert part.resource == stage.resource


def test_a_child_that_lies_gets_nowhere(collector: Collector) -> None:
    """It has read files of strangers: what it says goes no further than its own attempt, and is not believed."""
    good = SpanNote(name="x", span_id="4" * 16, parent_id="5" * 16, began_ns=1, ended_ns=2**62)
    with watched(a_claim(TRACES[0])):
        taken = ChildSpans()
        for forged in ({"span_id": "0" * 16}, {"span_id": "zz"}, {"parent_id": ""}, {"parent_id": f"{OTHER}/1"}):
            taken.hear(Timed(span=msgspec.structs.replace(good, **forged)), [])
        loud = {f"{'n' * 999}{number}": "v" * 9999 for number in range(50)}
        wordy = msgspec.structs.replace(
            good, name="y" * 9999, attributes={"said": f"at {SECRET}", **loud}, error="e" * 999
        )
        taken.hear(Timed(span=wordy), [SECRET])
        for number in range(500):
            taken.hear(Timed(span=msgspec.structs.replace(good, span_id=f"{number + 1:016x}")), [])
    spans = collector.wait(lambda spans: any(span.name == "stage fetch" for span in spans))
    told = [span for span in spans if span.name != "stage fetch"]
    stage = by_name(spans)["stage fetch"]
    assert len(told) == 200
    assert all(stage.began_ns <= span.began_ns <= span.ended_ns <= stage.ended_ns for span in told)
    (long,) = [span for span in told if span.name.startswith("y")]
    assert (len(long.name), long.attributes["said"]) == (100, "at ***")
    assert all(len(name) <= 100 and len(str(value)) <= 300 for name, value in long.attributes.items())


def test_nothing_is_told_where_nobody_keeps_it(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    for traceparent in (None, "nonsense", TRACES[0][:-2] + "00"):
        with told_to(theirs, traceparent), tracing.step("fetch"):
            pass
    assert heard(ours) == []
    with watched(a_claim(TRACES[0])):
        assert not tracing.is_kept(), "this process has no tracer"
        assert tracing.trace_id() == TRACE


def test_a_child_does_not_wait_for_a_supervisor_that_does_not_read(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    began = time.monotonic()
    with told_to(theirs, TRACES[0]):
        for _ in range(5000):
            with tracing.step("x", text="y" * 2000):
                pass
    assert time.monotonic() - began < 5
    assert 0 < len(heard(ours)) <= 200


def test_a_closed_channel_ends_no_stage(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    ours.close()
    with told_to(theirs, TRACES[0]), tracing.step("x"):
        pass
