"""The runner with everything real around it: what all workers together may do, and how it goes when it must."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from common.artefacts.layout import Volume
from common.broker import Broker
from common.outcome import Released
from common.records import LimitRecord, MemoryRoom
from common.settings import Settings
from common.spec import JobSpec
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import JobState, LimitScope, Operation, Pool
from tests.builders import a_conversion, a_download
from tests.databases import sqlite_url
from tests.fakes.faults import Fault, rate_limited
from tests.fakes.faults import Throttle as Slow
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match
from tests.pacing import keeps
from worker.forkserver import ForkServer
from worker.runner import LeftUnsettled, Runner

MB = 1_000_000
PRELOAD = ["worker.child", "worker.hubs.huggingface"]
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


class Desk:
    """A job table, a hub, and as many download workers as are wanted."""

    def __init__(self, folder: Path, url: str, hub: FakeHuggingFace, stack: ExitStack) -> None:
        self.hub = hub
        self.database = Database(url)
        self.jobs = JobStore(self.database)
        self.limits = LimitStore(self.database)
        self._folder = folder
        self._stack = stack
        self._server = stack.enter_context(ForkServer(PRELOAD, ENVIRONMENT, logging.getLogger()))
        self._server.wait_ready()
        stack.callback(self.database.dispose)

    def runner(
        self, name: str = "one", *, pool: Pool = Pool.DOWNLOAD, url: str | None = None, slots: int | None = None
    ) -> Runner:
        """A worker of its own: it shares nothing but the database and the volume with the others."""
        database = Database(url or str(self.database.url))
        self._stack.callback(database.dispose)
        volume = Volume(self._folder / "models")
        volume.prepare()
        settings = Settings(models_dir=volume.root, hf_endpoint=self.hub.endpoint, block_mb=1, spare_mb=0)
        retry = RetryPolicy(base_s=0.1, cap_s=0.2)
        return Runner(
            pool=pool,
            owner=name,
            store=StageStore(database, lease_s=60, retry=retry),
            limits=LimitStore(database),
            broker=Broker("redis://127.0.0.1:1/0"),
            server=self._server,
            volume=volume,
            settings=settings,
            slots=slots,
        )

    def plan_of(self, name: str) -> JobSpec:
        """The wish to know what a download would come to."""
        return structs.replace(a_download(name), operation=Operation.PLAN)

    @contextmanager
    def fetching(self, *runners: Runner) -> Iterator[None]:
        """The workers at work, until they have nothing more to do or the block ends."""
        threads = [threading.Thread(target=runner.work, daemon=True) for runner in runners]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for runner in runners:
                runner.drain()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()

    def wish(self, name: str, size: int) -> str:
        self.hub.add_repo(name, {"model.safetensors": name.encode() * (size // len(name))})
        return self.jobs.add([a_download(name)])[0]

    def served(self) -> int:
        return self.hub.requests.bytes_served(origin="cdn")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        hub = stack.enter_context(FakeHuggingFace())
        url = stack.enter_context(sqlite_url(tmp_path))
        yield Desk(tmp_path, url, hub, stack)


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_fetches_of_two_workers_share_the_services_bandwidth(desk: Desk) -> None:
    desk.limits.put(LimitRecord(scope=LimitScope.SERVICE, name="*", bytes_per_s=2 * MB))
    first, second = desk.wish("org/first", 30 * MB), desk.wish("org/second", 30 * MB)
    with desk.fetching(desk.runner("one"), desk.runner("two")):
        until(lambda: all((desk.jobs.job(job).progress or None) for job in (first, second)))
        time.sleep(2.5)
        before, began = moved(desk, first), time.monotonic()
        both = before + moved(desk, second)
        time.sleep(4.0)
        took = time.monotonic() - began
        assert (moved(desk, first) - before) / took < 1.4 * MB
        assert keeps(2 * MB, (moved(desk, first) + moved(desk, second) - both) / took)


def test_a_limit_may_be_set_changed_and_lifted_while_a_fetch_runs(desk: Desk) -> None:
    desk.limits.put(LimitRecord(scope=LimitScope.HUB, name="huggingface", bytes_per_s=MB // 2))
    job = desk.wish("org/model", 30 * MB)
    with desk.fetching(desk.runner()):
        until(lambda: moved(desk, job) > 0)
        time.sleep(1.0)
        before = moved(desk, job)
        time.sleep(2.0)
        assert 0.3 * MB < moved(desk, job) - before < 1.8 * MB
        desk.limits.remove(LimitScope.HUB, "huggingface")
        until(lambda: desk.jobs.job(job).state is JobState.COMPLETED, 6.0)


def test_a_429_that_one_worker_meets_silences_the_other(desk: Desk) -> None:
    desk.hub.add_fault(Fault(kind=Slow(400_000), match=Match(origin="cdn")))
    first, second = desk.wish("org/first", 30 * MB), desk.wish("org/second", 30 * MB)
    with desk.fetching(desk.runner("one"), desk.runner("two")):
        until(lambda: moved(desk, first) > 0 and moved(desk, second) > 0)
        desk.hub.add_fault(Fault(kind=rate_limited(6, header="Retry-After"), match=Match(origin="cdn"), count=1))
        until(lambda: desk.hub.requests.count(origin="cdn", status=429))
        refused = time.monotonic()
        until(lambda: desk.limits.hubs()[0].resumes_at, 2.0)
        (known,) = desk.limits.hubs()
        assert "429" in (known.reason or "")
        time.sleep(max(0.0, refused + 2.0 - time.monotonic()))
        asked = len(desk.hub.requests)
        time.sleep(3.0)
        assert len(desk.hub.requests) == asked, "neither worker asks for anything"
        desk.hub.faults.clear()
        until(lambda: len(desk.hub.requests) > asked, 4.0)
        until(lambda: desk.jobs.job(first).state is desk.jobs.job(second).state is JobState.COMPLETED)


def test_a_long_transfer_keeps_nobody_from_an_answer(desk: Desk) -> None:
    desk.hub.add_fault(Fault(kind=Slow(200_000), match=Match(origin="cdn")))
    runner = desk.runner(slots=1)
    first, second = desk.wish("org/first", 30 * MB), desk.wish("org/second", 30 * MB)
    with desk.fetching(runner, runner):
        until(lambda: moved(desk, first) > 0)
        (asked,) = desk.jobs.add([desk.plan_of("org/second")])
        until(lambda: desk.jobs.job(asked).state is JobState.COMPLETED)
        assert desk.jobs.job(first).state is JobState.DOWNLOADING
        # The thread that is left for what is brief takes no other transfer.
        assert desk.jobs.job(second).state is JobState.QUEUED


def test_a_429_before_the_first_byte_closes_the_hub(desk: Desk) -> None:
    desk.hub.add_fault(Fault(kind=rate_limited(60), match=Match(origin="hub")))
    job = desk.wish("org/model", MB)
    assert [line["outcome"] for line in desk.runner().work()] == ["retry"]
    assert desk.jobs.job(job).last_error_code == "rate_limited"
    desk.wish("org/other", MB)
    assert desk.runner("two").work() == []
    assert len(desk.hub.requests) == 1


def test_a_worker_that_goes_does_not_wait_for_the_database_for_ever(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk.wish("org/model", MB)
    claim = desk.runner().store.claim(Pool.DOWNLOAD, "gone")
    assert claim is not None
    runner = desk.runner("gone", url=f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    ended: list[BaseException] = []

    def settle() -> None:
        try:
            runner._settle(claim, Released())
        except LeftUnsettled as error:
            ended.append(error)

    settling = threading.Thread(target=settle, daemon=True)
    settling.start()
    settling.join(3.0)
    assert settling.is_alive(), "a worker that stays waits"
    runner.drain()
    settling.join(2.0)
    assert settling.is_alive(), "nor does one that goes give up at once"
    runner._hand_back_at -= 8.0
    settling.join(3.0)
    assert ended
    assert "stage.unsettled" in caplog.messages


def test_a_conversion_is_claimed_only_where_there_is_room(desk: Desk) -> None:
    asked: list[MemoryRoom] = []

    def room() -> MemoryRoom:
        asked.append(MemoryRoom(machine="here", budget_bytes=1, free_bytes=1))
        return asked[-1]

    desk.jobs.add([a_conversion()])
    runner = desk.runner(pool=Pool.CONVERT)
    runner.room = room
    assert runner.work() == []
    assert len(asked) == 1


def moved(desk: Desk, job: str) -> int:
    progress = desk.jobs.job(job).progress
    return 0 if progress is None else progress.bytes_done
