"""The log of a job: what attempts say, as it is kept and as people read it."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from common.store.events import EventStore, JobEvent
from tests.builders import a_download
from tests.databases import sqlite_url
from tests.fakes.faults import Drop, Fault, rate_limited
from tests.fakes.faults import Throttle as Slow
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match
from tests.integration.test_runner import Desk, moved, until
from worker.runner import Runner

MIB = 1024 * 1024
SECRET = "credential0of0the0operator"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with ExitStack() as stack:
        hub = stack.enter_context(FakeHuggingFace())
        url = stack.enter_context(sqlite_url(folder))
        yield Desk(folder, url, hub, stack)


def runner_with_secret(desk: Desk, name: str) -> Runner:
    runner = desk.runner(name)
    runner.settings = structs.replace(runner.settings, hf_token=SECRET)
    return runner


def log_of(desk: Desk, job: str) -> list[JobEvent]:
    return [one for one in EventStore(desk.database).of_job(job, limit=1000) if one.is_said]


def ended(desk: Desk, job: str) -> bool:
    return desk.jobs.job(job).ended_at is not None


def test_a_fetch_tells_what_it_does(desk: Desk) -> None:
    job = desk.wish("org/large", 40 * MIB)
    desk.hub.add_fault(Fault(kind=Drop(), match=Match(origin="cdn"), count=2))
    desk.hub.add_fault(Fault(kind=rate_limited(1, header="Retry-After"), match=Match(origin="cdn"), count=1))
    with desk.fetching(desk.runner("large")):
        until(lambda: ended(desk, job))
    desk.hub.faults.clear()
    told = log_of(desk, job)
    said = [one.note or "" for one in told]
    assert said[0].startswith("The source: 1 file(s), 4")
    assert desk.jobs.job(job).result["revision"] in said[0]
    retried = [one for one in told if "is made again in" in (one.note or "")]
    assert retried
    assert retried[0].level == "warning"
    assert retried[0].fields["failures"] == 1
    assert "model.safetensors" in str(retried[0].fields["reason"])
    assert any("asks for fewer requests" in text for text in said)
    assert any(text.startswith("model.safetensors is there and verified: 4") for text in said)
    assert any(text.startswith("Fetched and verified: 1 file(s), 4") for text in said)
    assert said[-1].startswith("Published at ")
    assert told[-1].stage == "publish"
    assert {one.attempt for one in told} == {1}
    moments = [one.at for one in told]
    assert moments == sorted(moments)


def test_what_is_there_already_is_said_to_be(desk: Desk) -> None:
    name = "org/twice"
    first = desk.wish(name, MIB)
    runner = desk.runner("twice")
    with desk.fetching(runner):
        until(lambda: ended(desk, first))
    second = desk.wish(name, MIB)
    with desk.fetching(desk.runner("twice")):
        until(lambda: ended(desk, second))
    said = [one.note or "" for one in log_of(desk, second)]
    assert any("in the content store already" in text for text in said)
    assert said[-1].startswith("The same model is at ")


def test_no_credential_gets_into_a_log(desk: Desk) -> None:
    desk.hub.add_repo("org/secret", {f"{SECRET}.safetensors": b"x" * (17 * MIB)})
    desk.hub.tokens[SECRET] = set()
    (job,) = desk.jobs.add([a_download("org/secret")])
    desk.hub.add_fault(Fault(kind=Drop(), match=Match(origin="cdn"), count=1))
    with desk.fetching(runner_with_secret(desk, "secret")):
        until(lambda: ended(desk, job))
    desk.hub.faults.clear()
    told = log_of(desk, job)
    assert any("***.safetensors is there and verified" in (one.note or "") for one in told)
    assert SECRET not in repr([(one.note, one.fields) for one in told])
    path = Path(str(desk.database.url.database))
    written = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert SECRET.encode() not in written


def test_the_last_words_of_a_crashed_child_are_in_the_log(desk: Desk) -> None:
    desk.hub.add_fault(Fault(kind=Slow(300_000), match=Match(origin="cdn")))
    job = desk.wish("org/crash", 30 * MIB)
    server = desk._server.pid
    assert server is not None
    with desk.fetching(desk.runner("crash")):
        until(lambda: moved(desk, job) > 4 * MIB and log_of(desk, job))
        (child,) = psutil.Process(server).children()
        os.kill(child.pid, signal.SIGABRT)
        until(lambda: desk.jobs.job(job).last_error_code == "child_crashed")
        desk.hub.faults.clear()
        until(lambda: ended(desk, job))
    first = [one for one in log_of(desk, job) if one.attempt == 1]
    assert any("worker/transfer/mover.py" in (one.note or "") for one in first if one.level == "warning")
    assert not any("source.resolved" in (one.note or "") for one in first), "what was said once is not said again"
    (crashed, again) = desk.jobs.attempts(job)[:2]
    assert (crashed.outcome, again.outcome) == ("retried", "succeeded")
    resumed = [one.note for one in log_of(desk, job) if one.attempt == 2 and "from before" in (one.note or "")]
    assert resumed
