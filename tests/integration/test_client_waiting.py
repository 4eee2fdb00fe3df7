"""Streams and waiting, by both clients, with a service that answers as a script says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import isasyncgen, isawaitable, isgenerator
from typing import Any

import httpx
import msgspec
import pytest

from api.client import AsyncClient, Client, NotUnderstood, Refused, TimedOut, Unreachable
from api.client.patience import GRACE_S, Patience
from api.wire import JobView, ProgressView
from api.wire.gates import GateView
from api.wire.live import EventView, LogLine, ProgressEvent, Snapshot, StreamEnd
from common.vocabulary import JobState, Operation, Phase, Priority

ADDRESS = "http://service.test"


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces. An error among them is a connection that breaks; a number is a wait."""

    def __init__(self, pieces: Sequence[bytes | Exception | float]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def stream(*pieces: bytes | Exception | float) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, stream=Pieces(pieces))


def event(name: str, data: object, event_id: str | None = None) -> bytes:
    own = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{own}data: ".encode() + msgspec.json.encode(data) + b"\n\n"


def job(job_id: str = "j", status: JobState = JobState.QUEUED, percent: float = 0.0) -> JobView:
    return JobView(
        id=job_id,
        job_id=job_id,
        operation_type=Operation.DOWNLOAD,
        model_name="org/model",
        hub="huggingface",
        download_path="",
        output_dir="/m",
        status=status,
        start_time="t",
        creation_time="t",
        plugin_name="huggingface",
        plugin="huggingface",
        model_type=None,
        revision=None,
        config={},
        attempt=1,
        priority=Priority.NORMAL,
        tenant="t",
        progress=progress(percent),
    )


def progress(percent: float) -> ProgressView:
    return ProgressView(
        phase=Phase.DOWNLOADING,
        percent=percent,
        bytes_done=1,
        bytes_total=None,
        files_done=0,
        files_total=None,
        bytes_resumed=0,
        speed_bps=None,
        eta_s=None,
    )


def happened(view: JobView, event_id: str) -> bytes:
    return event("job", EventView(id=event_id, at="t", event="job.any", job_id=view.id, job=view), event_id)


def answer(view: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(view))


RETRY = b"retry: 1\n\n"
DONE = job(status=JobState.COMPLETED, percent=100.0)
END = event("end", StreamEnd(job_id="j", status=JobState.COMPLETED), "9")


@dataclass
class Script:
    """Answers of a service: for each path one after the other, the last of them for ever."""

    answers: dict[str, list[Callable[[], httpx.Response]]]
    asked: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if path.endswith("events"):
            self.ids.append(request.headers.get("Last-Event-ID"))
        left = self.answers.get(path)
        if not left:
            return answer({"detail": "Not Found"}, 404)
        return (left.pop(0) if len(left) > 1 else left[0])()


def broken(error: Exception) -> httpx.Response:
    raise error


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a method of one of the clients, and gives all that an iterator yields."""
    transport = httpx.MockTransport

    def blocking(script: Script, method: str, *given: Any, **more: Any) -> Any:
        with Client(ADDRESS, transport=transport(script)) as client:
            result = getattr(client, method)(*given, **more)
            return list(result) if isgenerator(result) else result

    async def awaited(script: Script, method: str, *given: Any, **more: Any) -> Any:
        async with AsyncClient(ADDRESS, transport=transport(script)) as client:
            result = getattr(client, method)(*given, **more)
            return [one async for one in result] if isasyncgen(result) else await result

    return blocking if request.param == "Client" else lambda *given, **more: asyncio.run(awaited(*given, **more))


# Events


def test_events_of_a_job_until_its_end(ask: Callable[..., Any]) -> None:
    line = LogLine(id="3", at="t", level="info", event="log", job_id="j", message="hello")
    now = ProgressEvent(job_id="j", status=JobState.DOWNLOADING, progress=progress(50))
    pieces = (
        event("snapshot", job(), "1"),
        b": heartbeat\n\n",
        event("progress", now),
        event("log", line, "3"),
        event("new kind", {}),
        END,
    )
    events = ask(Script({"/jobs/j/events": [lambda: stream(*pieces)]}), "events", "j")
    assert [(one.event, one.id, one.data) for one in events] == [
        ("snapshot", "1", job()),
        ("progress", "1", now),
        ("log", "3", line),
        ("end", "9", StreamEnd(job_id="j", status=JobState.COMPLETED)),
    ]


def test_a_stream_that_is_cut_goes_on_where_it_was(ask: Callable[..., Any]) -> None:
    script = Script(
        {
            "/jobs/j/events": [
                lambda: stream(
                    RETRY, event("snapshot", job(), "1"), b"event: job\nid: 2\ndata: {", httpx.ReadError("cut")
                ),
                lambda: broken(httpx.ConnectError("away")),
                lambda: answer({"detail": "Starting"}, 503),
                lambda: stream(happened(job(percent=5), "2")),
                lambda: stream(END),
            ]
        }
    )
    events = ask(script, "events", "j")
    assert [one.event for one in events] == ["snapshot", "job", "end"]
    assert script.ids == [None, "1", "1", "1", "2"]


def test_a_stream_goes_on_from_a_given_id_and_may_be_over(ask: Callable[..., Any]) -> None:
    script = Script({"/jobs/j/events": [lambda: httpx.Response(204)]})
    assert ask(script, "events", "j", "8") == []
    assert script.ids == ["8"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (lambda: answer({"detail": "Job j not found"}, 404), Refused),
        (lambda: httpx.Response(200, html="<p>hello"), NotUnderstood),
        (lambda: stream(b"event: job\ndata: {}\n\n"), NotUnderstood),
        (lambda: broken(httpx.ConnectError("away")), Unreachable),
    ],
    ids=["refused", "a page", "other data", "away"],
)
def test_a_stream_that_is_none(
    ask: Callable[..., Any], given: Callable[[], httpx.Response], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ask(Script({"/jobs/j/events": [given]}), "events", "j")


def test_events_of_all_jobs(ask: Callable[..., Any]) -> None:
    snapshot = Snapshot(jobs=[job("a")], counts={JobState.QUEUED: 1})
    gone = answer({"detail": "gone"}, 410)
    script = Script({"/events": [lambda: stream(RETRY, event("snapshot", snapshot, "1")), lambda: gone]})
    with pytest.raises(Refused, match="gone"):
        ask(script, "all_events", logs=True)
    assert script.ids == [None, "1"]


# Waiting


def test_waiting_hears_of_every_change(ask: Callable[..., Any]) -> None:
    now = ProgressEvent(job_id="j", status=JobState.DOWNLOADING, progress=progress(50))
    pieces = (event("snapshot", job(), "1"), event("progress", now), event("progress", now), happened(DONE, "2"), END)
    script = Script({"/jobs/j/events": [lambda: stream(*pieces)]})
    seen: list[JobView] = []
    assert ask(script, "wait", "j", on_progress=seen.append) == DONE
    assert [(view.status, view.progress.percent) for view in seen] == [
        ("queued", 0.0),
        ("downloading", 50.0),
        ("completed", 100.0),
    ]
    assert script.asked == ["/jobs/j/events"]


@pytest.mark.parametrize(
    "no_stream",
    [
        lambda: answer({"detail": "Not Found"}, 404),
        lambda: answer({"detail": "Method Not Allowed"}, 405),
        lambda: answer({}, 501),
        lambda: httpx.Response(200, html="<p>hello"),
        lambda: stream(httpx.ReadTimeout("held up on the way")),
        lambda: stream(b": heartbeat\n\n"),
    ],
    ids=["404", "405", "501", "a page", "silence", "nothing"],
)
def test_waiting_without_a_stream(ask: Callable[..., Any], no_stream: Callable[[], httpx.Response]) -> None:
    script = Script(
        {
            "/jobs/j/events": [no_stream],
            "/jobs/j": [lambda: answer(job()), lambda: answer(job(status=JobState.DOWNLOADING)), lambda: answer(DONE)],
        }
    )
    seen: list[JobView] = []
    assert ask(script, "wait", "j", on_progress=seen.append) == DONE
    assert [view.status for view in seen] == ["queued", "downloading", "completed"]
    assert script.asked.count("/jobs/j/events") == 1


def test_waiting_survives_a_restart(ask: Callable[..., Any]) -> None:
    script = Script(
        {
            "/jobs/j/events": [
                lambda: broken(httpx.ConnectError("away")),
                lambda: stream(RETRY, event("snapshot", job(), "1"), httpx.RemoteProtocolError("cut")),
                lambda: broken(httpx.ConnectError("away")),
                lambda: stream(END),
            ],
            "/jobs/j": [
                lambda: broken(httpx.ConnectError("away")),
                lambda: broken(httpx.ReadTimeout("slow")),
                lambda: answer({"detail": "Starting"}, 503),
                lambda: answer(DONE),
            ],
        }
    )
    assert ask(script, "wait", "j") == DONE
    assert script.ids == [None, None, "1", "1"]


def test_waiting_for_a_job_that_is_not_there(ask: Callable[..., Any]) -> None:
    script = Script({"/jobs/j": [lambda: answer({"detail": "Job j not found"}, 404)]})
    with pytest.raises(Refused, match="Job j not found"):
        ask(script, "wait", "j")


@pytest.mark.parametrize("listens", [True, False], ids=["stream", "questions"])
def test_waiting_ends_with_its_time(ask: Callable[..., Any], listens: bool) -> None:
    heartbeats: list[bytes | Exception | float] = [event("snapshot", job(), "1")]
    for _ in range(2000):
        heartbeats += [0.05, b": heartbeat\n\n"]
    script = Script(
        {
            "/jobs/j/events": [lambda: stream(RETRY, *heartbeats) if listens else answer({}, 404)],
            "/jobs/j": [lambda: answer(job())],
        }
    )
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"The job has not ended within 0\.7 seconds"):
        ask(script, "wait", "j", timeout_s=0.7)
    assert 0.7 <= time.monotonic() - begun < 30


def test_waiting_for_several_jobs(ask: Callable[..., Any]) -> None:
    """One has ended before, one ends, one is told of only by its progress, and others are not ours."""
    snapshot = Snapshot(jobs=[job("b"), job("x")], counts={})
    last = ProgressEvent(job_id="c", status=JobState.COMPLETED, progress=progress(100))
    ended = {name: msgspec.structs.replace(DONE, id=name, job_id=name) for name in "abc"}
    pieces = (
        event("snapshot", snapshot, "1"),
        happened(job("x", JobState.FAILED), "2"),
        happened(ended["b"], "3"),
        event("progress", last),
    )
    script = Script(
        {
            "/events": [lambda: stream(*pieces, 5.0)],
            "/jobs/a": [lambda: answer(ended["a"])],
            "/jobs/c": [lambda: answer(job("c")), lambda: answer(ended["c"])],
        }
    )
    seen: list[JobView] = []
    assert ask(script, "wait_all", ["c", "a", "b", "a"], on_progress=seen.append) == [ended[name] for name in "caba"]
    assert {view.id for view in seen} == {"a", "b", "c"}
    assert script.asked == ["/events", "/jobs/a", "/jobs/c", "/jobs/c"]


def test_waiting_for_nothing(ask: Callable[..., Any]) -> None:
    assert ask(Script({}), "wait_all", []) == []


def test_a_callback_may_be_awaited() -> None:
    seen = []

    async def told(view: JobView) -> None:
        await asyncio.sleep(0)
        seen.append(view.status)

    async def run() -> None:
        transport = httpx.MockTransport(Script({"/jobs/j/events": [lambda: stream(happened(DONE, "1"), END)]}))
        async with AsyncClient(ADDRESS, transport=transport) as client:
            waiting = client.wait("j", on_progress=told)
            assert isawaitable(waiting)
            await waiting

    asyncio.run(run())
    assert seen == ["completed"]


# Gates


def gate(*, is_open: bool, missing: int) -> GateView:
    return GateView(
        name="g", open=is_open, models=[], missing=missing, eta_s=None, message="", created_at="t", changed_at="t"
    )


def test_waiting_for_a_gate(ask: Callable[..., Any]) -> None:
    closed, opened = gate(is_open=False, missing=1), gate(is_open=True, missing=0)
    script = Script(
        {
            "/gates/g": [
                lambda: answer(closed, 503),
                lambda: broken(httpx.ConnectError("away")),
                lambda: answer(closed, 503),
                lambda: answer(opened),
            ]
        }
    )
    seen: list[GateView] = []
    assert ask(script, "wait_gate", "g", on_change=seen.append) == opened
    assert seen == [closed, opened]


def test_a_gate_may_stay_closed_or_not_be_there(ask: Callable[..., Any]) -> None:
    script = Script({"/gates/g": [lambda: answer(gate(is_open=False, missing=1), 503)]})
    with pytest.raises(TimedOut, match="The gate g has not opened within"):
        ask(script, "wait_gate", "g", timeout_s=0.2)
    with pytest.raises(Refused):
        ask(Script({}), "wait_gate", "g")


# Patience


def test_patience_ends_after_a_minute_without_any_answer() -> None:
    clock = [0.0]
    patience = Patience(now=lambda: clock[0])
    away = Unreachable("away")
    for now in (0.0, GRACE_S):
        clock[0] = now
        patience.failed(away)
    patience.answered()
    clock[0] += 1
    patience.failed(Refused(503, "away"))
    clock[0] += GRACE_S + 1
    with pytest.raises(Unreachable):
        patience.failed(away)


def test_patience_has_none_with_what_will_not_pass() -> None:
    for error in (Refused(404, "no"), Refused(500, "no"), NotUnderstood("no")):
        with pytest.raises(type(error)):
            Patience().failed(error)


def test_questions_come_less_and_less_often() -> None:
    pauses = [patience.pause_s() for patience in [Patience(now=lambda: 0.0)] for _ in range(9)]
    assert (pauses[0], pauses[-1], pauses == sorted(pauses)) == (0.5, 5.0, True)
    assert Patience(0.2, now=lambda: 0.0).pause_s() == 0.2
