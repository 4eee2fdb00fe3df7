"""The byte mover under what all workers together leave to it: a share of the bandwidth, and silence."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import JobCancelled, RateLimited
from common.plugins import Allowance, TransferLimits
from common.spec import Digest, Progress, RemoteFile
from common.vocabulary import DigestAlgorithm
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import Fault, FaultKind, SetHeader, Status, Throttle, Trickle, rate_limited
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match
from tests.pacing import keeps
from worker.transfer import Patience, bring

KIB = 1024
MB = 1_000_000
HASTY = Patience(tries=6, first_s=0.02, longest_s=3.0, trickle_s=0.5)


@dataclass
class TimedAttempt(LocalAttempt):
    """Remembers when what had arrived."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        self.seen.append((time.monotonic(), progress.bytes_done))

    def rate(self, since: float, until: float) -> float:
        """Bytes per second between the first and the last report of that time."""
        seen = [one for one in self.seen if since <= one[0] <= until]
        (began, before), (ended, after) = seen[0], seen[-1]
        return (after - before) / (ended - began)


@dataclass
class Running:
    """A transfer in a thread of its own."""

    files: list[RemoteFile]
    attempt: LocalAttempt
    patience: Patience = HASTY
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._bring, daemon=True)
        self.thread.start()

    def _bring(self) -> None:
        try:
            bring(self.files, self.attempt, patience=self.patience)
        except BaseException as error:
            self.failure = error

    def cancel(self) -> None:
        self.attempt.cancelled.set()
        self.thread.join(5)
        assert isinstance(self.failure, JobCancelled)

    def ends_well(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert self.failure is None


@pytest.fixture
def hub() -> Iterator[FakeHuggingFace]:
    with FakeHuggingFace() as hub:
        yield hub


def an_attempt(folder: Path, *, block: int = 256 * KIB, allowed: Allowance | None = None) -> TimedAttempt:
    limits = TransferLimits(block_bytes=block, connect_s=2, read_s=5, stall_s=2, spare_bytes=0)
    return TimedAttempt(folder, limits, allowed=allowed or Allowance())


def files_of(hub: FakeHuggingFace, name: str, **sizes: int) -> list[RemoteFile]:
    contents = {path: random.Random(path).randbytes(size) for path, size in sizes.items()}
    commit = hub.add_repo(name, {f"{path}.safetensors": data for path, data in contents.items()}).head
    return [
        RemoteFile(
            path=path,
            size=blob.size,
            digest=Digest(algorithm=DigestAlgorithm.SHA256, value=hashlib.sha256(contents[path[:-12]]).hexdigest()),
            url=f"{hub.endpoint}/{name}/resolve/{commit.sha}/{path}",
        )
        for path, blob in commit.files.items()
    ]


def trouble(hub: FakeHuggingFace, kind: FaultKind, *, origin: str, count: int | None = None, skip: int = 0) -> None:
    hub.add_fault(Fault(kind=kind, match=Match(origin=origin), count=count, skip=skip))


def on_sixteen_connections(hub: FakeHuggingFace, folder: Path) -> Running:
    """A transfer that has found out that its hub limits each connection."""
    trouble(hub, Throttle(600_000), origin="cdn")
    running = Running(files_of(hub, "org/model", weights=60 * MB), an_attempt(folder))
    while hub.requests.peak_connections("cdn") < 16:
        assert running.failure is None
        time.sleep(0.02)
    return running


class TestBandwidth:
    def test_sixteen_connections_share_a_limit(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        running = on_sixteen_connections(hub, tmp_path)
        running.attempt.allowed = Allowance(bytes_per_s=2 * MB)
        time.sleep(1.0)
        before, began, cpu = hub.requests.bytes_served(origin="cdn"), time.monotonic(), time.process_time()
        time.sleep(4.5)
        ended, cpu = time.monotonic(), time.process_time() - cpu
        served = (hub.requests.bytes_served(origin="cdn") - before) / (ended - began)
        assert isinstance(running.attempt, TimedAttempt)
        assert keeps(2 * MB, running.attempt.rate(began, ended))
        assert served < 3 * MB, "nor does the network carry much more"
        assert cpu < 0.5 * (ended - began)
        running.cancel()

    def test_a_limit_that_is_set_holds_from_the_first_byte(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        files = files_of(hub, "org/model", weights=4 * MB)
        attempt = an_attempt(tmp_path, allowed=Allowance(bytes_per_s=2 * MB))
        began = time.monotonic()
        bring(files, attempt)
        assert keeps(2 * MB, 4 * MB / (time.monotonic() - began))
        assert hub.requests.peak_connections("cdn") == 4, "more would bring nothing"

    def test_two_transfers_share_by_halves(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        half = Allowance(bytes_per_s=1 * MB)
        began = time.monotonic()
        two = [
            Running(files_of(hub, f"org/{name}", **{name: 4 * MB}), an_attempt(tmp_path / name, allowed=half))
            for name in ("first", "second")
        ]
        for running in two:
            running.ends_well()
        assert keeps(2 * MB, 8 * MB / (time.monotonic() - began))

    def test_a_limit_that_is_lifted_is_gone_at_once(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path, allowed=Allowance(bytes_per_s=0.1 * MB))
        running = Running(files_of(hub, "org/model", weights=8 * MB), attempt)
        time.sleep(1.0)
        attempt.allowed = Allowance()
        began = time.monotonic()
        running.ends_well()
        assert time.monotonic() - began < 2.0

    def test_many_connections_on_a_low_limit_are_neither_asleep_nor_stalled(
        self, hub: FakeHuggingFace, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each brings less than the rate at which a connection counts as asleep, and the transfer has been fast."""
        with caplog.at_level("INFO"):
            running = on_sixteen_connections(hub, tmp_path)
            requests = hub.requests.count(origin="cdn")
            running.attempt.allowed = Allowance(bytes_per_s=20_000)
            time.sleep(4.0)
            assert running.failure is None
            assert hub.requests.count(origin="cdn") <= requests + 32
            running.cancel()
        assert "transfer.line_reopened" not in caplog.messages

    def test_who_is_asleep_below_a_limit_is_still_found(
        self, hub: FakeHuggingFace, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        trouble(hub, Trickle(chunk_bytes=1, interval_s=0.1), origin="cdn", count=1)
        with caplog.at_level("INFO"):
            attempt = an_attempt(tmp_path, allowed=Allowance(bytes_per_s=2 * MB))
            bring(files_of(hub, "org/model", weights=4 * MB), attempt, patience=HASTY)
        assert "transfer.line_reopened" in caplog.messages

    def test_a_cancel_does_not_wait_for_the_limit(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path, allowed=Allowance(bytes_per_s=1.0))
        running = Running(files_of(hub, "org/model", weights=MB), attempt)
        time.sleep(0.7)
        began = time.monotonic()
        running.cancel()
        assert time.monotonic() - began < 1.0


class TestSilence:
    def test_during_a_silence_nothing_is_asked(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path)
        trouble(hub, Throttle(400_000), origin="cdn")
        running = Running(files_of(hub, "org/model", weights=16 * MB), attempt)
        time.sleep(1.0)
        attempt.allowed = Allowance(silent_s=4.0)
        time.sleep(0.5)
        attempt.allowed = Allowance()
        asked = len(hub.requests)
        time.sleep(3.0)
        assert len(hub.requests) == asked
        hub.faults.clear()
        running.ends_well()
        assert len(hub.requests) > asked

    def test_a_silence_that_holds_from_the_start(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path, allowed=Allowance(silent_s=1.0))
        running = Running(files_of(hub, "org/model", weights=MB), attempt)
        time.sleep(0.8)
        assert len(hub.requests) == 0
        attempt.allowed = Allowance()
        running.ends_well()

    def test_a_silence_is_no_stall_and_can_be_cancelled(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path, allowed=Allowance(silent_s=60.0))
        running = Running(files_of(hub, "org/model", weights=MB), attempt)
        time.sleep(3.0)
        assert running.failure is None
        assert len(hub.requests) == 0
        running.cancel()

    def test_others_hear_of_a_429(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        attempt = an_attempt(tmp_path)
        trouble(hub, rate_limited(1, header="Retry-After"), origin="cdn", count=1, skip=2)
        bring(files_of(hub, "org/model", weights=4 * MB), attempt, patience=HASTY)
        assert attempt.wishes == [pytest.approx(1.0, abs=0.3)]

    def test_one_refusal_keeps_those_quiet_who_wait_for_the_same_answer(
        self, hub: FakeHuggingFace, tmp_path: Path
    ) -> None:
        attempt = an_attempt(tmp_path)
        trouble(hub, rate_limited(1), origin="hub", count=1)
        bring(files_of(hub, "org/model", weights=8 * MB), attempt, patience=HASTY)
        first, second, *_ = sorted(request.started_s for request in hub.requests)
        assert second - first > 0.9

    @pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
    def test_others_hear_of_a_wish_that_is_too_long_to_wait_for(
        self, hub: FakeHuggingFace, tmp_path: Path, header: str
    ) -> None:
        trouble(hub, rate_limited(100, header=header), origin="hub")
        with pytest.raises(RateLimited) as caught:
            bring(files_of(hub, "org/model", weights=MB), an_attempt(tmp_path), patience=HASTY)
        assert caught.value.wait_s == 100
        assert hub.requests.count() == 1

    def test_a_date_is_a_wish_too(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        trouble(hub, Status(429, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}), origin="hub")
        with pytest.raises(RateLimited) as caught:
            bring(files_of(hub, "org/model", weights=MB), an_attempt(tmp_path), patience=HASTY)
        assert caught.value.wait_s == 24 * 3600


class TestSpentQuota:
    """The hub grants a request, and says that it was the last one for now."""

    def spend(self, hub: FakeHuggingFace, seconds: int) -> None:
        trouble(hub, SetHeader("RateLimit", f'"resolvers";r=0;t={seconds}'), origin="hub", count=1)

    def test_the_next_request_waits(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        self.spend(hub, 1)
        bring(files_of(hub, "org/model", a=300 * KIB, b=200 * KIB, c=100 * KIB), an_attempt(tmp_path), patience=HASTY)
        asked = sorted(request.started_s for request in hub.requests.matching(origin="hub"))
        late = [at - asked[0] for at in asked if at - asked[0] > 0.5]
        assert len(asked) == 3
        assert min(late, default=1.0) > 0.9

    def test_what_is_known_to_be_elsewhere_is_fetched_meanwhile(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        self.spend(hub, 300)
        began = time.monotonic()
        bring(files_of(hub, "org/model", weights=8 * MB), an_attempt(tmp_path), patience=HASTY)
        assert time.monotonic() - began < 2.0
        assert hub.requests.count(origin="hub") == 1

    def test_who_needs_more_and_would_wait_too_long_gives_its_place_away(
        self, hub: FakeHuggingFace, tmp_path: Path
    ) -> None:
        self.spend(hub, 300)
        trouble(hub, Throttle(200_000), origin="cdn")
        with pytest.raises(RateLimited) as caught:
            bring(files_of(hub, "org/model", a=MB, b=MB - 1), an_attempt(tmp_path), patience=HASTY)
        assert caught.value.wait_s == pytest.approx(300, abs=5)
