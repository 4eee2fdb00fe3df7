"""Hub `hls`: fixed addresses, no digests to hold anything against, and pages that must never become models."""

import hashlib
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.catalog.hls import HLS
from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    JobCancelled,
    OutputIncomplete,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    StageError,
)
from common.planning import Wish, plan, stages
from common.plugins import Access, NetworkRules, TransferLimits
from common.spec import Manifest, Source
from common.vocabulary import DigestAlgorithm, Format
from tests.contract.places import Place
from tests.contract.test_hub_contract import contents
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import Cut, Fault, FlipBit, OmitHeader, RedirectLoop, SetHeader, Status, rate_limited
from tests.fakes.hls import ECG, ECG_NAMES, POSE, RPPG, RPPG_RAW, FakeHls, ecg_model, pose_archive
from tests.fakes.storage import MISSING_PAGE
from tests.fakes.traffic import Match
from tests.stage_chain import Offer
from worker.hubs.hls import HlsHub

BLOCK = 256 * 1024
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=6, spare_bytes=0, connections=4)
NAMES = {"3d-pose": "human-pose-estimation-3d-0001", "rppg": "mtts_can", "ai-ecg": "ecg_8960_ir10_fp16"}
HDF5 = b"\x89HDF\r\n\x1a\n" + hashlib.shake_128(b"weights").digest(100_000)
CHECKPOINT = hashlib.shake_128(b"checkpoint").digest(200_000)
FAULTS = [
    (Status(401), SourcePrivateOrMissing),
    (Status(403), SourcePrivateOrMissing),
    (Status(404), SourceNotFound),
    (rate_limited(300), RateLimited),
    (Status(503, {"Retry-After": "300"}), HubUnavailable),
    (RedirectLoop(), HubUnavailable),
]


@contextmanager
def hls_place(_folder: Path) -> Iterator[Place]:
    """For the contract that all hubs keep."""
    with FakeHls() as places:
        places.add_ecg({name: ecg_model(400_000) for name in ECG_NAMES})
        model = {path.removeprefix(f"{ECG}/"): content for path, content in places.files.items()}
        yield Place(HLS, access_to(places), {"model_type": "ai-ecg"}, model, NAMES["ai-ecg"])


@pytest.fixture
def places() -> Iterator[FakeHls]:
    with FakeHls() as places:
        places.add_pose(CHECKPOINT)
        places.add_ecg({name: ecg_model() for name in ECG_NAMES})
        places.add_rppg(HDF5)
        yield places


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


def access_to(places: FakeHls) -> Access:
    return Access(settings={**places.settings(), "MODELFERRY_MAX_UNPACKED_MB": "100"})


def resolve(access: Access, kind: str | None, name: str | None = None, revision: str | None = None) -> Manifest:
    source = Source(hub="hls", name=name or NAMES[str(kind)], revision=revision)
    return HlsHub(access).resolve(source, HLS.bind({"model_type": kind}))


def fetch(access: Access, kind: str, manifest: Manifest, attempt: LocalAttempt) -> tuple[str, ...]:
    return HlsHub(access).fetch(manifest, HLS.bind({"model_type": kind}), attempt)


def brought(access: Access, kind: str, attempt: LocalAttempt) -> tuple[str, ...]:
    return fetch(access, kind, resolve(access, kind), attempt)


class TestNames:
    @pytest.mark.parametrize(
        ("kind", "known"),
        [
            ("3d-pose", "['human-pose-estimation-3d-0001']"),
            ("rppg", "['mtts_can']"),
            ("ai-ecg", "['ecg_17920_ir10_fp16', 'ecg_8960_ir10_fp16']"),
        ],
    )
    def test_a_wrong_name_is_told_in_the_words_that_clients_read(self, places: FakeHls, kind: str, known: str) -> None:
        with pytest.raises(InvalidParameters) as told:
            resolve(access_to(places), kind, "zz")
        assert str(told.value) == f"Invalid model name 'zz' for type '{kind}'. Expected one of: {known}."
        assert len(places.requests) == 0

    @pytest.mark.parametrize("kind", [None, "llm"])
    def test_a_type_of_this_hub_is_needed(self, places: FakeHls, kind: str | None) -> None:
        with pytest.raises(InvalidParameters, match="one of: 3d-pose, rppg, ai-ecg"):
            resolve(access_to(places), kind, "mtts_can")

    def test_every_type_has_its_folder_and_is_finished(self) -> None:
        offer = Offer("common.catalog.hls:HLS", "common.catalog.hls:HLS_CONVERTER", {})
        for kind, name in NAMES.items():
            spec = plan(Wish(name=name, hub="hls", root="m", model_type=kind), offer.catalog)  # type: ignore[arg-type]
            assert (spec.destination.folder, spec.shelf, spec.finisher) == (kind, kind, "hls")
            assert [stage.kind for stage in stages(spec)] == ["fetch", "convert", "publish"]


class TestResolve:
    @pytest.mark.parametrize("kind", NAMES)
    def test_the_revision_names_what_the_servers_have(self, places: FakeHls, kind: str) -> None:
        access = access_to(places)
        first, second = resolve(access, kind), resolve(access, kind)
        assert first == second
        assert first.facts == {"type": kind}
        assert first.total_bytes is not None
        assert {request.method for request in places.requests} == {"HEAD"}
        for path in (POSE, RPPG_RAW, f"{ECG}/ecg_8960_ir10_fp16.bin"):
            places.files[path] += b"more"
        assert resolve(access, kind).revision != first.revision
        with pytest.raises(RevisionNotFound):
            resolve(access, kind, revision=first.revision)

    def test_any_name_of_an_ecg_means_all_four_files(self, places: FakeHls) -> None:
        first, second = (resolve(access_to(places), "ai-ecg", name) for name in ECG_NAMES)
        assert {file.path for file in first.files} == {f"{name}{end}" for name in ECG_NAMES for end in (".xml", ".bin")}
        assert (first.files, first.revision, first.format) == (second.files, second.revision, Format.OPENVINO)

    def test_the_archive_at_its_own_address_has_a_digest(self) -> None:
        (file,) = resolve(Access(), "3d-pose").files
        assert file.url.startswith("https://storage.openvinotoolkit.org/")
        assert file.digest is not None
        assert (file.size, file.digest.algorithm) == (18_421_831, DigestAlgorithm.SHA384)

    def test_a_server_that_knows_no_head_is_asked_all_the_same(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.trouble(Fault(kind=Status(405), match=Match(method="HEAD")))
        manifest = resolve(access_to(places), "rppg")
        assert manifest.total_bytes is None
        fetch(access_to(places), "rppg", manifest, attempt)
        assert contents(attempt.workspace) == {"mtts_can.hdf5": HDF5}

    @pytest.mark.parametrize(("kind", "error"), [one for one in FAULTS if one[1] is not SourcePrivateOrMissing])
    def test_each_refusal_has_its_own_code(self, places: FakeHls, kind: Any, error: type[StageError]) -> None:
        places.trouble(Fault(kind=kind))
        with pytest.raises(error):
            resolve(access_to(places), "rppg")

    def test_a_private_address_is_for_the_operator_to_name(self, places: FakeHls) -> None:
        brought = Access(settings=places.settings(), given=frozenset(places.settings()), network=NetworkRules())
        with pytest.raises(StageError) as told:
            resolve(brought, "rppg")
        assert told.value.code == "source_unsafe"


class TestFetch:
    def test_an_archive_leaves_its_checkpoint_and_none_of_its_programs(
        self, places: FakeHls, attempt: LocalAttempt
    ) -> None:
        for _ in range(2):
            paths = brought(access_to(places), "3d-pose", attempt)
        assert paths == ("human-pose-estimation-3d-0001.pth",)
        held = contents(attempt.workspace)
        assert held["human-pose-estimation-3d-0001.pth"] == CHECKPOINT
        assert not [path for path in held if path.endswith(".py")]

    def test_a_keras_file_comes_through_the_code_hosts_redirect(self, places: FakeHls, attempt: LocalAttempt) -> None:
        assert brought(access_to(places), "rppg", attempt) == ("mtts_can.hdf5",)
        assert contents(attempt.workspace) == {"mtts_can.hdf5": HDF5}
        assert places.requests.count(RPPG)

    def test_all_four_files_of_the_ecg_models_come(self, places: FakeHls, attempt: LocalAttempt) -> None:
        brought(access_to(places), "ai-ecg", attempt)
        assert contents(attempt.workspace) == {
            path.removeprefix(f"{ECG}/"): content for path, content in places.files.items() if path.startswith(ECG)
        }

    @pytest.mark.parametrize("kind", NAMES)
    def test_a_page_is_no_model_even_where_a_server_says_that_all_is_well(
        self, places: FakeHls, attempt: LocalAttempt, kind: str
    ) -> None:
        places.files = dict.fromkeys(places.files, MISSING_PAGE)
        with pytest.raises(IntegrityMismatch):
            brought(access_to(places), kind, attempt)

    @pytest.mark.parametrize("kind", NAMES)
    def test_a_missing_file_is_not_found(self, places: FakeHls, kind: str) -> None:
        places.files.clear()
        with pytest.raises(SourceNotFound):
            resolve(access_to(places), kind)

    @pytest.mark.parametrize(
        "xml",
        [
            b"404: Not Found",
            b"<net></net>" + b" " * 2000,
            b"<html><layers/></html>" + b" " * 2000,
            b'<!DOCTYPE net [<!ENTITY a "b">]><net>&a;</net>' + b" " * 2000,
            ecg_model(601)[0],
            ecg_model()[0][:-9] + b" " * 2000,
            ecg_model()[0].replace(b'offset="0"', b'offset="x"'),
        ],
    )
    def test_what_describes_no_network_with_these_weights_is_refused(
        self, places: FakeHls, attempt: LocalAttempt, xml: bytes
    ) -> None:
        places.files[f"{ECG}/ecg_8960_ir10_fp16.xml"] = xml
        with pytest.raises(IntegrityMismatch, match=r"ecg_8960_ir10_fp16\.xml"):
            brought(access_to(places), "ai-ecg", attempt)

    def test_an_archive_without_the_checkpoint_is_refused(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.files[POSE] = pose_archive(None, {"readme.txt": b"hello"})
        with pytest.raises(OutputIncomplete, match=r"no file human-pose-estimation-3d-0001\.pth"):
            brought(access_to(places), "3d-pose", attempt)

    @pytest.mark.parametrize("path", ["../evil.pth", "/evil.pth"])
    def test_an_archive_that_climbs_is_refused(self, places: FakeHls, attempt: LocalAttempt, path: str) -> None:
        places.add_pose(CHECKPOINT, beside={f"{path}/../human-pose-estimation-3d-0001.pth": b"x"})
        with pytest.raises(StageError) as told:
            brought(access_to(places), "3d-pose", attempt)
        assert told.value.code == "source_unsafe"
        assert not (attempt.workspace / "human-pose-estimation-3d-0001.pth").exists()

    def test_an_archive_that_holds_too_much_is_refused(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.add_pose(b"\0" * (3 * 1024 * 1024))
        access = Access(settings={**places.settings(), "MODELFERRY_MAX_UNPACKED_MB": "1"})
        with pytest.raises(StageError) as told:
            brought(access, "3d-pose", attempt)
        assert told.value.code == "source_unsafe"

    def test_a_flipped_bit_in_an_archive_is_refused(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.trouble(Fault(kind=FlipBit(100_000), match=Match(path=POSE)))
        with pytest.raises(IntegrityMismatch):
            brought(access_to(places), "3d-pose", attempt)

    def test_a_lying_size_is_refused(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.trouble(Fault(kind=SetHeader("Content-Length", "99999"), match=Match(method="HEAD")))
        with pytest.raises(StageError) as told:
            brought(access_to(places), "rppg", attempt)
        assert told.value.code in {"integrity_mismatch", "source_unsafe"}

    def test_a_file_that_changes_between_looking_and_fetching_is_refused(
        self, places: FakeHls, attempt: LocalAttempt
    ) -> None:
        manifest = resolve(access_to(places), "rppg")
        places.files[RPPG_RAW] = HDF5 + b"more"
        with pytest.raises(StageError) as told:
            fetch(access_to(places), "rppg", manifest, attempt)
        assert told.value.code in {"integrity_mismatch", "source_unsafe"}

    @pytest.mark.parametrize(("kind", "error"), FAULTS)
    def test_each_refusal_has_its_own_code(
        self, places: FakeHls, attempt: LocalAttempt, kind: Any, error: type[StageError]
    ) -> None:
        access = access_to(places)
        manifest = resolve(access, "ai-ecg")
        places.trouble(Fault(kind=kind))
        with pytest.raises(error):
            fetch(access, "ai-ecg", manifest, attempt)

    def test_a_torn_connection_is_taken_up_again(self, places: FakeHls, attempt: LocalAttempt) -> None:
        places.trouble(Fault(kind=Cut(50_000), match=Match(method="GET"), count=2))
        brought(access_to(places), "rppg", attempt)
        assert contents(attempt.workspace) == {"mtts_can.hdf5": HDF5}

    def test_a_server_without_tags_and_lengths_is_enough(self, places: FakeHls, attempt: LocalAttempt) -> None:
        for header in ("ETag", "Content-Length"):
            places.trouble(Fault(kind=OmitHeader(header)))
        brought(access_to(places), "rppg", attempt)
        assert contents(attempt.workspace) == {"mtts_can.hdf5": HDF5}

    def test_a_cancel_is_heard_and_a_later_fetch_completes(self, places: FakeHls, attempt: LocalAttempt) -> None:
        attempt.cancelled.set()
        with pytest.raises(JobCancelled):
            brought(access_to(places), "3d-pose", attempt)
        attempt.cancelled.clear()
        assert brought(access_to(places), "3d-pose", attempt)

    def test_kill_9_costs_at_most_what_was_in_flight(self, tmp_path: Path) -> None:
        large = HDF5[:8] + hashlib.shake_128(b"large").digest(24 * BLOCK)
        with FakeHls(bytes_per_s=1_500_000) as places:
            places.add_rppg(large)
            for _ in range(2):
                before = places.requests.bytes_served()
                child = _a_child_that_fetches(places.settings(), tmp_path)
                while child.is_alive() and places.requests.bytes_served() < before + 5 * BLOCK:
                    time.sleep(0.01)
                child.kill()
                child.join()
            attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
            brought(access_to(places), "rppg", attempt)
            served = places.requests.bytes_served()
        assert contents(attempt.workspace) == {"mtts_can.hdf5": large}
        assert attempt.reports[-1].bytes_resumed > 0
        assert 0 <= served - len(large) <= 2 * LIMITS.connections * BLOCK + 64 * 1024


def _fetch_rppg(settings: dict[str, str], tmp_path: Path) -> None:
    brought(Access(settings=settings), "rppg", LocalAttempt(tmp_path / "attempt", LIMITS, "killed"))


def _a_child_that_fetches(settings: dict[str, str], tmp_path: Path) -> Any:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_fetch_rppg, args=(settings, tmp_path), daemon=True)
    child.start()
    return child


class TestTheStandIn:
    """The places of the tests, as a client that is not ours sees them."""

    def test_the_code_host_redirects_to_its_raw_files(self, places: FakeHls) -> None:
        answer = httpx.get(f"{places.endpoint}{RPPG}", follow_redirects=True)
        assert (answer.status_code, answer.content, answer.url.path) == (200, HDF5, RPPG_RAW)
        assert httpx.head(f"{places.endpoint}{RPPG}").status_code == 302

    def test_what_is_missing_is_a_page(self, places: FakeHls) -> None:
        answer = httpx.get(f"{places.endpoint}{ECG}/nothing.xml")
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html")
