"""Traces and logs of real processes: one trace from the request into the child, and lines that can be told apart."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.loopback import LoopbackServer
from tests.fakes.otlp import CollectedSpan, Collector
from tests.fakes.traffic import RequestLog

MODEL = {"name": "org/model", "hub": "huggingface"}
OTHERS_TRACE, OTHERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "key-of-the-collector-0123456789"
PARTS = ("redis", "api", "download", "reconcile")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service that sends its spans to a collector, and has brought one model twice."""
    with FakeHuggingFace() as hub, Collector() as collector:
        hub.add_repo("org/model", {"config.json": b"{}", "weights.safetensors": b"x" * 100_000})
        with Service(
            tmp_path_factory.mktemp("traced"),
            run=PARTS,
            HF_ENDPOINT=hub.endpoint,
            MODELFERRY_LOG_FORMAT="json",
            MODELFERRY_LOG_LEVEL="debug",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_HEADERS=f"x-key={SECRET}",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as service:
            first = _submitted(service, {"traceparent": f"00-{OTHERS_TRACE}-{OTHERS_SPAN}-01", "X-Request-Id": "r-1"})
            job = service.wait(first)
            assert job["status"] == "completed", job
            collector.wait(lambda spans: {"stage fetch", "publish", "stage publish"} <= {span.name for span in spans})
            yield SimpleNamespace(service=service, collector=collector, hub=hub, job=job)


def _submitted(service: Service, headers: dict[str, str]) -> str:
    answer = httpx.post(
        f"{service.url()}/models/download",
        params={"download_path": "x"},
        json={"models": [MODEL]},
        headers=headers,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["job_ids"][0]
    return job_id


def _only(spans: list[CollectedSpan], name: str) -> CollectedSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_one_trace_leads_from_the_request_through_the_stages_into_the_children(traced: SimpleNamespace) -> None:
    spans = traced.collector.trace(OTHERS_TRACE)
    request = _only(spans, "POST download_models")
    assert (request.parent_id, request.kind) == (OTHERS_SPAN, "server")
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/models/download"
    assert request.attributes["modelferry.request.id"] == "r-1"
    submit = _only(spans, "job.submit")
    assert submit.parent_id == request.span_id
    assert submit.attributes["modelferry.job.ids"] == [traced.job["id"]]
    fetch, publish = _only(spans, "stage fetch"), _only(spans, "stage publish")
    for stage in (fetch, publish):
        assert (stage.parent_id, stage.kind) == (request.span_id, "consumer")
        assert stage.attributes["modelferry.job.ids"] == [traced.job["id"]]
        assert stage.attributes["modelferry.stage.attempt"] == 1
        assert stage.attributes["modelferry.stage.outcome"] == "succeeded"
        assert stage.attributes["modelferry.stage.waited_s"] >= 0
        assert stage.resource["service.name"] == "modelferry-worker"
    assert fetch.attributes["modelferry.hub"] == "huggingface"
    below = {span.name: span for span in spans if span.parent_id in {fetch.span_id, publish.span_id}}
    assert {name: span.parent_id for name, span in below.items()} == {
        "resolve": fetch.span_id,
        "fetch": fetch.span_id,
        "verify": fetch.span_id,
        "publish": publish.span_id,
    }
    for span in below.values():
        stage = fetch if span.parent_id == fetch.span_id else publish
        assert stage.began_ns <= span.began_ns <= span.ended_ns <= stage.ended_ns
    assert below["fetch"].attributes["modelferry.files"] == 2
    assert request.resource["service.name"] == "modelferry-api"
    assert request.resource["deployment.environment"] == "test"


def test_the_job_shows_its_trace(traced: SimpleNamespace) -> None:
    assert traced.job["trace_id"] == OTHERS_TRACE
    assert "requested_by" not in traced.job, "nobody has to say who they are here"


def test_a_request_without_a_trace_begins_one_and_what_is_shared_refers_to_all(traced: SimpleNamespace) -> None:
    job_id = _submitted(traced.service, {})
    job = traced.service.wait(job_id)
    assert re.fullmatch(r"[0-9a-f]{32}", job["trace_id"])
    assert job["trace_id"] != OTHERS_TRACE
    traced.collector.wait(lambda spans: [s for s in spans if s.trace_id == job["trace_id"] and s.name == "publish"])
    request = _only(traced.collector.trace(job["trace_id"]), "POST download_models")
    assert request.parent_id == ""


def test_probes_leave_no_spans(traced: SimpleNamespace) -> None:
    assert traced.service.get("/health").status_code == 200
    assert not [span.name for span in traced.collector.spans if "health" in span.name or "ready" in span.name]


def test_hubs_hear_of_no_trace(traced: SimpleNamespace) -> None:
    requests = list(traced.hub.requests)
    assert requests
    assert not [name for request in requests for name in request.headers if name.lower() in {"traceparent", "baggage"}]


def test_the_collector_gets_its_key_and_nobody_else_sees_it(traced: SimpleNamespace) -> None:
    assert all(headers["x-key"] == SECRET for headers in traced.collector.headers)
    assert SECRET not in traced.service.log.read_text(encoding="utf-8")


def _lines(service: Service, part: str) -> list[dict[str, Any]]:
    found = []
    for line in service.lines(part):
        text = line.partition("|")[2].strip()
        assert text.startswith("{"), f"{part} has written a line that is no JSON: {text}"
        found.append(json.loads(text))
    return found


def test_every_line_is_json_and_says_which_process_it_is_from(traced: SimpleNamespace) -> None:
    for part, service in (
        ("api", "modelferry-api"),
        ("download", "modelferry-worker"),
        ("reconcile", "modelferry-reconciler"),
    ):
        lines = _lines(traced.service, part)
        assert lines, part
        assert {line["service"] for line in lines} == {service}
        assert all({"at", "level", "event", "logger"} <= line.keys() for line in lines)
    download = _lines(traced.service, "download")
    assert {line["pool"] for line in download} == {"download"}
    assert len({line["worker"] for line in download}) == 1


def test_lines_of_a_stage_say_which_and_so_do_those_of_its_child(traced: SimpleNamespace) -> None:
    job_id = traced.job["id"]
    about = [line for line in _lines(traced.service, "download") if job_id in line.get("jobs", "")]
    events = {line["event"] for line in about}
    assert {"stage.claimed", "stage.settled", "source.resolved", "source.fetched", "model.published"} <= events
    for line in about:
        assert line["kind"] in {"fetch", "publish"}
        assert line["attempt"] == 1
        assert line["stage"]
        assert line["trace_id"] == OTHERS_TRACE
    (fetched,) = [line for line in about if line["event"] == "source.fetched"]
    assert (fetched["logger"], fetched["files"]) == ("worker.child", 2)
    (settled,) = [line for line in about if line["event"] == "stage.settled" and line["kind"] == "publish"]
    assert isinstance(settled["seconds"], float)


def test_lines_of_a_request_have_its_id_and_its_trace(traced: SimpleNamespace) -> None:
    (line,) = [line for line in _lines(traced.service, "api") if line.get("request_id") == "r-1"]
    assert (line["event"], line["operation"], line["status"]) == ("request.answered", "download_models", 200)
    assert line["trace_id"] == OTHERS_TRACE


def test_a_dead_collector_costs_no_job_anything(tmp_path: Path) -> None:
    """One that takes connections and never answers: worse than none."""
    done = threading.Event()

    def never(_request: Any) -> Any:
        done.wait(60)
        raise OSError

    with FakeHuggingFace() as hub:
        hub.add_repo("org/model", {"config.json": b"{}"})
        dead = LoopbackServer("dead", never, RequestLog())
        dead.start()
        try:
            with Service(
                tmp_path,
                run=PARTS,
                HF_ENDPOINT=hub.endpoint,
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{dead.port}",
                OTEL_BSP_SCHEDULE_DELAY="50",
            ) as service:
                first = service.wait(_submitted(service, {}))
                second = service.wait(_submitted(service, {}))
                assert (first["status"], second["status"]) == ("completed", "completed")
                settled = [line for line in service.lines("download") if "stage.settled" in line]
                assert len(settled) == 4
                assert all(float(re.search(r"seconds=([\d.]+)", line)[1]) < 2 for line in settled)
                assert service.terminate("download", timeout_s=15) == 0
        finally:
            done.set()
            dead.stop()


def test_a_converter_that_is_cut_off_from_the_network_is_in_the_trace_too(
    tmp_path: Path, tiny: SimpleNamespace
) -> None:
    with FakeHuggingFace() as hub, Collector() as collector:
        hub.add_directory("tiny/bert", tiny.bert)
        with Service(
            tmp_path,
            run=(*PARTS, "convert"),
            HF_ENDPOINT=hub.endpoint,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as service:
            (job_id,) = service.submit({"name": "tiny/bert", "hub": "openvino", "type": "embeddings", "is_ovms": True})
            job = service.wait(job_id, 180)
            assert job["status"] == "completed", job
            collector.wait(lambda spans: [span for span in spans if span.name == "stage publish"])
            spans = collector.trace(job["trace_id"])
    request = _only(spans, "POST download_models")
    stages = [span for span in spans if span.name.startswith("stage ")]
    assert [span.name for span in stages] == ["stage plan", "stage fetch", "stage convert", "stage publish"]
    assert {span.parent_id for span in stages} == {request.span_id}
    convert, stage = _only(spans, "convert"), stages[2]
    assert (convert.parent_id, stage.resource["modelferry.pool"]) == (stage.span_id, "convert")
    steps = {span.name for span in spans if span.parent_id == convert.span_id}
    assert "convert: check" in steps, "that one is made in a thread of its own"
    assert len(steps) >= 3
    assert {"examine", "keep"} <= {span.name for span in spans if span.parent_id == stage.span_id}
