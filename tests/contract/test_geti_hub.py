"""The hub `geti` against servers of both versions, good ones, broken ones and hostile ones."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from common.artefacts.blobs import BlobStore
from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore, source_key
from common.catalog.geti import GETI
from common.catalog.registry import Catalog
from common.clock import utc_now
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
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.planning import FACTS, FetchWork, PublishWork, Wish, plan, stages
from common.plugins import Access, ListPage, ListQuery, NetworkRules, TransferLimits
from common.spec import Manifest, Progress, Source
from common.vocabulary import Format
from tests.contract.test_hub_contract import MODEL, SECRET, Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import (
    Cut,
    Drop,
    Fault,
    FaultKind,
    FlipBit,
    RedirectLoop,
    RedirectTo,
    RewriteJson,
    SetHeader,
    Stall,
    Status,
    Throttle,
    Trickle,
    rate_limited,
)
from tests.fakes.geti import (
    Architecture,
    Export,
    FakeGeti2,
    FakeGeti3,
    Identity,
    Shelf,
    Training,
    export_of,
    zip_of,
)
from tests.fakes.geti.errand import Errand
from tests.fakes.traffic import Match
from worker.hubs.geti.door import _warn_unverified
from worker.stages.fetch import fetch as bring_stage
from worker.stages.publish import show
from worker.stages.tools import Tools

EXPORT = "*/export"
LIMITS = TransferLimits(connect_s=2, read_s=5, stall_s=20, spare_bytes=0)
FOREIGN = frozenset({"GETI_HOST", "GETI_TOKEN"})


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.made_in(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def geti() -> Iterator[FakeGeti2]:
    """A server of version 2 whose TLS something else takes care of."""
    with FakeGeti2() as server:
        yield server


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "volume", LIMITS)


def access_to(server: FakeGeti2 | FakeGeti3, *, given: frozenset[str] = frozenset(), **settings: str) -> Access:
    token = settings.pop("GETI_TOKEN", server.token if isinstance(server, FakeGeti2) else "any")
    return Access(settings={"GETI_HOST": server.host, **settings}, secrets={"GETI_TOKEN": token}, given=given)


def resolve(
    server: FakeGeti2 | FakeGeti3,
    name: str = "YOLOX",
    *,
    access: Access | None = None,
    revision: str | None = None,
    **config: object,
) -> Manifest:
    hub = GETI.load(access or access_to(server))
    return hub.resolve(Source(hub="geti", name=name, revision=revision), GETI.bind(config))


def fetch(
    server: FakeGeti2 | FakeGeti3,
    attempt: LocalAttempt,
    name: str = "YOLOX",
    *,
    access: Access | None = None,
    **config: object,
) -> dict[str, bytes]:
    """Find a model, bring it, and read what was left."""
    manifest = resolve(server, name, access=access, **config)
    paths = GETI.load(access or access_to(server)).fetch(manifest, GETI.bind(config), attempt)
    assert paths is not None
    return {path: (attempt.workspace / path).read_bytes() for path in paths}


def listed(server: FakeGeti2 | FakeGeti3, *, limit: int = 50, offset: int = 0, **filters: object) -> ListPage:
    hub = GETI.load(access_to(server))
    return hub.list(ListQuery(filters=filters, limit=limit, offset=offset))  # type: ignore[attr-defined]


def trouble(server: FakeGeti2 | FakeGeti3, kind: FaultKind, path: str = "*", *, count: int | None = None) -> None:
    server.add_fault(Fault(kind=kind, match=Match(path), count=count))


def laid_out(word: str) -> dict[str, bytes]:
    held = export_of(word)
    return {name.removeprefix("deployment/").removeprefix("models/"): content for name, content in held.items()}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def geti_place() -> Iterator[Place]:
    """For the tests that every hub passes: the model `org/model`, as the weights that were trained."""
    with FakeGeti2() as server:
        server.token = SECRET
        server.add(Shelf(name="Project").add(Training(name="org/model", base=zip_of(MODEL))))
        yield Place(GETI, access_to(server), {"export_type": "base"})


class TestSearch:
    def test_a_name_finds_the_openvino_export_in_fp16(self, geti: FakeGeti2) -> None:
        export = Export(precision="FP16")
        training = Training(name="YOLOX S", version=3, exports=[Export(precision="FP32"), export])
        shelf = Shelf(name="Cars").add(training)
        geti.add(shelf)
        manifest = resolve(geti, "yolox s")
        (file,) = manifest.files
        assert (file.size, file.digest) == (None, None)
        assert file.url.startswith(f"{geti.host}/api/v1/organizations/")
        assert file.url.endswith(f"/models/{training.id}/optimized_models/{export.id}/export?model_only=true")
        assert manifest.format is Format.OPENVINO
        assert manifest.revision.startswith(f"{training.id}.{export.id}.model.v3.")
        assert manifest.facts == {
            "model_id": training.id,
            "model_group_id": shelf.architectures[0].id,
            "export_type": "optimized",
            "model_format": "OpenVINO",
        }

    def test_every_project_is_looked_through_page_by_page(self, geti: FakeGeti2) -> None:
        geti.most_per_page = 2
        geti.add(*(Shelf(name=f"P{number}").add(Training(name=f"other-{number}")) for number in range(4)))
        wanted = Training(name="YOLOX")
        geti.add(Shelf(name="Last").add(wanted))
        assert resolve(geti).facts["model_id"] == wanted.id
        assert geti.requests.count("*/projects") == 3

    def test_a_project_without_a_match_does_not_end_the_search(self, geti: FakeGeti2) -> None:
        """The service that this one replaces gives up there."""
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(precision="INT8")])))
        wanted = Training(name="YOLOX")
        geti.add(Shelf(name="B").add(Training(name="YOLOX", exports=[])), Shelf(name="C").add(wanted))
        assert resolve(geti).facts["model_id"] == wanted.id

    def test_a_project_that_is_closed_to_the_token_is_passed_over(self, geti: FakeGeti2) -> None:
        wanted = Training(name="YOLOX")
        geti.add(Shelf(name="A", closed=True).add(Training(name="YOLOX")), Shelf(name="B").add(wanted))
        assert resolve(geti).facts["model_id"] == wanted.id

    def test_the_newest_model_that_can_be_used_is_taken(self, geti: FakeGeti2) -> None:
        trainings = [
            Training(name="YOLOX", version=2),
            Training(name="YOLOX", version=1),
            Training(name="YOLOX", version=4, purged=True),
            Training(name="YOLOX", version=3, status="FAILED"),
        ]
        geti.add(Shelf(name="A").add(*trainings))
        assert resolve(geti).facts["model_id"] == trainings[0].id

    def test_exports_that_failed_or_were_purged_are_passed_over(self, geti: FakeGeti2) -> None:
        good = Export()
        exports = [Export(status="FAILED"), Export(status="NOT_READY"), Export(purged=True), good]
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=exports)))
        assert f".{good.id}." in resolve(geti).revision

    def test_case_53_further_filters_narrow_and_unknown_ones_are_told(self, geti: FakeGeti2) -> None:
        plain, explained = Export(), Export(has_xai_head=True, fields={"tags": ["Edge", "Line 4"]})
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[plain, explained])))
        config = {"has_xai_head": True, "optimization_type": "mo", "tags": "edge", "zebra": "x", "colour": 3}
        manifest = resolve(geti, **config)
        assert f".{explained.id}." in manifest.revision
        warnings = manifest.facts["warnings"]
        assert isinstance(warnings, dict)
        assert warnings["ignored_fields"] == ["colour", "zebra"]
        assert "colour, zebra" in warnings["message"]
        assert "warnings" not in resolve(geti, has_xai_head=False).facts

    def test_ids_narrow(self, geti: FakeGeti2) -> None:
        first, second = Export(), Export()
        other = Shelf(name="B").add(Training(name="YOLOX"))
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[first, second])), other)
        assert f".{second.id}." in resolve(geti, optimized_model_id=second.id).revision
        group = other.architectures[0]
        assert resolve(geti, model_group_id=group.id).facts["model_group_id"] == group.id
        with pytest.raises(SourceNotFound, match="in model group"):
            resolve(geti, model_group_id="nowhere")

    def test_a_project_can_be_named(self, geti: FakeGeti2) -> None:
        wanted = Training(name="YOLOX")
        geti.add(Shelf(name="Cars").add(Training(name="YOLOX")), Shelf(name="Ships").add(wanted))
        assert resolve(geti, project_name="ships").facts["model_id"] == wanted.id

    def test_who_finds_nothing_hears_what_there_is(self, geti: FakeGeti2) -> None:
        exports = [Export(precision="INT8"), Export(precision="FP32"), Export(precision="FP16", model_format="ONNX")]
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=exports)))
        with pytest.raises(
            SourceNotFound, match=r"OpenVINO FP16.* There are: OpenVINO INT8, OpenVINO FP32, ONNX FP16, base"
        ):
            resolve(geti)
        with pytest.raises(SourceNotFound, match="'Cars'"):
            resolve(geti, "Cars")

    def test_formats_are_exact_and_precisions_in_any_case(self, geti: FakeGeti2) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(precision="INT8", model_format="ONNX")])))
        manifest = resolve(geti, precision="Int8", model_format="ONNX")
        assert (manifest.format, manifest.facts["model_format"]) == (Format.ARCHIVE, "ONNX")
        with pytest.raises(SourceNotFound):
            resolve(geti, precision="int8", model_format="onnx")

    def test_base_weights_take_no_filter(self, geti: FakeGeti2) -> None:
        training = Training(name="YOLOX", exports=[])
        geti.add(Shelf(name="A").add(training))
        manifest = resolve(geti, export_type="base", precision="int4", colour="red")
        assert manifest.files[0].url.endswith(f"/models/{training.id}/export")
        assert manifest.format is Format.PYTORCH
        assert manifest.facts.keys() == {"model_id", "model_group_id", "export_type"}

    def test_the_whole_export_is_another_artefact_than_the_model_alone(
        self, geti: FakeGeti2, attempt: LocalAttempt
    ) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        whole, only = resolve(geti, model_only=False), resolve(geti)
        assert only.files[0].url == f"{whole.files[0].url}?model_only=true"
        assert only.revision != whole.revision
        assert {*fetch(geti, attempt, model_only=False)} - {*fetch(geti, attempt)} == {
            "python/demo.py",
            "python/models/net.py",
        }

    def test_equal_findings_are_one_artefact_and_those_of_another_server_are_not(self, geti: FakeGeti2) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        assert source_key(resolve(geti)) == source_key(resolve(geti))
        with FakeGeti2() as other:
            other.organizations, other.workspaces, other.shelves = geti.organizations, geti.workspaces, geti.shelves
            assert source_key(resolve(other)) != source_key(resolve(geti))

    def test_a_revision_is_a_version_or_an_id(self, geti: FakeGeti2) -> None:
        old, new = Training(name="YOLOX", version=1), Training(name="YOLOX", version=2)
        geti.add(Shelf(name="A").add(old, new))
        assert resolve(geti, revision="1").facts["model_id"] == old.id
        assert resolve(geti, revision=old.id).facts["model_id"] == old.id
        told = resolve(geti).revision
        assert resolve(geti, revision=told).revision == told
        with pytest.raises(RevisionNotFound, match=rf"There are: 2 \({new.id}\), 1 \({old.id}\)"):
            resolve(geti, revision="main")
        with pytest.raises(RevisionNotFound, match=told.replace(".", r"\.")):
            resolve(geti, revision=f"{new.id}.other")

    def test_the_oldest_organisation_is_taken(self, geti: FakeGeti2) -> None:
        geti.organizations.insert(0, ("f" * 24, "2025-06-01T00:00:00Z"))
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        assert "/organizations/f" not in resolve(geti).files[0].url

    def test_of_several_workspaces_one_has_to_be_named(self, geti: FakeGeti2) -> None:
        geti.workspaces["b" * 24] = "Second"
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        with pytest.raises(InvalidParameters, match=r"has 2 workspaces: .*Second") as caught:
            resolve(geti)
        assert "GETI_WORKSPACE_ID" in caught.value.advice
        assert resolve(geti, access=access_to(geti, GETI_WORKSPACE_ID=geti.workspace))
        with pytest.raises(InvalidParameters, match="no workspace with the GETI_WORKSPACE_ID"):
            resolve(geti, access=access_to(geti, GETI_WORKSPACE_ID="c" * 24))


class TestFetch:
    def test_an_export_is_laid_out_as_clients_find_it(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        export = Export()
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[export])))
        assert fetch(geti, attempt) == laid_out(export.id)
        assert files_below(attempt.workspace) == {"model.xml", "model.bin", "config.json", "README.md"}
        assert fetch(geti, attempt) == laid_out(export.id)

    @pytest.mark.parametrize("form", ["chunked", "length", "close"])
    def test_the_end_of_an_export_may_be_told_in_any_way(self, attempt: LocalAttempt, form: str) -> None:
        with FakeGeti2(form=form) as geti:
            content = export_of("word", size=3_000_000)
            geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=zip_of(content))])))
            assert fetch(geti, attempt)["model.bin"] == content["deployment/models/model.bin"]

    def test_base_weights_are_brought(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX", base=zip_of({"weights/model.pth": b"abc"}))))
        assert fetch(geti, attempt, export_type="base") == {"weights/model.pth": b"abc"}

    def test_an_export_without_a_model_is_not_taken_for_one(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        for files in ({"model.xml": b"<net/>", "other/model.bin": b""}, {}):
            geti.shelves = [Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=zip_of(files))]))]
            with pytest.raises(OutputIncomplete):
                fetch(geti, attempt)

    def test_one_flipped_bit_is_refused(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, FlipBit(offset=300), EXPORT)
        with pytest.raises(IntegrityMismatch):
            fetch(geti, attempt)
        assert files_below(attempt.workspace) <= {"export.zip"}

    def test_a_copy_that_was_spoilt_once_is_brought_again(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        export = Export()
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[export])))
        # The first request only asks what the server can do; its body is thrown away.
        trouble(geti, FlipBit(offset=300), EXPORT, count=2)
        assert fetch(geti, attempt) == laid_out(export.id)

    def test_a_broken_copy_does_not_stay_in_the_way_of_later_jobs(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        export = Export()
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[export])))
        trouble(geti, FlipBit(offset=300), EXPORT)
        with pytest.raises(IntegrityMismatch):
            fetch(geti, attempt)
        geti.faults.clear()
        assert fetch(geti, attempt) == laid_out(export.id)

    @pytest.mark.parametrize("size", ["100", "100000"])
    def test_a_lying_size_is_refused(self, attempt: LocalAttempt, size: str) -> None:
        with FakeGeti2(form="length") as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            trouble(geti, SetHeader("Content-Length", size), EXPORT)
            attempt.limits = msgspec.structs.replace(LIMITS, read_s=0.2, stall_s=1)
            with pytest.raises(StageError) as caught:
                fetch(geti, attempt)
            assert caught.value.code in {"integrity_mismatch", "transfer_stalled"}

    def test_a_broken_connection_is_opened_again(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        content = export_of("word", size=900_000)
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=zip_of(content))])))
        geti.add_fault(Fault(kind=Cut(500_000), match=Match(EXPORT), count=1, skip=1))
        assert fetch(geti, attempt)["model.bin"] == content["deployment/models/model.bin"]

    def test_a_busy_server_is_asked_again(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, Status(503), EXPORT, count=1)
        assert fetch(geti, attempt)

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), TokenInvalid),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (rate_limited(300), RateLimited),
        ],
    )
    def test_a_refused_export_has_its_own_code(
        self, geti: FakeGeti2, attempt: LocalAttempt, kind: FaultKind, error: type[StageError]
    ) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, kind, EXPORT)
        with pytest.raises(error) as caught:
            fetch(geti, attempt)
        assert "HF_" not in caught.value.advice

    def test_a_web_page_instead_of_an_export_is_refused(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=b"<!doctype html><html/>")])))
        with pytest.raises(IntegrityMismatch, match="no archive"):
            fetch(geti, attempt)

    @pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", ".modelferry/evil"])
    def test_names_that_climb_are_refused(self, geti: FakeGeti2, attempt: LocalAttempt, name: str) -> None:
        content = zip_of({**export_of("word"), name: b"evil"})
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=content)])))
        with pytest.raises(SourceUnsafe):
            fetch(geti, attempt)
        assert not list(attempt.root.parent.rglob("*evil*"))
        assert files_below(attempt.workspace) <= {"export.zip"}

    def test_bombs_are_refused(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        bomb = zip_of({**export_of("word"), "zeros.bin": bytes(40_000_000)}, compressed=True)
        geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=bomb)])))
        with pytest.raises(SourceUnsafe, match="each byte"):
            fetch(geti, attempt)
        large = zip_of({**export_of("word"), "large.bin": os.urandom(900_000), "more.bin": os.urandom(400_000)})
        geti.shelves = [Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=large)]))]
        with pytest.raises(SourceUnsafe, match="more than 1048576 bytes"):
            fetch(geti, attempt, access=access_to(geti, MODELFERRY_MAX_UNPACKED_MB="1"))

    def test_an_export_without_end_is_stopped(self, attempt: LocalAttempt) -> None:
        with FakeGeti2(form="close") as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=bytes(30_000_000))])))
            trouble(geti, Throttle(10_000_000), EXPORT)
            with pytest.raises(SourceUnsafe, match="sends more than"):
                fetch(geti, attempt, access=access_to(geti, MODELFERRY_MAX_UNPACKED_MB="1"))
            assert geti.requests.bytes_served() < 25_000_000

    def test_a_cancel_is_heard_at_once_and_a_later_fetch_completes(self, attempt: LocalAttempt) -> None:
        with FakeGeti2() as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            trouble(geti, Stall(30, at=100), EXPORT)
            threading.Timer(0.5, attempt.cancelled.set).start()
            started = time.monotonic()
            with pytest.raises(JobCancelled):
                fetch(geti, attempt)
            assert time.monotonic() - started < 1.5
            geti.faults.clear()
            attempt.cancelled.clear()
            assert fetch(geti, attempt)

    def test_kill_9_in_mid_fetch_costs_that_export_and_a_new_attempt_completes(self, tmp_path: Path) -> None:
        """A server of zips knows no ranges: what had arrived is of no use."""
        content = export_of("word", size=2_000_000)
        with FakeGeti2() as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=zip_of(content))])))
            slow = geti.add_fault(Fault(kind=Throttle(500_000), match=Match(EXPORT)))
            errand = Errand(root=str(tmp_path), name="YOLOX", access=access_to(geti))
            with child(errand) as first:
                while geti.requests.bytes_served(EXPORT) < 700_000:
                    time.sleep(0.01)
                first.kill()
            geti.faults.remove(slow)
            before = geti.requests.bytes_served(EXPORT)
            with child(errand) as second:
                printed, _ = second.communicate(timeout=60)
                assert second.returncode == 0
            assert set(json.loads(printed)) == set(laid_out("word"))
            workspace = tmp_path / f"workspace-{second.pid}"
            assert (workspace / "model.bin").read_bytes() == content["deployment/models/model.bin"]
            assert geti.requests.bytes_served(EXPORT) - before > len(zip_of(content))
        # What the dead one has left goes with the next sweep: nothing can go on with it.
        assert all(part.name.startswith("once-") for part in (tmp_path / "parts").iterdir())


@contextmanager
def child(errand: Errand) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.fakes.geti.errand"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(errand))
        process.stdin.close()
        process.stdin = None
        try:
            yield process
        finally:
            process.kill()


class TestDoor:
    @pytest.mark.parametrize(
        ("settings", "secrets", "missing"),
        [
            ({}, {}, "GETI_HOST, GETI_TOKEN"),
            ({"GETI_HOST": " "}, {"GETI_TOKEN": "x"}, "GETI_HOST"),
            ({"GETI_HOST": "localhost"}, {}, "GETI_TOKEN"),
        ],
    )
    def test_what_is_not_set_is_named(self, settings: dict[str, str], secrets: dict[str, str], missing: str) -> None:
        hub = GETI.load(Access(settings=settings, secrets=secrets))
        calls: list[Callable[[], object]] = [
            lambda: hub.resolve(Source(hub="geti", name="x"), GETI.bind({})),
            lambda: hub.list(ListQuery()),  # type: ignore[attr-defined]
            hub.check_credentials,  # type: ignore[attr-defined]
        ]
        for call in calls:
            with pytest.raises(InvalidParameters) as caught:
                call()
            assert str(caught.value) == f"Required env vars not set: {missing}"

    @pytest.mark.parametrize(
        "host", ["ftp://x", "https://user:pw@x", "https://x?y", "https://x#y", "https://", "https://x:0x", "a b", "ü"]
    )
    def test_a_host_that_is_no_address_is_refused(self, host: str) -> None:
        hub = GETI.load(Access(settings={"GETI_HOST": host}, secrets={"GETI_TOKEN": "x"}))
        with pytest.raises(InvalidParameters, match="GETI_HOST must be"):
            hub.check_credentials()  # type: ignore[attr-defined]

    def test_a_token_that_would_break_a_header_is_refused(self) -> None:
        hub = GETI.load(Access(settings={"GETI_HOST": "x"}, secrets={"GETI_TOKEN": "a\r\nHost: b"}))
        with pytest.raises(InvalidParameters, match="GETI_TOKEN") as caught:
            hub.check_credentials()  # type: ignore[attr-defined]
        assert "Host" not in str(caught.value)

    @pytest.mark.parametrize("path", ["*/product_info", "*/organization", "*/workspaces", "*/projects"])
    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), TokenInvalid),
            (Status(403), SourcePrivateOrMissing),
            (rate_limited(3), RateLimited),
            (rate_limited(3, header="Retry-After"), RateLimited),
            (Status(500), HubUnavailable),
            (Status(503), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
            (Drop(), HubUnavailable),
        ],
    )
    def test_each_refusal_has_its_own_code(
        self, geti: FakeGeti2, path: str, kind: FaultKind, error: type[StageError]
    ) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, kind, path)
        with pytest.raises(error) as caught:
            resolve(geti)
        assert "HF_" not in caught.value.advice

    @pytest.mark.parametrize("kind", [Status(200), Status(404), SetHeader("Content-Type", "text/html")])
    def test_a_server_of_something_else_is_no_geti(self, geti: FakeGeti2, kind: FaultKind) -> None:
        trouble(geti, kind)
        with pytest.raises(InvalidParameters, match=r"no Geti server at localhost"):
            resolve(geti)

    def test_what_disappears_meanwhile_is_not_found(self, geti: FakeGeti2) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, Status(404), "*/models/*")
        with pytest.raises(SourceNotFound, match="deleted"):
            resolve(geti)

    def test_the_token_is_in_no_error_and_no_log(self, geti: FakeGeti2, caplog: pytest.LogCaptureFixture) -> None:
        """The server repeats the token that it refuses."""
        caplog.set_level(logging.DEBUG)
        with pytest.raises(TokenInvalid) as caught:
            resolve(geti, access=access_to(geti, GETI_TOKEN="geti_pat_wrong"))
        assert "geti_pat_wrong" not in caplog.text + str(caught.value) + repr(caught.value) + caught.value.advice

    def test_the_token_goes_to_no_other_address(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        manifest = resolve(geti)
        with FakeGeti2() as other:
            trouble(geti, RedirectTo(f"{other.host}/elsewhere"), EXPORT)
            with pytest.raises(StageError):
                GETI.load(access_to(geti)).fetch(manifest, GETI.bind({}), attempt)
            trouble(geti, RedirectTo(f"{other.host}/api/v1/product_info"), "*/product_info")
            with pytest.raises(StageError):
                resolve(geti)
            assert len(other.requests) >= 2
            assert not [request for request in other.requests if "x-api-key" in request.headers]

    def test_a_page_at_every_address_is_no_geti(self, geti: FakeGeti2) -> None:
        for path in ("/ui", "/ui/"):
            access = Access(settings={"GETI_HOST": geti.host + path}, secrets={"GETI_TOKEN": geti.token})
            with pytest.raises(InvalidParameters, match=r"no Geti server at localhost: .* Check GETI_HOST"):
                resolve(geti, access=access)

    def test_a_page_in_the_middle_is_told_apart_from_data(self, geti: FakeGeti2) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(geti, SetHeader("Content-Type", "text/html"), "*/workspaces")
        with pytest.raises(HubUnavailable, match="web page"):
            resolve(geti)

    @pytest.mark.parametrize(
        "answer", [[], {}, {"projects": "x"}, {"projects": [1]}, {"projects": [{"id": "a"}]}, None]
    )
    def test_data_without_sense_is_no_crash(self, geti: FakeGeti2, answer: object) -> None:
        trouble(geti, RewriteJson(lambda _: answer), "*/projects")
        with pytest.raises(HubUnavailable, match="makes no sense"):
            resolve(geti)

    @pytest.mark.parametrize("name", ["../../x", "a/b", "a?b", "", "a" * 100, "a\n", 7, None])
    def test_ids_that_would_lead_elsewhere_are_refused(self, geti: FakeGeti2, name: object) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        trouble(
            geti, RewriteJson(lambda _: {"projects": [{"id": name, "name": "x"}], "project_counts": 1}), "*/projects"
        )
        with pytest.raises(SourceUnsafe):
            resolve(geti)

    def test_a_listing_that_repeats_itself_ends(self, geti: FakeGeti2) -> None:
        same = {"projects": [{"id": "a", "name": "x"}], "project_counts": 10**9}
        trouble(geti, RewriteJson(lambda _: same), "*/projects")
        trouble(geti, RewriteJson(lambda _: {"model_groups": []}), "*/model_groups")
        geti.add(Shelf(name="A"))
        geti.shelves[0].id = "a"
        with pytest.raises(SourceNotFound):
            resolve(geti)
        assert geti.requests.count("*/projects") == 2

    def test_credentials_are_checked(self, geti: FakeGeti2) -> None:
        GETI.load(access_to(geti)).check_credentials()  # type: ignore[attr-defined]
        assert geti.requests.count("*/personal_access_tokens/organization") == 1
        with pytest.raises(TokenInvalid):
            GETI.load(access_to(geti, GETI_TOKEN="wrong")).check_credentials()  # type: ignore[attr-defined]


class TestTrust:
    def test_a_certificate_that_nobody_vouches_for_ends_it(self, identity: Identity) -> None:
        with FakeGeti2(identity) as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            with pytest.raises(HubUnavailable, match="certificate is not trusted") as caught:
                resolve(geti)
            assert "MODELFERRY_CA_BUNDLES" in caught.value.advice
            assert len(geti.requests) == 0

    def test_a_host_without_a_scheme_is_asked_over_tls(self, identity: Identity, attempt: LocalAttempt) -> None:
        with FakeGeti2(identity) as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            access = Access(
                settings={"GETI_HOST": geti.host.removeprefix("https://")},
                secrets={"GETI_TOKEN": geti.token},
                network=NetworkRules(ca_bundle=str(identity.certificate)),
            )
            assert fetch(geti, attempt, access=access)

    def test_an_operator_may_trust_anything_and_is_warned_once(
        self, identity: Identity, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        _warn_unverified.cache_clear()
        with FakeGeti2(identity) as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            access = access_to(geti, GETI_SERVER_SSL_VERIFY="False")
            assert fetch(geti, attempt, access=access)
        assert [record.message for record in caplog.records].count("geti.certificates_ignored") == 1

    def test_a_fetch_looks_at_certificates_too(self, identity: Identity, attempt: LocalAttempt) -> None:
        with FakeGeti2(identity) as geti:
            geti.add(Shelf(name="A").add(Training(name="YOLOX")))
            manifest = resolve(geti, access=access_to(geti, GETI_SERVER_SSL_VERIFY="false"))
            seen = len(geti.requests)
            attempt.limits = msgspec.structs.replace(LIMITS, stall_s=0.5)
            with pytest.raises(StageError):
                GETI.load(access_to(geti)).fetch(manifest, GETI.bind({}), attempt)
            assert len(geti.requests) == seen

    def test_a_host_of_the_request_may_not_be_inside(self, geti: FakeGeti2, attempt: LocalAttempt) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        foreign = access_to(geti, given=FOREIGN)
        with pytest.raises(SourceUnsafe, match="private network"):
            resolve(geti, access=foreign)
        with pytest.raises(SourceUnsafe, match="private network"):
            GETI.load(foreign).fetch(resolve(geti), GETI.bind({}), attempt)
        allowed = msgspec.structs.replace(foreign, network=NetworkRules(private_hosts=frozenset({"localhost"})))
        assert fetch(geti, attempt, access=allowed)

    def test_the_operators_token_and_workspace_stay_with_the_operators_server(self, geti: FakeGeti2) -> None:
        geti.add(Shelf(name="A").add(Training(name="YOLOX")))
        network = NetworkRules(private_hosts=frozenset({"localhost"}))
        half = access_to(geti, given=frozenset({"GETI_HOST"}))
        with pytest.raises(InvalidParameters, match="not set: GETI_TOKEN"):
            resolve(geti, access=msgspec.structs.replace(half, network=network))
        assert len(geti.requests) == 0
        foreign = access_to(geti, given=FOREIGN, GETI_WORKSPACE_ID="of-the-operator")
        assert resolve(geti, access=msgspec.structs.replace(foreign, network=network))


class TestListing:
    @pytest.fixture
    def stocked(self, geti: FakeGeti2) -> FakeGeti2:
        cars = Shelf(name="Cars")
        cars.add(
            Training(name="YOLOX", version=1), Training(name="YOLOX", version=2, exports=[Export(precision="INT8")])
        )
        cars.add(Training(name="ATSS", exports=[Export(model_format="ONNX"), Export(precision="FP32")]))
        ships = Shelf(name="ships").add(Training(name="YOLOX", exports=[]))
        ships.add(Training(name="Gone", purged=True))
        ships.architectures.append(Architecture(name="Empty"))
        return geti.add(ships, cars)

    def test_the_newest_model_of_each_group_is_listed_in_order(self, stocked: FakeGeti2) -> None:
        page = listed(stocked)
        assert [(item.owner, item.name) for item in page.items] == [
            ("Cars", "ATSS"),
            ("Cars", "YOLOX"),
            ("ships", "YOLOX"),
        ]
        assert (page.total, page.has_more) == (3, False)
        item = page.items[1]
        newest = stocked.shelves[1].architectures[0].trainings[1]
        assert item.precisions == ("int8",)
        assert item.last_modified == newest.creation_date
        assert item.metadata == {
            "project_id": stocked.shelves[1].id,
            "model_group_id": stocked.shelves[1].architectures[0].id,
            "model_group_name": "YOLOX",
            "model_id": newest.id,
            "version": "2",
            "export_types": ["optimized", "base"],
            "exports": [
                {"optimized_model_id": newest.exports[0].id, "model_format": "OpenVINO", "precision": ["INT8"]}
            ],
        }

    def test_pages_have_an_end(self, stocked: FakeGeti2) -> None:
        first, last = listed(stocked, limit=2), listed(stocked, limit=2, offset=2)
        assert ([item.name for item in first.items], first.has_more, first.total) == (["ATSS", "YOLOX"], True, 3)
        assert ([item.owner for item in last.items], last.has_more, last.total) == (["ships"], False, 3)
        assert listed(stocked, limit=2, offset=9).items == ()

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"project_name": "CAR"}, ["ATSS", "YOLOX"]),
            ({"model_name": "yolo"}, ["YOLOX", "YOLOX"]),
            ({"model_group_name": "tss"}, ["ATSS"]),
            ({"model_group_id": "none"}, []),
            ({"project_id": "none"}, []),
            ({"export_type": "optimized"}, ["ATSS", "YOLOX"]),
            ({"export_type": "base"}, ["ATSS", "YOLOX", "YOLOX"]),
            ({"precision": "fp16"}, ["ATSS"]),
            ({"precision": "fp32", "model_format": "openvino"}, ["ATSS"]),
            ({"precision": "fp16", "model_format": "OpenVINO"}, []),
            ({"model_format": "onnx", "project_name": None}, ["ATSS"]),
        ],
    )
    def test_filters_narrow(self, stocked: FakeGeti2, filters: dict[str, object], found: list[str]) -> None:
        assert [item.name for item in listed(stocked, **filters).items] == found

    def test_ids_narrow(self, stocked: FakeGeti2) -> None:
        assert listed(stocked, project_id=stocked.shelves[0].id).total == 1
        assert listed(stocked, model_group_id=stocked.shelves[1].architectures[1].id).items[0].name == "ATSS"

    def test_a_filter_that_makes_no_sense_is_refused(self, stocked: FakeGeti2) -> None:
        for filters in ({"export_type": "both"}, {"precision": ["fp16"]}, {"colour": "red"}):
            with pytest.raises(InvalidParameters):
                listed(stocked, **filters)

    def test_names_that_nobody_could_ask_for_are_left_out(self, geti: FakeGeti2) -> None:
        shelf = Shelf(name="Line\n\x1b[31m1\u202e")
        for name in ("../x", "a/b", "a\x00b", ".hidden", "a..b", "x" * 200, "bidi\u202etxt", "", "Good one (1.0)"):
            shelf.add(Training(name=name))
        geti.add(shelf)
        (item,) = listed(geti).items
        assert (item.name, item.owner) == ("Good one (1.0)", "Line [31m1")

    def test_what_is_listed_can_be_fetched(self, stocked: FakeGeti2, attempt: LocalAttempt) -> None:
        for item in listed(stocked, export_type="optimized", model_format="OpenVINO").items:
            assert item.precisions
            assert fetch(stocked, attempt, item.name, precision=item.precisions[0])


class TestVersion3:
    @pytest.fixture
    def geti3(self) -> Iterator[FakeGeti3]:
        with FakeGeti3() as server:
            exports = [
                Export(model_format="PyTorch", precision="FP32", content=zip_of({"model.pth": b"abc"})),
                Export(precision="FP16", purged=True),
                Export(precision="FP16", fields={"tags": ["x"]}),
                Export(precision="INT8"),
            ]
            gone, busy = Training(name="YOLOX-S", purged=True), Training(name="YOLOX-S", status="in_progress")
            trained = Training(name="YOLOX-S", exports=exports)
            yield server.add(Shelf(name="Empty"), Shelf(name="Cars").add(gone, busy, trained))

    def test_a_variant_is_found_and_brought(self, geti3: FakeGeti3, attempt: LocalAttempt) -> None:
        training = geti3.shelves[1].architectures[0].trainings[2]
        export = training.exports[2]
        manifest = resolve(geti3, "yolox-s")
        assert manifest.revision.startswith(f"{training.id}.{export.id}.")
        assert manifest.facts == {"model_id": training.id, "export_type": "optimized", "model_format": "OpenVINO"}
        # It always adds what shows how to run the model.
        assert fetch(geti3, attempt, "yolox-s") == laid_out(export.id) | {
            "python/demo.py": b"print()",
            "python/models/net.py": b"print()",
        }

    def test_filters_hold_there_too(self, geti3: FakeGeti3) -> None:
        manifest = resolve(geti3, "YOLOX-S", tags="X", zebra=1, model_only=True)
        assert manifest.facts["warnings"]["ignored_fields"] == ["zebra"]  # type: ignore[index]
        assert manifest.files[0].url.endswith("/binary")
        with pytest.raises(SourceNotFound, match="There are: OpenVINO fp16, OpenVINO int8, base"):
            resolve(geti3, "YOLOX-S", precision="fp32")

    def test_base_weights_are_those_of_pytorch(self, geti3: FakeGeti3, attempt: LocalAttempt) -> None:
        assert fetch(geti3, attempt, "YOLOX-S", export_type="base") == {"model.pth": b"abc"}

    def test_models_are_listed(self, geti3: FakeGeti3) -> None:
        (item,) = listed(geti3).items
        assert (item.name, item.owner, item.precisions) == ("YOLOX-S", "Cars", ("fp16", "int8"))
        assert listed(geti3, precision="fp32").items == ()

    def test_credentials_cannot_be_refused(self, geti3: FakeGeti3) -> None:
        GETI.load(access_to(geti3)).check_credentials()  # type: ignore[attr-defined]

    def test_a_server_that_wants_another_login_is_told_apart(self, geti3: FakeGeti3) -> None:
        trouble(geti3, Status(401), "*/projects")
        with pytest.raises(TokenInvalid):
            resolve(geti3, "YOLOX-S")


class VolumeAttempt(LocalAttempt):
    """An attempt on a volume of models."""

    def __init__(self, volume: Volume, name: str) -> None:
        self.volume = volume
        self.blobs = BlobStore(volume)
        super().__init__(volume.work / "stage", LIMITS, name)

    @property
    def last(self) -> Progress | None:
        return self.reports[-1] if self.reports else None

    @property
    def parts(self) -> Path:
        return self.volume.parts

    def stored(self, sha256: str) -> Path | None:
        return self.blobs.stored(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        return self.blobs.take(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        return self.blobs.link(sha256, self.workspace / path)

    def fence(self) -> None:
        pass


def test_the_same_model_is_brought_once_and_shown_where_it_belongs(geti: FakeGeti2, tmp_path: Path) -> None:
    export = Export()
    geti.add(Shelf(name="A").add(Training(name="YOLOX S", exports=[export])))
    volume, catalog = Volume(tmp_path), Catalog.installed("geti")
    volume.prepare()
    spec = plan(Wish(name="yolox s", hub="geti", root="edge", config={"zebra": "Line 4"}), catalog)
    fetch_link, publish_link = stages(spec)
    for attempt in (VolumeAttempt(volume, "first"), VolumeAttempt(volume, "second")):
        tools = Tools(
            catalog=catalog,
            store=ArtefactStore(volume),
            attempt=attempt,  # type: ignore[arg-type]
            settings={"GETI_HOST": geti.host},
            secrets={"GETI_TOKEN": geti.token},
            now=utc_now,
        )
        fetched = bring_stage(msgspec.convert(fetch_link.work, FetchWork), tools)
        shown = show(msgspec.convert(publish_link.work, PublishWork), fetched.artefact, tools)
    assert fetched.result["reused"] is True
    assert fetched.result[FACTS]["warnings"]["ignored_fields"] == ["zebra"]  # type: ignore[index]
    assert shown.result["path"] == str(tmp_path / "edge/geti/yolox s/line_4/fp16")
    assert files_below(tmp_path / "edge") == {
        f"geti/yolox s/line_4/fp16/{name}" for name in [*laid_out(export.id), ".modelferry.json"]
    }
    # One request asks what the server can do, the other brings the export.
    assert geti.requests.count(EXPORT) == 2


def test_the_trickle_of_a_slow_server_is_borne(geti: FakeGeti2, attempt: LocalAttempt) -> None:
    geti.add(Shelf(name="A").add(Training(name="YOLOX")))
    trouble(geti, Trickle(chunk_bytes=500, interval_s=0.05), EXPORT)
    assert fetch(geti, attempt)


def test_the_hub_keeps_what_all_hubs_promise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the promises that are not about single files, which a server of zips does not list."""
    caplog.set_level(logging.DEBUG)
    attempt = LocalAttempt(tmp_path / "attempt")
    with geti_place() as place:
        assert place.resolve() == place.resolve()
        with pytest.raises(SourceNotFound):
            place.resolve("org/nowhere")
        for _ in range(2):
            place.fetch(place.resolve(), attempt)
            assert {path: (attempt.workspace / path).read_bytes() for path in files_below(attempt.workspace)} == MODEL
    assert SECRET not in caplog.text


@pytest.mark.skipif(
    not os.environ.get("MODELFERRY_TEST_GETI_PYTHON"),
    reason="MODELFERRY_TEST_GETI_PYTHON names no Python with geti-sdk",
)
def test_the_fake_server_convinces_getis_own_client(identity: Identity, tmp_path: Path) -> None:
    """geti-sdk needs other versions of the libraries that conversions need, so it lives in an environment of its own."""
    answer, folder = tmp_path / "answer.json", tmp_path / "downloads"
    with FakeGeti2(identity, most_per_page=1) as geti:
        training = Training(name="ATSS", version=2, exports=[Export(precision="INT8"), Export()])
        geti.add(Shelf(name="A").add(Training(name="YOLOX")), Shelf(name="B").add(Training(name="ATSS"), training))
        asked = {
            "host": geti.host,
            "token": geti.token,
            "download_from": "B",
            "folder": str(folder),
            "answer": str(answer),
        }
        (tmp_path / "asked.json").write_text(json.dumps(asked))
        script = Path(__file__).parent.parent / "fakes" / "geti" / "visit.py"
        environment = {"PATH": os.environ["PATH"], "REQUESTS_CA_BUNDLE": str(identity.certificate)}
        command = [os.environ["MODELFERRY_TEST_GETI_PYTHON"], script, tmp_path / "asked.json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        ours = {item.metadata["model_id"] for item in listed_over_tls(geti, identity).items if item.metadata}
    seen = json.loads(answer.read_text())
    assert seen["version"] == "2.13.0"
    assert seen["workspace"] == geti.workspace
    assert [project["name"] for project in seen["projects"]] == ["A", "B"]
    assert {model["id"] for project in seen["projects"] for model in project["models"]} == ours
    forms = [(form["id"], form["precision"], form["format"]) for form in seen["projects"][1]["models"][0]["forms"]]
    assert forms == [(export.id, [export.precision], "OpenVINO") for export in training.exports]
    downloaded = {path.read_bytes() for path in (folder / "models").iterdir()}
    assert downloaded == {training.base, training.exports[0].packed()}


def listed_over_tls(geti: FakeGeti2, identity: Identity) -> ListPage:
    network = NetworkRules(ca_bundle=str(identity.certificate))
    hub = GETI.load(msgspec.structs.replace(access_to(geti), network=network))
    return hub.list(ListQuery())  # type: ignore[attr-defined]
