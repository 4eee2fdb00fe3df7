"""Request ids, who asked for a job, and the spans of a request, at the real application."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import tracing
from common.log import configure
from common.outcome import Failed, Succeeded
from common.vocabulary import Pool
from tests.fakes.otlp import CollectedSpan, Collector
from tests.web import Web, web

ADMIN = "an-admin-key-of-thirty-two-letters"
MODEL = {"name": "org/model", "hub": "huggingface"}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
MADE = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure("debug", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this very process sends its spans."""
    with Collector() as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{running.url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        tracing.configure("modelferry-api")
        yield running
        tracing.finish()


def answers(stream: io.StringIO) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in read if line["event"] == "request.answered"]


def submitted(running: Web, **headers: str) -> str:
    answer = running.post("/models/download", params={"download_path": "x"}, json={"models": [MODEL]}, headers=headers)
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["job_ids"][0]
    return job_id


# The id of a request


def test_an_id_that_can_be_used_comes_back_with_every_kind_of_answer(tmp_path: Path) -> None:
    with web(tmp_path) as running:
        asked = [
            ("GET", "/health", 200), ("GET", "/jobs/none", 404), ("GET", "/nowhere", 404), ("PUT", "/jobs", 405),
            ("GET", "/jobs/", 307), ("OPTIONS", "/jobs", 204), ("POST", "/models/download", 422), ("GET", "/", 200),
            ("GET", "/static/none.css", 404), ("POST", "/mcp", 400), ("GET", "/mcp", 405),
        ]  # fmt: skip
        for number, (method, path, status) in enumerate(asked):
            answer = running.client.request(
                method, path, headers={"X-Request-Id": f"my.Id_{number}-x"}, follow_redirects=False
            )
            assert answer.headers.get_list("X-Request-Id") == [f"my.Id_{number}-x"], (method, path)
            assert answer.status_code == status or path == "/mcp", (method, path, answer.text)


def test_another_one_is_not_taken_and_a_new_one_is_made(tmp_path: Path) -> None:
    with web(tmp_path) as running:
        for given in ("", "a b", "x" * 65, "ö", "a\tb", "${jndi}"):
            found = running.get("/health", headers={"X-Request-Id": given.encode()}).headers["X-Request-Id"]
            assert MADE.fullmatch(found), given


def test_refusals_at_the_door_have_it_too(tmp_path: Path, lines: io.StringIO) -> None:
    with web(tmp_path, access="required", admin_key=ADMIN) as running:
        answer = running.get("/jobs", headers={"X-Request-Id": "r-1"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (401, "r-1")
    (line,) = answers(lines)
    assert (line["status"], line["caller"], line["request_id"]) == (401, "nobody", "r-1")


def test_reads_are_told_at_debug_and_changes_at_info_with_who_asked(tmp_path: Path, lines: io.StringIO) -> None:
    with web(tmp_path, access="required", admin_key=ADMIN) as running:
        key = {"Authorization": f"Bearer {ADMIN}"}
        running.get("/jobs", headers=key)
        submitted(running, **key)
        running.put("/nowhere")
    read, change, unknown = answers(lines)
    assert (read["level"], read["operation"], read["method"], read["status"]) == ("debug", "list_jobs", "GET", 200)
    assert (change["level"], change["operation"], change["caller"]) == ("info", "download_models", "admin")
    assert isinstance(change["seconds"], float)
    assert (unknown["level"], unknown["status"]) == ("debug", 404)
    assert ADMIN not in lines.getvalue()


def test_lines_that_a_handler_writes_in_its_thread_have_the_id(tmp_path: Path, lines: io.StringIO) -> None:
    with web(tmp_path) as running:
        # Redis is away here: the ticket cannot be sent, and a line says so.
        running.get("/ready", headers={"X-Request-Id": "r-ready"})
        (tmp_path / "models" / ".modelferry" / "state" / "modelferry.db").rename(tmp_path / "gone.db")
        running.get("/jobs", headers={"X-Request-Id": "r-jobs"})
    others = [json.loads(line) for line in lines.getvalue().splitlines()]
    known = {line["request_id"] for line in others if "request_id" in line}
    assert {"r-ready", "r-jobs"} <= known


def test_streams_are_passed_on_as_they_come() -> None:
    """Each piece is with the client before the next one is made."""
    asyncio.run(_stream())


async def _stream() -> None:
    from litestar import Litestar, get
    from litestar.response import Stream

    from api.watching import Watched, answered

    heard, gone = asyncio.Event(), asyncio.Event()

    @get("/stream")
    async def stream() -> Stream:
        async def pieces() -> Any:
            yield b"one"
            await asyncio.wait_for(heard.wait(), 5)
            yield b"two"

        return Stream(pieces())

    app = Litestar([stream], middleware=[Watched()], before_send=[answered], logging_config=None)
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            if message["body"] == b"one":
                heard.set()
            if not message["more_body"]:
                gone.set()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    scope: Any = {
        "type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream", "query_string": b"",
        "headers": [(b"host", b"x")], "scheme": "http", "server": ("x", 80), "client": ("y", 1), "root_path": "",
        "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    assert b"".join(sent) == b"onetwo"


# Who asked


def test_a_job_says_who_asked_for_it_and_a_retry_who_asked_for_that(tmp_path: Path) -> None:
    with web(tmp_path, access="required", admin_key=ADMIN) as running:
        admin = {"Authorization": f"Bearer {ADMIN}"}
        made = running.post("/keys", json={"name": "app one", "role": "operator"}, headers=admin).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        job_id = submitted(running, **key)
        assert running.get(f"/jobs/{job_id}", headers=admin).json()["requested_by"] == "app one"
        running.settle(Failed(code="internal", detail="no", hint=""))
        again = running.post(f"/jobs/{job_id}/retry", headers=admin).json()
        assert (again["retry_of"], again["requested_by"]) == (job_id, "admin")
        gate = {"models": [{**MODEL, "name": "org/other"}]}
        assert running.put("/gates/one", json=gate, headers=key).status_code == 201
        jobs = running.get("/jobs", headers=admin).json()["jobs"]
        assert [job["requested_by"] for job in jobs] == ["app one", "admin", "app one"]
        assert "app one, for" in running.get(f"/ui/jobs/{job_id}", headers=admin).text


def test_where_nobody_has_to_say_who_they_are_the_body_is_as_it_always_was(tmp_path: Path) -> None:
    with web(tmp_path) as running:
        job = running.job(submitted(running))
    assert not {"requested_by", "trace_id"} & job.keys()


def test_without_a_tracer_the_trace_of_the_client_is_handed_on(tmp_path: Path) -> None:
    """A worker may keep traces although this process does not."""
    with web(tmp_path) as running:
        job = running.job(submitted(running, traceparent=PARENT))
        submitted(running, traceparent=PARENT.replace(SPAN, "c" * 16))
        running.stages.claim(Pool.DOWNLOAD, "somebody")
        claim = running.stages.claim(Pool.DOWNLOAD, "somebody")
    assert job["trace_id"] == TRACE
    assert claim is None, "the second job wants the very same stage"


def test_a_claim_brings_the_traces_of_its_jobs_the_oldest_first(tmp_path: Path) -> None:
    with web(tmp_path) as running:
        others = [PARENT.replace(SPAN, f"{number:016x}") for number in range(1, 4)]
        ids = [submitted(running, traceparent=trace) for trace in others]
        ids.append(submitted(running))
        claim = running.claim()
        assert list(claim.job_ids) == ids
        assert list(claim.traces) == others
        assert claim.waited_s is not None
        assert 0 <= claim.waited_s < 60
        assert running.stages.settle(claim, Succeeded(artefact="a")) is not None
        assert list(running.claim().traces) == others, "the next stage has the same jobs"


def test_what_is_no_trace_is_none(tmp_path: Path) -> None:
    with web(tmp_path) as running:
        for given in ("", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"{PARENT}-x", "x" * 9000):
            assert "trace_id" not in running.job(submitted(running, traceparent=given)), given


# Spans


def named(spans: list[CollectedSpan], name: str) -> list[CollectedSpan]:
    return [span for span in spans if span.name == name]


def test_a_request_is_a_span_below_that_of_the_client(tmp_path: Path, collector: Collector) -> None:
    with web(tmp_path, access="required", admin_key=ADMIN) as running:
        job_id = submitted(running, traceparent=PARENT, Authorization=f"Bearer {ADMIN}", **{"X-Request-Id": "r-1"})
        running.get("/jobs?secret=1")
        running.get("/nowhere")
        spans = collector.wait(lambda spans: named(spans, "GET list_jobs") and named(spans, "job.submit"))
    (request,) = named(spans, "POST download_models")
    (submit,) = named(spans, "job.submit")
    (refused,) = named(spans, "GET list_jobs")
    assert (request.trace_id, request.parent_id, request.kind, request.failed) == (TRACE, SPAN, "server", False)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/models/download",
        "url.path": "/models/download",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "modelferry.request.id": "r-1",
        "modelferry.caller": "admin",
    }
    assert (submit.parent_id, submit.attributes["modelferry.job.ids"]) == (request.span_id, [job_id])
    assert refused.attributes["http.response.status_code"] == 401
    assert not refused.failed, "that is the client's fault, and no failure of ours"
    assert "secret" not in str(refused.attributes)
    assert len(spans) == 3


def test_a_trace_that_the_client_does_not_keep_is_not_kept_here(tmp_path: Path, collector: Collector) -> None:
    with web(tmp_path) as running:
        job_id = submitted(running, traceparent=PARENT[:-2] + "00")
        claim = running.claim()
        assert running.job(job_id)["trace_id"] == TRACE
        running.get("/jobs")
        spans = collector.wait(lambda spans: named(spans, "GET list_jobs"))
    assert claim.traces[0].endswith("-00")
    assert not named(spans, "POST download_models")


# Without any of it

_WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from common import log, tracing
from pathlib import Path
from tests.web import web
log.configure("info", "json")
tracing.configure("modelferry-api")
with web(Path(sys.argv[1])) as running:
    job = running.job(running.submitted({"name": "org/model", "hub": "huggingface"})[0])
print("status", job["status"], "trace" if "trace_id" in job else "no trace")
"""


def test_without_the_extra_a_line_says_so_and_everything_else_works(tmp_path: Path) -> None:
    done = _run(_WITHOUT, str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "status queued no trace" in done.stdout
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if "tracing.unavailable" in line]
    assert line["level"] == "error"
    assert "modelferry[tracing]" in line["reason"]


_OFF = """
import os, sys
from common import tracing
import api.app, worker.child
for asked in ({}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}):
    os.environ.update(asked and {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **asked})
    tracing.configure("modelferry-api")
    with tracing.step("nothing"):
        assert tracing.traceparent() is None
    for name in asked:
        del os.environ[name]
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))])
"""


def test_who_asks_for_no_traces_loads_nothing_for_them() -> None:
    """Of the library, that is. The client of Redis loads parts of it by itself, where they are installed."""
    done = _run(_OFF)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_variable_that_the_library_cannot_read_stops_nothing_and_is_not_repeated() -> None:
    script = "from common import log, tracing; log.configure('info', 'json'); tracing.configure('x'); print('on')"
    done = _run(
        script, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_MAX_QUEUE_SIZE="-5",
        OTEL_EXPORTER_OTLP_HEADERS="x-key=the-secret-of-the-collector",
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "on")
    assert "tracing.unavailable" in done.stderr
    assert "the-secret" not in done.stderr
    grpc = _run(script, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "http/protobuf" in grpc.stderr


def test_for_a_look_spans_are_shown_on_the_console() -> None:
    script = (
        "from common import tracing; tracing.configure('x')\n"
        "with tracing.span('a look', kind=tracing.Kind.INTERNAL): pass\n"
    )
    done = _run(script, OTEL_TRACES_EXPORTER="console")
    assert json.loads(done.stdout)["name"] == "a look"


def _run(script: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    import os

    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=clean | {"PYTHONPATH": str(Path(__file__).parents[2])} | variables,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
