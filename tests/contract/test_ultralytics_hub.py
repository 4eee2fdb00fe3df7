"""The adapter of Ultralytics' releases against a GitHub that speaks the real protocol, and fails where it can."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from common.catalog.registry import Catalog
from common.catalog.ultralytics import EXPORT, PACKAGES, ULTRALYTICS, UltralyticsOptions, names_in, official_models
from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    InvalidSpec,
    JobCancelled,
    PluginNotInstalled,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from common.planning import Wish, plan, stages
from common.plugins import Access, Hub, HubPlugin, ListQuery, TransferLimits
from common.spec import Manifest, Source
from common.vocabulary import Format, StageKind
from scripts.setup import LIBRARIES, profile_pins
from tests.fakes.attempt import Errand, LocalAttempt
from tests.fakes.faults import (
    Drop,
    Fault,
    FaultKind,
    FlipBit,
    OmitHeader,
    RedirectLoop,
    RedirectTo,
    RewriteJson,
    SetHeader,
    Status,
)
from tests.fakes.traffic import Match
from tests.fakes.ultralytics_assets import PICTURES, FakeUltralyticsAssets
from tests.names import plainly
from worker.hubs.ultralytics import UltralyticsHub

NANO = bytes(range(256)) * 5000
SMALL = random.Random(1).randbytes(700_000)
ZIP = b"PK\x03\x04 not looked into by the hub"
PROFILES = {"MODELFERRY_PROFILES": json.dumps({"ultralytics": "/nowhere"})}
LIMITS = TransferLimits(block_bytes=256 * 1024, connect_s=2, read_s=5, stall_s=20, spare_bytes=0)


@dataclass(frozen=True)
class UltralyticsPlace:
    """Releases with the model `yolov8n`, and how to reach them; `model` is what a fetch of it leaves."""

    plugin: HubPlugin[UltralyticsOptions]
    access: Access
    name: str
    model: dict[str, bytes]

    def resolve(self, name: str | None = None) -> Manifest:
        source = Source(hub=self.plugin.name, name=name or self.name)
        return self.plugin.load(self.access).resolve(source, self.plugin.bind({}))

    def fetch(self, manifest: Manifest, attempt: LocalAttempt) -> None:
        self.plugin.load(self.access).fetch(manifest, self.plugin.bind({}), attempt)


@contextmanager
def ultralytics_place() -> Iterator[UltralyticsPlace]:
    """For the tests of every hub."""
    with FakeUltralyticsAssets() as fake:
        fake.add({"yolov8n.pt": NANO})
        access = Access(settings={**fake.settings, **PROFILES})
        yield UltralyticsPlace(ULTRALYTICS, access, "yolov8n", {"yolov8n.pt": NANO})


@pytest.fixture
def fake() -> Iterator[FakeUltralyticsAssets]:
    with FakeUltralyticsAssets() as fake:
        fake.add({"yolov8n.pt": NANO, "yolov8s.pt": SMALL, "yolo11n-seg.pt": NANO[:99_000], "sam_b.pt": b"x"})
        fake.add({"coco8.zip": ZIP, "coco128.zip": ZIP + b"!"}, tag=PICTURES)
        yield fake


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path, LIMITS)


def hub_at(fake: FakeUltralyticsAssets, **settings: str) -> Hub:
    return ULTRALYTICS.load(Access(settings={**fake.settings, **PROFILES, **settings}))


def resolve(fake: FakeUltralyticsAssets, name: str = "yolov8n", revision: str | None = None, **raw: object) -> Manifest:
    source = Source(hub="ultralytics", name=name, revision=revision)
    return hub_at(fake).resolve(source, ULTRALYTICS.bind(raw))


def fetch(fake: FakeUltralyticsAssets, manifest: Manifest, attempt: LocalAttempt) -> None:
    assert hub_at(fake).fetch(manifest, ULTRALYTICS.bind({}), attempt) is None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trouble(fake: FakeUltralyticsAssets, kind: FaultKind, origin: str = "cdn", path: str | None = None) -> None:
    fake.add_fault(Fault(kind=kind, match=Match(path=path, origin=origin)))


def test_the_place_for_the_tests_of_every_hub_holds_its_model(attempt: LocalAttempt) -> None:
    with ultralytics_place() as place:
        place.fetch(place.resolve(), attempt)
        assert contents(attempt.workspace) == place.model
        with pytest.raises(SourceNotFound):
            place.resolve("org/nowhere")


class TestTheDescriptor:
    def test_it_is_off_unless_it_is_named(self) -> None:
        assert "ultralytics" not in Catalog.installed("all").hubs
        assert "ultralytics" in Catalog.installed("all,ultralytics").hubs
        assert ULTRALYTICS.opt_in
        assert EXPORT.opt_in
        assert EXPORT.finishes

    def test_the_licence_is_told(self) -> None:
        assert "AGPL-3.0" in ULTRALYTICS.description
        assert "AGPL-3.0" in EXPORT.description

    def test_what_decides_the_bytes_is_pinned_as_it_is_installed(self) -> None:
        (profile,) = LIBRARIES
        pins = dict(line.split("==") for line in profile_pins(profile).read_text().split())
        assert {name: pins[name] for name in PACKAGES} == PACKAGES

    def test_unknown_options_are_kept_and_wrong_ones_refused(self) -> None:
        assert ULTRALYTICS.bind({"precision": "int8", "device": "CPU"}).extra == {"precision": "int8", "device": "CPU"}
        assert EXPORT.bind(msgspec.to_builtins(ULTRALYTICS.bind({"quantize": "coco8", "x": 1}))).quantize == "coco8"
        assert ULTRALYTICS.bind({"quantize": ""}) == ULTRALYTICS.bind({})
        with pytest.raises(InvalidSpec):
            ULTRALYTICS.bind({"quantize": "imagenet"})


class TestNames:
    def test_the_official_models_are_those_of_the_library(self) -> None:
        models = official_models()
        assert {model.task for model in models.values()} == {"classify", "detect", "obb", "pose", "segment"}
        assert {model.family for model in models.values()} == {
            "yolo11", "yolo12", "yolo26", "yolov10", "yolov3", "yolov5", "yolov8", "yolov9",
        }  # fmt: skip
        for name in ("yolov5nu", "yolov8l", "yolov8n-obb", "yolov9c-seg", "yolov10b", "yolo11x-pose", "yolo26n-cls"):
            assert name in models
        assert models["yolov8x-pose-p6"].task == "pose"
        assert models["yolov8n-oiv7"].task == "detect"
        assert list(models) == sorted(models)

    def test_lists_and_words_mean_models_each_once(self) -> None:
        assert names_in("yolov8n") == names_in("yolov8n.pt") == names_in("yolov8n,yolov8n.pt") == ("yolov8n",)
        assert names_in("yolov8s,yolov8n") == ("yolov8s", "yolov8n")
        assert names_in("all") == tuple(official_models())
        detectors = names_in("yolo_all")
        assert {official_models()[name].task for name in detectors} == {"detect"}
        assert "yolov8l" in detectors

    @pytest.mark.parametrize("name", ["yolov7", "yolov8n-world", "sam_b", "yolov8n,nonsense", "best.pt"])
    def test_other_names_are_not_found(self, fake: FakeUltralyticsAssets, name: str) -> None:
        with pytest.raises(SourceNotFound):
            resolve(fake, name)
        assert not len(fake.requests)

    def test_the_nearest_name_is_told(self, fake: FakeUltralyticsAssets) -> None:
        with pytest.raises(SourceNotFound) as refused:
            resolve(fake, "yolo8n")
        assert "yolov8n" in refused.value.advice

    @pytest.mark.parametrize(
        "name", ["../x", "a/b", "yolov8n;ls", "-x", "yolov8n,", "yolov8n,../x", "yolov8n,yolov8n", ""]
    )
    def test_names_that_are_none_are_refused_at_once(self, name: str) -> None:
        with pytest.raises(InvalidSpec):
            plan(Wish(name=name, hub="ultralytics", root="m"), Catalog.installed("all,ultralytics"))


class TestResolving:
    def test_one_model_is_one_file_with_size_and_digest(self, fake: FakeUltralyticsAssets) -> None:
        manifest = resolve(fake)
        (file,) = manifest.files
        assert (file.path, file.size) == ("yolov8n.pt", len(NANO))
        assert file.digest is not None
        assert file.digest.value == hashlib.sha256(NANO).hexdigest()
        assert (manifest.revision, manifest.licence, manifest.format) == ("v8.4.0", "AGPL-3.0", Format.PYTORCH)
        assert manifest.facts == {"model_name": "yolov8n", "int8_requested": False}

    def test_resolving_is_pure_and_asks_once(self, fake: FakeUltralyticsAssets) -> None:
        assert resolve(fake, "yolov8n.pt").files == resolve(fake).files
        assert [request.origin for request in fake.requests] == ["api", "api"]

    def test_several_models_have_folders_of_their_own(self, fake: FakeUltralyticsAssets) -> None:
        manifest = resolve(fake, "yolov8s,yolo11n-seg.pt")
        assert [file.path for file in manifest.files] == ["yolov8s/yolov8s.pt", "yolo11n-seg/yolo11n-seg.pt"]
        assert len(fake.requests) == 1

    def test_all_is_all_or_says_what_is_missing(self, fake: FakeUltralyticsAssets) -> None:
        with pytest.raises(SourceNotFound, match=r"v8\.4\.0 has no file yolo11l"):
            resolve(fake, "all")
        fake.add({f"{name}.pt": name.encode() for name in official_models()})
        assert len(resolve(fake, "all").files) == len(official_models())
        assert len(resolve(fake, "yolo_all").files) == len(names_in("yolo_all"))

    @pytest.mark.parametrize("dataset", ["coco8", "coco128"])
    def test_int8_brings_pictures_along(self, fake: FakeUltralyticsAssets, dataset: str) -> None:
        manifest = resolve(fake, quantize=dataset)
        assert [file.path for file in manifest.files] == ["yolov8n.pt", f"calibration/{dataset}.zip"]
        assert manifest.files[1].url == f"{fake.assets_url}/v0.0.0/{dataset}.zip"
        assert manifest.facts["int8_requested"] is True

    def test_the_pictures_of_coco_come_from_elsewhere_and_are_pinned(self, fake: FakeUltralyticsAssets) -> None:
        file = resolve(fake, quantize="coco").files[1]
        assert (file.path, file.size) == ("calibration/coco.zip", 815_585_330)
        assert file.digest is not None
        assert file.url == "http://images.cocodataset.org/zips/val2017.zip"
        own = hub_at(fake, ULTRALYTICS_COCO_URL="https://mirror.example/val2017.zip")
        manifest = own.resolve(Source(hub="ultralytics", name="yolov8n"), ULTRALYTICS.bind({"quantize": "coco"}))
        assert manifest.files[1].url == "https://mirror.example/val2017.zip"
        assert manifest.files[1].digest == file.digest

    @pytest.mark.parametrize("name", ["all", "yolo_all", "yolov8n,yolov8s"])
    def test_int8_is_for_one_model(self, fake: FakeUltralyticsAssets, name: str) -> None:
        with pytest.raises(InvalidParameters) as refused:
            resolve(fake, name, quantize="coco8")
        told = f"INT8 requires a single model. Received '{name}' with quantize='coco8'."
        assert str(refused.value).startswith(told)
        assert not len(fake.requests)

    def test_a_release_may_be_named(self, fake: FakeUltralyticsAssets) -> None:
        fake.add({"yolov8n.pt": b"older"}, tag="v8.3.0")
        manifest = resolve(fake, revision="v8.3.0")
        assert (manifest.revision, manifest.files[0].size) == ("v8.3.0", 5)
        assert "/v8.3.0/" in manifest.files[0].url

    @pytest.mark.parametrize("revision", ["v8.9.9", "main", "v8.4.0/..", "../v8.4.0"])
    def test_no_such_release(self, fake: FakeUltralyticsAssets, revision: str) -> None:
        with pytest.raises(RevisionNotFound):
            resolve(fake, revision=revision)

    def test_a_file_that_only_a_later_page_lists_is_found(self) -> None:
        with FakeUltralyticsAssets(described=10) as fake:
            fake.add({f"other-{number}.pt": b"x" for number in range(230)})
            fake.add({"yolov8n.pt": NANO})
            assert resolve(fake).files[0].size == len(NANO)
            with pytest.raises(SourceNotFound):
                resolve(fake, "yolov8s")

    def test_a_file_without_a_digest_is_told_of_and_its_replacement_is_another_revision(
        self, fake: FakeUltralyticsAssets
    ) -> None:
        fake.add({"yolov8n.pt": NANO}, digests=False)
        manifest = resolve(fake)
        assert manifest.files[0].digest is None
        assert manifest.files[0].size == len(NANO)
        assert manifest.facts["warnings"] == {"without_digest": ["yolov8n.pt"]}
        assert manifest.revision.startswith("v8.4.0-")
        assert manifest == resolve(fake)
        fake.add({"yolov8n.pt": NANO[::-1]}, digests=False)
        assert resolve(fake).revision != manifest.revision

    def test_githubs_own_api_is_known(self) -> None:
        hub = UltralyticsHub(Access(settings=PROFILES))
        assert hub._releases == "https://api.github.com/repos/ultralytics/assets/releases"
        other = Access(settings={"ULTRALYTICS_ASSETS_URL": "https://mirror.example/ultralytics"})
        assert UltralyticsHub(other)._releases is None

    def test_without_the_profile_nothing_is_asked(self, fake: FakeUltralyticsAssets) -> None:
        hub = ULTRALYTICS.load(Access(settings=fake.settings))
        with pytest.raises(PluginNotInstalled) as refused:
            hub.resolve(Source(hub="ultralytics", name="yolov8n"), ULTRALYTICS.bind({}))
        assert "--profile ultralytics" in refused.value.advice
        assert "MODELFERRY_PROFILES=ultralytics=" in refused.value.advice
        assert "AGPL-3.0" in refused.value.advice
        assert not len(fake.requests)


class TestAMirrorOfFiles:
    """A plain web server with the same paths, and no API."""

    def test_sizes_come_from_the_files(self, fake: FakeUltralyticsAssets, attempt: LocalAttempt) -> None:
        access = Access(settings={"ULTRALYTICS_ASSETS_URL": fake.assets_url, **PROFILES})
        hub, source = ULTRALYTICS.load(access), Source(hub="ultralytics", name="yolov8n")
        manifest = hub.resolve(source, ULTRALYTICS.bind({"quantize": "coco8"}))
        assert [(file.size, file.digest) for file in manifest.files] == [(len(NANO), None), (len(ZIP), None)]
        assert manifest.facts["warnings"] == {"without_digest": ["yolov8n.pt", "calibration/coco8.zip"]}
        assert manifest == hub.resolve(source, ULTRALYTICS.bind({"quantize": "coco8"}))
        hub.fetch(manifest, ULTRALYTICS.bind({}), attempt)
        assert contents(attempt.workspace) == {"yolov8n.pt": NANO, "calibration/coco8.zip": ZIP}

    def test_what_is_not_there_is_not_found(self, fake: FakeUltralyticsAssets) -> None:
        access = Access(settings={"ULTRALYTICS_ASSETS_URL": fake.assets_url, **PROFILES})
        with pytest.raises(SourceNotFound):
            ULTRALYTICS.load(access).resolve(Source(hub="ultralytics", name="yolov8x"), ULTRALYTICS.bind({}))


class TestFaultsOfTheApi:
    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), SourcePrivateOrMissing),
            (Status(403), SourcePrivateOrMissing),
            (Status(403, {"x-ratelimit-remaining": "0"}), RateLimited),
            (Status(429), RateLimited),
            (Status(404), RevisionNotFound),
            (Status(500), HubUnavailable),
            (Status(503), HubUnavailable),
            (Drop(), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
            (RedirectTo("http://169.254.169.254/latest"), SourceUnsafe),
            (RewriteJson(lambda _: {"id": "no number"}), SourceUnsafe),
            (RewriteJson(lambda _: []), SourceUnsafe),
            (SetHeader("Content-Encoding", "gzip"), SourceUnsafe),
        ],
        ids=plainly,
    )
    def test_each_has_its_code(self, fake: FakeUltralyticsAssets, kind: FaultKind, error: type[StageError]) -> None:
        trouble(fake, kind, "api")
        with pytest.raises(error):
            resolve(fake)

    def test_githubs_quota_is_waited_for(self, fake: FakeUltralyticsAssets) -> None:
        reset = str(int(time.time()) + 90)
        trouble(fake, Status(403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}), "api")
        with pytest.raises(RateLimited) as limited:
            resolve(fake)
        assert limited.value.wait_s is not None
        assert 60 < limited.value.wait_s <= 90

    def test_an_impossible_size_or_digest_is_refused(self, fake: FakeUltralyticsAssets) -> None:
        for lie in ({"size": -1}, {"digest": "sha256:abc"}, {"size": "many"}):
            armed = fake.add_fault(Fault(kind=RewriteJson(lambda document, lie=lie: _with(document, lie))))
            with pytest.raises(SourceUnsafe):
                resolve(fake)
            fake.faults.remove(armed)


class TestFetching:
    def test_fetching_twice_leaves_the_same_bytes(self, fake: FakeUltralyticsAssets, attempt: LocalAttempt) -> None:
        manifest = resolve(fake, quantize="coco8")
        for _ in range(2):
            fetch(fake, manifest, attempt)
            assert contents(attempt.workspace) == {"yolov8n.pt": NANO, "calibration/coco8.zip": ZIP}
        assert fake.requests.bytes_served(origin="cdn") == len(NANO) + len(ZIP)
        assert attempt.reports

    def test_one_flipped_bit_is_refused(self, fake: FakeUltralyticsAssets, attempt: LocalAttempt) -> None:
        trouble(fake, FlipBit(300_001))
        with pytest.raises(IntegrityMismatch):
            fetch(fake, resolve(fake), attempt)
        assert not attempt.kept

    def test_a_lying_size_is_refused(self, fake: FakeUltralyticsAssets, attempt: LocalAttempt) -> None:
        for size in (len(NANO) - 1, len(NANO) + 1):
            armed = fake.add_fault(Fault(kind=RewriteJson(lambda document, size=size: _with(document, {"size": size}))))
            manifest = resolve(fake)
            fake.faults.remove(armed)
            with pytest.raises((IntegrityMismatch, HubUnavailable)):
                fetch(fake, manifest, attempt)
        assert not attempt.kept

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (RedirectTo("http://169.254.169.254/x"), SourceUnsafe),
        ],
        ids=plainly,
    )
    def test_each_refusal_of_a_file_has_its_code(
        self, fake: FakeUltralyticsAssets, attempt: LocalAttempt, kind: FaultKind, error: type[StageError]
    ) -> None:
        manifest = resolve(fake)
        trouble(fake, kind, "hub")
        with pytest.raises(error):
            fetch(fake, manifest, attempt)

    def test_a_file_without_a_digest_is_brought(self, fake: FakeUltralyticsAssets, attempt: LocalAttempt) -> None:
        fake.add({"yolov8n.pt": NANO}, digests=False)
        trouble(fake, OmitHeader("ETag"))
        fetch(fake, resolve(fake), attempt)
        assert contents(attempt.workspace) == {"yolov8n.pt": NANO}

    def test_a_cancelled_fetch_stops_and_a_later_one_completes(
        self, fake: FakeUltralyticsAssets, attempt: LocalAttempt
    ) -> None:
        manifest = resolve(fake)
        attempt.cancelled.set()
        with pytest.raises(JobCancelled):
            fetch(fake, manifest, attempt)
        attempt.cancelled.clear()
        fetch(fake, manifest, attempt)
        assert contents(attempt.workspace) == {"yolov8n.pt": NANO}

    def test_kill_9_in_mid_fetch_costs_at_most_a_block_per_connection(self, tmp_path: Path) -> None:
        limits = msgspec.structs.replace(LIMITS, connections=2)
        content = random.Random(2).randbytes(6_000_000)
        with FakeUltralyticsAssets(bytes_per_s=2_000_000) as fake:
            fake.add({"yolov8n.pt": content})
            errand = Errand(root=str(tmp_path), files=resolve(fake).files, limits=limits)
            child = _child(errand)
            while fake.requests.bytes_served(origin="cdn") < 2_000_000:
                time.sleep(0.01)
            child.kill()
            child.wait()
            attempt = LocalAttempt(tmp_path, limits)
            fetch(fake, resolve(fake), attempt)
            served = fake.requests.bytes_served(origin="cdn")
        assert contents(attempt.workspace) == {"yolov8n.pt": content}
        assert attempt.reports[-1].bytes_resumed > 0
        assert served - len(content) <= 2 * limits.connections * limits.block_bytes


class TestListing:
    def test_it_pages_without_asking_anybody(self, fake: FakeUltralyticsAssets) -> None:
        hub = hub_at(fake)
        first = hub.list(ListQuery(filters={"search": "V8N"}, limit=4))
        rest = hub.list(ListQuery(filters={"search": "V8N"}, limit=4, offset=4))
        assert [item.name for item in (*first.items, *rest.items)] == sorted(
            name for name in official_models() if "v8n" in name
        )
        assert (first.has_more, rest.has_more, first.total) == (True, False, 6)
        item = first.items[0]
        assert (item.owner, item.license) == ("ultralytics", "AGPL-3.0")
        assert item.metadata == {"task": "detect", "family": "yolov8"}
        assert hub.list(ListQuery(limit=200)).total == len(official_models())
        assert hub.list(ListQuery(filters={"search": "nothing"})).items == ()
        assert not len(fake.requests)


class TestPlanning:
    def test_a_download_is_fetched_exported_and_shown_where_clients_look(self) -> None:
        offer = Catalog.installed("all,ultralytics")
        wish = Wish(name="yolov8l", hub="ultralytics", root="object-detection", config={"quantize": "coco8"})
        spec = plan(wish, offer)
        assert spec.destination.folder == "ultralytics/public/yolov8l"
        assert spec.finisher == "ultralytics"
        assert spec.converter_options == {"quantize": "coco8"}
        chain = stages(spec)
        assert [link.kind for link in chain] == [StageKind.FETCH, StageKind.CONVERT, StageKind.PUBLISH]
        assert plan(msgspec.structs.replace(wish, name="yolov8l.pt"), offer).destination == spec.destination

    def test_what_a_client_sends_beside_changes_no_bytes(self) -> None:
        offer = Catalog.installed("all,ultralytics")
        plain = plan(Wish(name="yolov8n", hub="ultralytics", root="m"), offer)
        adorned = plan(Wish(name="yolov8n", hub="ultralytics", root="m", config={"precision": "fp16"}), offer)
        assert plain.converter_options == adorned.converter_options

    def test_a_conversion_of_such_a_model_is_refused_at_once(self) -> None:
        offer = Catalog.installed("all,ultralytics")
        with pytest.raises(InvalidSpec, match="cannot be converted"):
            plan(Wish(name="yolov8n", hub="ultralytics", root="m", convert=True), offer)


def _with(document: object, changes: dict[str, object]) -> object:
    if isinstance(document, dict) and "assets" in document:
        return {**document, "assets": [{**asset, **changes} for asset in document["assets"]]}
    return document


def _child(errand: Errand) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.attempt"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(errand))
    child.stdin.close()
    return child
