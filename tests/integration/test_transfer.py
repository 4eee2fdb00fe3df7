"""The byte mover against a hub that fails in every way that hubs fail."""

import hashlib
import itertools
import logging
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from common.errors import (
    DiskFull,
    HubUnavailable,
    IntegrityMismatch,
    JobCancelled,
    RateLimited,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TransferStalled,
)
from common.plugins import TransferLimits
from common.spec import Digest, RemoteFile
from common.vocabulary import DigestAlgorithm
from tests.fakes.attempt import Errand, LocalAttempt
from tests.fakes.faults import (
    Cut,
    Drop,
    Fault,
    FaultKind,
    FlipBit,
    Gzip,
    IgnoreRange,
    OmitHeader,
    RedirectLoop,
    RedirectTo,
    SetHeader,
    Stall,
    Status,
    Throttle,
    Trickle,
    WrongContentRange,
    rate_limited,
)
from tests.fakes.hf_repository import Content
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.signed_urls import UrlSigner
from tests.fakes.traffic import Match
from worker.transfer import Credential, Patience, bring

KIB = 1024
BLOCK = 256 * KIB
REPO = "org/model"
WEIGHTS = "model.safetensors"
HASTY = Patience(tries=6, first_s=0.02, longest_s=3.0, trickle_s=0.5)
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=20, spare_bytes=0)


def noise(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.fixture
def hub() -> Iterator[FakeHuggingFace]:
    with FakeHuggingFace() as hub:
        yield hub


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path, LIMITS)


def files_of(hub: FakeHuggingFace, contents: dict[str, Content], name: str = REPO) -> list[RemoteFile]:
    """Put files into the hub, and list them as an adapter would."""
    commit = hub.add_repo(name, contents).head
    return [
        RemoteFile(
            path=path,
            size=blob.size,
            digest=Digest(algorithm=DigestAlgorithm.SHA256, value=blob.sha256)
            if hub.lfs.covers(path, blob)
            else Digest(algorithm=DigestAlgorithm.GIT_SHA1, value=blob.git_oid),
            url=f"{hub.endpoint}/{name}/resolve/{commit.sha}/{path}",
        )
        for path, blob in commit.files.items()
    ]


def weights(hub: FakeHuggingFace, count: int = 16 * BLOCK + 77) -> tuple[list[RemoteFile], bytes]:
    """One large file that the CDN serves."""
    data = noise(count)
    return files_of(hub, {WEIGHTS: data}), data


def trouble(
    hub: FakeHuggingFace, kind: FaultKind, *, origin: str = "cdn", count: int | None = None, skip: int = 0
) -> None:
    hub.add_fault(Fault(kind=kind, match=Match(origin=origin), count=count, skip=skip))


def assert_brought(attempt: LocalAttempt, contents: dict[str, bytes]) -> None:
    found = {
        path.relative_to(attempt.workspace).as_posix(): path.read_bytes()
        for path in attempt.workspace.rglob("*")
        if path.is_file()
    }
    assert found == contents
    assert not list(attempt.parts.glob("*.part"))


def renamed(files: list[RemoteFile], **changes: object) -> list[RemoteFile]:
    return [msgspec.structs.replace(file, **changes) for file in files]


class TestBringing:
    def test_every_file_is_at_its_path_with_its_bytes(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        contents: dict[str, bytes] = {
            WEIGHTS: noise(9 * BLOCK + 1),
            "second.safetensors": noise(BLOCK, 2),
            "third.safetensors": noise(3, 3),
            "config.json": b"{}",
            "1_Pooling/config.json": b'{"a": 1}',
            "empty.txt": b"",
        }
        bring(files_of(hub, dict(contents)), attempt)
        assert_brought(attempt, contents)
        for data in contents.values():
            assert attempt.stored(hashlib.sha256(data).hexdigest())

    def test_progress_only_grows_and_ends_at_the_total(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        trouble(hub, Throttle(2_000_000))
        files, data = weights(hub)
        bring(files, attempt)
        done = [report.bytes_done for report in attempt.reports]
        assert done == sorted(done)
        assert any(0 < count < len(data) for count in done)
        last = attempt.reports[-1]
        assert (last.bytes_done, last.bytes_total, last.bytes_resumed) == (len(data), len(data), 0)
        assert (last.files_done, last.files_total) == (1, 1)

    def test_a_second_attempt_fetches_nothing(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, tmp_path: Path
    ) -> None:
        contents: dict[str, bytes] = {WEIGHTS: noise(3 * BLOCK), "config.json": b"{}"}
        files = files_of(hub, dict(contents))
        bring(files, attempt)
        hub.requests.clear()
        second = LocalAttempt(tmp_path, LIMITS, "second")
        bring(files, second)
        assert len(hub.requests) == 0
        assert_brought(second, contents)
        assert second.reports[-1].bytes_resumed == second.reports[-1].bytes_total

    def test_equal_content_is_fetched_once(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        data = noise(2 * BLOCK)
        contents = {"a.safetensors": data, "b/a.safetensors": data, "x.json": b"{}", "y.json": b"{}"}
        bring(files_of(hub, dict(contents)), attempt)
        assert_brought(attempt, contents)
        assert hub.requests.bytes_served(origin="cdn") == len(data)
        assert hub.requests.count("*.json", status=200) == 1
        assert attempt.reports[-1].files_done == 4
        assert attempt.reports[-1].bytes_resumed == len(data) + 2

    def test_the_hub_is_asked_once_where_a_large_file_is(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        bring(files, attempt)
        assert hub.requests.count(origin="hub") == 1

    def test_small_files_share_connections(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files = files_of(hub, {f"{number}.json": b"%d" % number for number in range(60)})
        bring(files, attempt)
        assert hub.requests.count(status=200) == 60
        assert hub.requests.peak_connections("hub") <= 4

    def test_more_connections_are_opened_where_each_is_limited(
        self, hub: FakeHuggingFace, attempt: LocalAttempt
    ) -> None:
        trouble(hub, Throttle(800_000))
        files, _ = weights(hub, 60 * BLOCK)
        bring(files, attempt)
        assert hub.requests.peak_connections("cdn") == 16

    def test_there_are_never_more_connections_than_allowed(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        trouble(hub, Throttle(2_000_000))
        files, _ = weights(hub)
        bring(files, LocalAttempt(tmp_path, msgspec.structs.replace(LIMITS, connections=3)))
        assert hub.requests.peak_connections("cdn") == 3


class TestIntegrity:
    def test_a_flipped_bit_is_noticed_and_mended(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        files, data = weights(hub)
        trouble(hub, FlipBit(5 * BLOCK + 3), count=1)
        with caplog.at_level(logging.WARNING):
            bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        assert "transfer.content_spoilt" in caplog.messages

    @pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
    def test_a_bit_that_is_always_flipped_is_an_error(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, path: str
    ) -> None:
        files = files_of(hub, {path: noise(2 * BLOCK)})
        hub.add_fault(Fault(kind=FlipBit(7)))
        with pytest.raises(IntegrityMismatch, match=path) as caught:
            bring(files, attempt, patience=HASTY)
        assert files[0].digest is not None
        assert files[0].digest.value in str(caught.value)
        assert not list(attempt.parts.glob("*.part"))
        assert not attempt.kept

    def test_the_clean_retry_uses_one_connection(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, FlipBit(0), count=1)
        bring(files, attempt, patience=HASTY)
        assert [request.range for request in hub.requests.matching(origin="cdn")][-1] is None
        assert_brought(attempt, {WEIGHTS: data})

    @pytest.mark.parametrize("wrong", [-1, 1, -BLOCK, 5 * BLOCK])
    @pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
    def test_a_size_that_is_not_true_is_an_error(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, wrong: int, path: str
    ) -> None:
        files = files_of(hub, {path: noise(2 * BLOCK)})
        with pytest.raises(IntegrityMismatch, match=f"{path}: {2 * BLOCK + wrong} bytes"):
            bring(renamed(files, size=2 * BLOCK + wrong), attempt, patience=HASTY)

    @pytest.mark.parametrize("header", ["bytes 1-300000/9999999", "bytes */5", "nonsense"])
    def test_a_content_range_that_is_not_true_is_an_error(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, header: str
    ) -> None:
        files, _ = weights(hub)
        trouble(hub, WrongContentRange(value=header))
        with pytest.raises(IntegrityMismatch, match=WEIGHTS):
            bring(files, attempt, patience=HASTY)

    def test_a_content_range_may_be_wrong_once(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, WrongContentRange(shift=1), count=1)
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})

    def test_bytes_that_come_compressed_are_refused(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        trouble(hub, Gzip())
        with pytest.raises(IntegrityMismatch, match="compressed"):
            bring(files, attempt, patience=HASTY)

    def test_no_encoding_is_asked_for(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        bring(files, attempt)
        assert {request.headers["accept-encoding"] for request in hub.requests} == {"identity"}


class TestTrouble:
    @pytest.mark.parametrize(
        "kind",
        [Cut(100_000), Cut(70_000, reset=True), Drop(), Drop(reset=True), Status(503), Status(500), Status(408)],
    )
    def test_passing_trouble_passes(self, hub: FakeHuggingFace, attempt: LocalAttempt, kind: FaultKind) -> None:
        files, data = weights(hub)
        trouble(hub, kind, count=5, skip=3)
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})

    def test_a_cut_body_is_continued_where_it_ended(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files = files_of(hub, {WEIGHTS: noise(BLOCK)})
        trouble(hub, Cut(100_000), count=1)
        bring(files, attempt, patience=HASTY)
        assert [request.range for request in hub.requests.matching(origin="cdn")] == [None, f"bytes=100000-{BLOCK - 1}"]

    @pytest.mark.parametrize("kind", [Drop(), Status(503), Status(500)])
    def test_lasting_trouble_is_reported_as_such(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, kind: FaultKind
    ) -> None:
        files, _ = weights(hub)
        trouble(hub, kind, skip=5)
        with pytest.raises(HubUnavailable, match=WEIGHTS):
            bring(files, attempt, patience=HASTY)
        assert list(attempt.parts.glob("*.part"))

    def test_a_hub_that_is_down_is_reported_as_such(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        hub.stop()
        with pytest.raises(HubUnavailable, match="ECONNREFUSED"):
            bring(files, attempt, patience=HASTY)

    def test_a_silent_connection_is_opened_anew(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        files, data = weights(hub)
        trouble(hub, Stall(30, at=50_000), count=2)
        attempt = LocalAttempt(tmp_path, msgspec.structs.replace(LIMITS, read_s=0.3))
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})

    def test_a_trickling_connection_is_opened_anew(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, Trickle(chunk_bytes=1, interval_s=0.1), count=1)
        started = time.monotonic()
        bring(files, attempt, patience=HASTY)
        assert time.monotonic() - started < 5
        assert_brought(attempt, {WEIGHTS: data})

    def test_a_transfer_in_which_nothing_moves_has_stalled(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        files, _ = weights(hub)
        trouble(hub, Stall(30, at=0), skip=4)
        with pytest.raises(TransferStalled):
            bring(files, LocalAttempt(tmp_path, msgspec.structs.replace(LIMITS, stall_s=0.5)), patience=HASTY)

    @pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
    def test_a_rate_limit_is_kept(self, hub: FakeHuggingFace, attempt: LocalAttempt, header: str) -> None:
        files, data = weights(hub)
        trouble(hub, rate_limited(1, header=header), count=3, skip=2)
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        started = sorted(request.started_s for request in hub.requests.matching(origin="cdn"))
        assert max(later - earlier for earlier, later in itertools.pairwise(started)) > 0.9

    @pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
    def test_a_long_rate_limit_is_left_to_the_queue(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, header: str
    ) -> None:
        files, _ = weights(hub)
        trouble(hub, rate_limited(120, header=header), origin="hub")
        started = time.monotonic()
        with pytest.raises(RateLimited) as caught:
            bring(files, attempt, patience=HASTY)
        assert caught.value.wait_s == 120
        assert time.monotonic() - started < 2

    def test_an_expired_address_is_asked_for_anew(self, attempt: LocalAttempt) -> None:
        with FakeHuggingFace(signed_url_uses=3) as hub:
            files, data = weights(hub)
            bring(files, attempt, patience=HASTY)
            assert hub.requests.count(origin="hub") > 3
        assert_brought(attempt, {WEIGHTS: data})

    def test_an_address_that_never_opens_is_an_error(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        hub.signer = UrlSigner(seconds=-1)
        with pytest.raises(HubUnavailable, match="storage behind the hub answered 403"):
            bring(files, attempt, patience=HASTY)

    def test_a_redirect_loop_is_an_error(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        trouble(hub, RedirectLoop(), origin="hub")
        with pytest.raises(HubUnavailable, match="redirects more than 5 times"):
            bring(files, attempt, patience=HASTY)

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x"])
    def test_a_redirect_leads_to_http_only(self, hub: FakeHuggingFace, attempt: LocalAttempt, location: str) -> None:
        files, _ = weights(hub)
        trouble(hub, RedirectTo(location), origin="hub")
        with pytest.raises(SourceUnsafe):
            bring(files, attempt, patience=HASTY)

    @pytest.mark.parametrize(
        ("status", "error"), [(401, SourcePrivateOrMissing), (403, SourcePrivateOrMissing), (404, SourceNotFound)]
    )
    def test_a_refusal_is_final(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, status: int, error: type[StageError]
    ) -> None:
        files, _ = weights(hub)
        trouble(hub, Status(status), origin="hub")
        with pytest.raises(error, match=WEIGHTS):
            bring(files, attempt)
        assert hub.requests.count(origin="hub") == 1

    def test_the_hubs_adapter_says_what_a_refusal_means(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        trouble(hub, Status(418, {"X-Error-Code": "Teapot"}), origin="hub")
        seen: list[tuple[int, str]] = []

        def classify(status: int, headers: object) -> StageError | None:
            assert isinstance(headers, dict)
            seen.append((status, headers["x-error-code"]))
            return SourceUnsafe("short and stout")

        with pytest.raises(SourceUnsafe, match="stout"):
            bring(files, attempt, classify=classify)
        assert seen == [(418, "Teapot")]


class TestWithoutRanges:
    def test_a_server_that_ignores_ranges_is_read_in_one_stream(
        self, hub: FakeHuggingFace, attempt: LocalAttempt
    ) -> None:
        files, data = weights(hub)
        trouble(hub, IgnoreRange())
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        assert hub.requests.bytes_served(origin="cdn") < len(data) + 4 * 1024 * KIB

    def test_such_a_stream_goes_on_after_a_cut(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, IgnoreRange())
        trouble(hub, Cut(900_000), count=1)
        trouble(hub, Cut(2_000_000), count=1)
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})

    def test_a_part_with_holes_is_completed_by_it(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, Status(404), skip=9)
        trouble(hub, Status(500), origin="hub", skip=1)
        with pytest.raises(HubUnavailable):
            bring(files, attempt, patience=HASTY)
        hub.faults.clear()
        trouble(hub, IgnoreRange())
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        assert attempt.reports[-1].bytes_resumed > 0

    def test_a_range_may_be_ignored_now_and_then(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        trouble(hub, IgnoreRange(), count=3, skip=4)
        bring(files, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})

    @pytest.mark.parametrize("fault", [None, IgnoreRange(), OmitHeader("Content-Length")])
    @pytest.mark.parametrize("count", [0, 10, 5 * BLOCK + 5])
    def test_a_file_of_unknown_size_and_digest(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, fault: FaultKind | None, count: int
    ) -> None:
        files, data = weights(hub, count)
        if fault is not None:
            trouble(hub, fault)
        trouble(hub, IgnoreRange()) if isinstance(fault, OmitHeader) else None
        bring(renamed(files, size=None, digest=None), attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        assert attempt.reports[-1].bytes_total == count

    def test_a_file_without_digest_is_resumed_by_its_etag(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub)
        unknown = renamed(files, digest=None)
        trouble(hub, Status(500), skip=8)
        with pytest.raises(HubUnavailable):
            bring(unknown, attempt, patience=HASTY)
        hub.faults.clear()
        hub.requests.clear()
        bring(unknown, attempt, patience=HASTY)
        assert_brought(attempt, {WEIGHTS: data})
        assert hub.requests.bytes_served(origin="cdn") <= len(data) - 4 * BLOCK
        assert any("if-range" in request.headers for request in hub.requests.matching(origin="cdn"))

    def test_a_file_without_digest_that_changes_meanwhile_is_an_error(
        self, hub: FakeHuggingFace, attempt: LocalAttempt
    ) -> None:
        files, _ = weights(hub)
        trouble(hub, SetHeader("ETag", '"another"'), skip=4)
        trouble(hub, IgnoreRange(), skip=4)
        with pytest.raises(HubUnavailable, match="has changed"):
            bring(renamed(files, digest=None), attempt, patience=HASTY)


class TestSafety:
    def test_the_token_is_for_the_hub_alone(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        hub.tokens["hf_secret"] = {REPO}
        files, _ = weights(hub)
        bring(files, attempt, Credential.bearer(hub.endpoint, "hf_secret"))
        assert all(request.had_authorization for request in hub.requests.matching(origin="hub"))
        assert hub.requests.count(origin="cdn") > 1
        assert not any(request.had_authorization for request in hub.requests.matching(origin="cdn"))

    def test_nothing_secret_is_said_aloud(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        hub.tokens["hf_secret"] = {REPO}
        files, _ = weights(hub)
        trouble(hub, Status(500), skip=2)
        credential = Credential.bearer(hub.endpoint, "hf_secret")
        with caplog.at_level(logging.DEBUG), pytest.raises(HubUnavailable) as caught:
            bring(files, attempt, credential, patience=HASTY)
        said = caplog.text + str(caught.value) + repr(caught.value.__cause__) + repr(credential)
        assert "hf_secret" not in said
        assert "Signature" not in said

    @pytest.mark.parametrize("path", ["../../evil", "/etc/passwd", "a/../b", "a\\b", ".cache/x", "a\0b", "", "a//b"])
    def test_a_dangerous_name_is_refused_before_anything_is_asked(
        self, hub: FakeHuggingFace, attempt: LocalAttempt, path: str
    ) -> None:
        files, _ = weights(hub, 10)
        with pytest.raises(SourceUnsafe):
            bring(renamed(files, path=path), attempt)
        assert len(hub.requests) == 0

    def test_two_names_for_one_file_are_refused(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub, 10)
        with pytest.raises(SourceUnsafe):
            bring([*files, *renamed(files, path=WEIGHTS.upper())], attempt)


class TestDisk:
    def test_what_does_not_fit_is_refused_before_the_first_byte(self, hub: FakeHuggingFace, tmp_path: Path) -> None:
        files, data = weights(hub)
        spare = 1 << 60
        with pytest.raises(
            DiskFull, match=rf"{len(data)} bytes are missing and {spare} must stay free.* \d+ bytes free"
        ):
            bring(files, LocalAttempt(tmp_path, msgspec.structs.replace(LIMITS, spare_bytes=spare)))
        assert len(hub.requests) == 0

    def test_what_is_stored_needs_no_room(self, hub: FakeHuggingFace, attempt: LocalAttempt, tmp_path: Path) -> None:
        files, data = weights(hub)
        bring(files, attempt)
        second = LocalAttempt(tmp_path, msgspec.structs.replace(LIMITS, spare_bytes=1 << 60), "second")
        bring(files, second)
        assert_brought(second, {WEIGHTS: data})

    def test_room_is_taken_up_front(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, data = weights(hub, 40 * BLOCK)
        trouble(hub, Status(500), origin="hub")
        with pytest.raises(HubUnavailable):
            bring(files, attempt, patience=HASTY)
        (part,) = attempt.parts.glob("*.part")
        assert part.stat().st_size == len(data)
        assert part.stat().st_blocks * 512 >= len(data)


class TestCancel:
    def test_a_cancelled_transfer_ends_at_once_and_goes_on_later(
        self, hub: FakeHuggingFace, attempt: LocalAttempt
    ) -> None:
        files, data = weights(hub)
        trouble(hub, Throttle(400_000))
        timer = threading.Timer(1.2, attempt.cancelled.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(JobCancelled):
            bring(files, attempt)
        assert time.monotonic() - started < 1.2 + 1
        hub.faults.clear()
        hub.requests.clear()
        attempt.cancelled.clear()
        bring(files, attempt)
        assert_brought(attempt, {WEIGHTS: data})
        resumed = attempt.reports[-1].bytes_resumed
        assert resumed > 1_000_000
        assert hub.requests.bytes_served(origin="cdn") == len(data) - resumed

    def test_a_cancel_is_heard_while_nothing_moves(self, hub: FakeHuggingFace, attempt: LocalAttempt) -> None:
        files, _ = weights(hub)
        trouble(hub, Stall(30))
        threading.Timer(0.3, attempt.cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(JobCancelled):
            bring(files, attempt)
        assert time.monotonic() - started < 0.3 + 1


class Child:
    """A process that brings files."""

    def __init__(self, attempt: LocalAttempt, files: list[RemoteFile]) -> None:
        errand = Errand(root=str(attempt.root), files=tuple(files), limits=attempt.limits)
        command = [sys.executable, "-m", "tests.fakes.attempt"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(errand))
        self.process.stdin.close()
        self.workspace = attempt.root / f"workspace-{self.process.pid}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def wait(self) -> bytes:
        assert self.process.stdout is not None
        printed = self.process.stdout.read()
        assert self.process.wait(timeout=30) == 0
        return printed


class TestProcesses:
    def test_kill_9_costs_at_most_a_block_per_connection(self, tmp_path: Path) -> None:
        limits = msgspec.structs.replace(LIMITS, connections=4)
        attempt = LocalAttempt(tmp_path, limits)
        with FakeHuggingFace(bytes_per_s=2_000_000) as hub:
            files, data = weights(hub, 48 * BLOCK + 99)
            for _ in range(4):
                before = hub.requests.bytes_served(origin="cdn")
                with Child(attempt, files):
                    while hub.requests.bytes_served(origin="cdn") < before + 6 * BLOCK:
                        time.sleep(0.01)
            with Child(attempt, files) as child:
                child.wait()
            served = hub.requests.bytes_served(origin="cdn")
        assert attempt.stored(hashlib.sha256(data).hexdigest())
        assert 0 <= served - len(data) <= 4 * limits.connections * BLOCK

    def test_two_processes_make_one_transfer(self, attempt: LocalAttempt) -> None:
        with FakeHuggingFace(bytes_per_s=1_000_000) as hub:
            files, data = weights(hub)
            with Child(attempt, files) as first, Child(attempt, files) as second:
                for child in (first, second):
                    assert b'"bytes_done":%d' % len(data) in child.wait()
                    assert (child.workspace / WEIGHTS).read_bytes() == data
            assert hub.requests.bytes_served(origin="cdn") == len(data)

    def test_whoever_waits_takes_over_when_the_other_dies(self, attempt: LocalAttempt) -> None:
        with FakeHuggingFace(bytes_per_s=1_000_000) as hub:
            files, data = weights(hub)
            with Child(attempt, files) as first:
                while hub.requests.count(origin="cdn") < 8:
                    time.sleep(0.01)
                with Child(attempt, files) as second:
                    time.sleep(0.5)
                    first.kill()
                    assert re.search(rb'"bytes_resumed":[1-9]', second.wait())
                    assert (second.workspace / WEIGHTS).read_bytes() == data
