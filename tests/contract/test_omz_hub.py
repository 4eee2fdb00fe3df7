"""Hub `omz`: a catalogue with digests, a storage of plain files, and what DL Streamer wants beside some models."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import torch

from common.catalog.omz import CATALOGUE, LABELS, OMZ
from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    InvalidSpec,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    StageError,
    UnsupportedModel,
)
from common.planning import Wish, plan, stages
from common.plugins import Access, NetworkRules, TransferLimits
from common.spec import Manifest, Source, check_file_path
from common.vocabulary import DigestAlgorithm, Format, StageKind
from tests.contract.places import Place
from tests.contract.test_hub_contract import contents
from tests.fakes.attempt import LocalAttempt
from tests.fakes.faults import Fault, FlipBit, RedirectLoop, Status, rate_limited
from tests.fakes.omz import STORED_BELOW, FakeOmz, intel_model
from tests.fakes.storage import MISSING_PAGE
from tests.fakes.traffic import Match
from tests.stage_chain import Offer, Refused, run_job
from worker.converters.omz import mobilenet
from worker.hubs.omz import OmzHub, read_catalogue

FACE = "face-detection-retail-0004"
AGE = "age-gender-recognition-retail-0013"
POSE = "human-pose-estimation-0001"
MOBILENET = "mobilenet-v2-pytorch"
CHECKPOINT = "mobilenet_v2-b0353104.pth"
BLOCK = 256 * 1024
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=6, spare_bytes=0, connections=4)


@contextmanager
def omz_place(folder: Path) -> Iterator[Place]:
    """For the contract that all hubs keep."""
    with FakeOmz() as zoo:
        model = intel_model("some-detection-0001", weights=2_000_000)
        zoo.add_model("some-detection-0001", model)
        settings = {"OMZ_URL": zoo.endpoint, "OMZ_CATALOGUE": str(zoo.write_catalogue(folder / "omz.json"))}
        yield Place(OMZ, Access(settings=settings), {}, model, "some-detection-0001")


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[FakeOmz]:
    with FakeOmz() as zoo:
        zoo.add_model(FACE, intel_model(FACE, precisions=("FP32", "FP16", "FP16-INT8")))
        zoo.add_model(AGE, intel_model(AGE))
        zoo.add_model(POSE, intel_model(POSE))
        zoo.add_model("labelled", {**intel_model("labelled"), "vocab.txt": b"a\n"})
        zoo.public = ["yolo-v3-tf"]
        zoo.write_catalogue(tmp_path / "omz.json")
        yield zoo


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


def access_to(zoo: FakeOmz, tmp_path: Path) -> Access:
    return Access(settings={"OMZ_URL": zoo.endpoint, "OMZ_CATALOGUE": str(tmp_path / "omz.json")})


def offer_of(zoo: FakeOmz, tmp_path: Path) -> Offer:
    return Offer("common.catalog.omz:OMZ", "common.catalog.omz:OMZ_CONVERTER", dict(access_to(zoo, tmp_path).settings))


def resolve(access: Access, name: str, revision: str | None = None, **options: object) -> Manifest:
    source = Source(hub="omz", name=name, revision=revision)
    return OmzHub(access).resolve(source, OMZ.bind(options))


def fetch(access: Access, manifest: Manifest, attempt: LocalAttempt) -> tuple[str, ...]:
    return OmzHub(access).fetch(manifest, OMZ.bind({}), attempt)


class TestTheCatalogue:
    """What the package itself carries."""

    def test_it_describes_intels_models_with_sizes_and_digests(self) -> None:
        zoo = read_catalogue(CATALOGUE)
        assert len(zoo.models) > 140
        for model in zoo.models.values():
            assert model.files
            assert model.licence
            for path, size, digest, at in model.files:
                assert check_file_path(path)
                assert size > 0
                assert len(bytes.fromhex(digest)) == 48
                assert at.startswith("/repositories/open_model_zoo/")

    @pytest.mark.parametrize(
        "name",
        [
            FACE, AGE, POSE, MOBILENET, "person-detection-retail-0013", "vehicle-detection-0202",
            "emotions-recognition-retail-0003", "landmarks-regression-retail-0009",
            "person-vehicle-bike-detection-2000", "pedestrian-and-vehicle-detector-adas-0001",
            "action-recognition-0001", "action-recognition-0001-decoder",
        ],
    )  # fmt: skip
    def test_a_known_model_resolves_to_digests_at_the_zoos_storage(self, name: str) -> None:
        manifest = resolve(Access(), name)
        assert manifest == resolve(Access(), name)
        for file in manifest.files:
            assert file.digest is not None
            assert file.digest.algorithm is DigestAlgorithm.SHA384
            assert file.url.startswith("https://storage.openvinotoolkit.org/repositories/open_model_zoo/")

    def test_a_fact_that_was_read_in_the_zoos_own_description(self) -> None:
        (file,) = (one for one in resolve(Access(), FACE).files if one.path == f"FP32/{FACE}.xml")
        assert (file.size, file.digest and file.digest.value) == (
            105340,
            "1933e7a49baafaf809c4d4c89d6380f018cccdd3be9f96360bc5de3f3008412fbb262236e06fddb3ecdbb5a6a990d010",
        )

    def test_there_is_a_label_for_each_class(self) -> None:
        labels = LABELS.read_text(encoding="utf-8").splitlines()
        assert len(labels) == 1000
        assert (labels[0], labels[999]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")

    def test_a_broken_catalogue_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "omz.json").write_text("{")
        with pytest.raises(HubUnavailable, match="catalogue"):
            resolve(Access(settings={"OMZ_CATALOGUE": str(tmp_path / "omz.json")}), FACE)


class TestResolve:
    def test_it_asks_nobody(self, zoo: FakeOmz, tmp_path: Path) -> None:
        manifest = resolve(access_to(zoo, tmp_path), FACE)
        assert len(zoo.requests) == 0
        assert {file.path for file in manifest.files} == zoo.models[FACE].keys()
        assert manifest.format is Format.OPENVINO
        assert manifest.licence == "Apache-2.0"
        assert manifest.facts == {}

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [
            ("FP32", {"FP32"}), ("fp16", {"FP16"}), ("Fp16-Int8", {"FP16-INT8"}), ("int8", {"FP16-INT8"}),
            (None, {"FP32", "FP16", "FP16-INT8"}),
        ],
    )  # fmt: skip
    def test_a_precision_is_chosen_in_any_case(
        self, zoo: FakeOmz, tmp_path: Path, asked: str | None, taken: set[str]
    ) -> None:
        manifest = resolve(access_to(zoo, tmp_path), FACE, precision=asked)
        assert {file.path.partition("/")[0] for file in manifest.files} == taken

    def test_what_belongs_to_all_precisions_comes_along(self, zoo: FakeOmz, tmp_path: Path) -> None:
        manifest = resolve(access_to(zoo, tmp_path), "labelled", precision="FP16")
        assert {file.path for file in manifest.files} == {"vocab.txt", "FP16/labelled.xml", "FP16/labelled.bin"}

    def test_a_precision_that_is_not_there_is_told_with_those_that_are(self, zoo: FakeOmz, tmp_path: Path) -> None:
        with pytest.raises(InvalidParameters, match=r"no precision 'int4'\. It has: FP16, FP16-INT8, FP32\."):
            resolve(access_to(zoo, tmp_path), FACE, precision="int4")

    @pytest.mark.parametrize("name", ["all", "face-detection-retail-004", "zzzz"])
    def test_what_is_not_there_is_not_found(self, zoo: FakeOmz, tmp_path: Path, name: str) -> None:
        with pytest.raises(SourceNotFound) as told:
            resolve(access_to(zoo, tmp_path), name)
        assert ("nearest" in str(told.value)) == (name == "face-detection-retail-004")
        if "nearest" in str(told.value):
            assert f"'{FACE}'" in str(told.value)

    def test_one_unknown_name_in_a_list_fails_it_before_anything_is_fetched(self, zoo: FakeOmz, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFound, match="'nothing'"):
            resolve(access_to(zoo, tmp_path), f"{FACE},nothing")
        assert len(zoo.requests) == 0

    def test_a_public_model_is_refused_with_the_reason(self, zoo: FakeOmz, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModel, match="public model"):
            resolve(access_to(zoo, tmp_path), "yolo-v3-tf")

    def test_there_is_one_revision(self, zoo: FakeOmz, tmp_path: Path) -> None:
        access = access_to(zoo, tmp_path)
        revision = resolve(access, FACE).revision
        assert resolve(access, FACE, revision=revision).revision == revision
        assert resolve(access, FACE, precision="FP16").revision != revision
        with pytest.raises(RevisionNotFound):
            resolve(access, FACE, revision="main")

    def test_what_is_ignored_is_told(self, zoo: FakeOmz, tmp_path: Path) -> None:
        manifest = resolve(access_to(zoo, tmp_path), FACE, post_processing={"labels": "mine"}, device="CPU")
        assert manifest.facts["warnings"]["ignored_fields"] == ["post_processing"]

    def test_a_job_of_a_checkpoint_alone_is_finished_by_a_converter(self, zoo: FakeOmz, tmp_path: Path) -> None:
        catalog = offer_of(zoo, tmp_path).catalog
        for name, kinds in (
            (FACE, ["fetch", "publish"]),
            (f"{FACE},{AGE}", ["fetch", "publish"]),
            (MOBILENET, ["fetch", "convert", "publish"]),
            (f"{FACE},{MOBILENET}", ["fetch", "convert", "publish"]),
        ):
            spec = plan(Wish(name=name, hub="omz", root="models"), catalog)
            assert [stage.kind for stage in stages(spec)] == kinds
        with pytest.raises(InvalidSpec):
            plan(Wish(name="../x", hub="omz", root="models"), catalog)


class TestFetch:
    def test_the_files_come_whole(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        paths = fetch(access, resolve(access, POSE), attempt)
        assert contents(attempt.workspace) == zoo.models[POSE]
        assert set(paths) == zoo.models[POSE].keys()

    def test_faces_get_their_model_proc(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        for _ in range(2):
            paths = fetch(access, resolve(access, FACE), attempt)
        assert f"{FACE}.json" in paths
        document = json.loads((attempt.workspace / f"{FACE}.json").read_bytes())
        assert document["json_schema_version"] == "2.2.0"
        assert document["output_postproc"] == [{"converter": "detection_output", "labels": ["background", "face"]}]

    def test_ages_and_genders_get_theirs(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        fetch(access, resolve(access, AGE), attempt)
        gender, age = json.loads((attempt.workspace / f"{AGE}.json").read_bytes())["output_postproc"]
        assert (gender["layer_name"], gender["labels"]) == ("prob", ["Female", "Male"])
        assert (age["layer_name"], age["converter"], age["text_scale"]) == ("age_conv3", "text", 100.0)

    def test_a_flipped_bit_is_refused(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        zoo.trouble(Fault(kind=FlipBit(100), match=Match(path=f"FP32/{FACE}.bin")))
        with pytest.raises(IntegrityMismatch):
            fetch(access, resolve(access, FACE), attempt)

    def test_a_lying_size_is_refused(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        manifest = resolve(access, FACE)
        path = f"{STORED_BELOW}/{FACE}/FP32/{FACE}.bin"
        zoo.files[path] = zoo.files[path] + b"more"
        with pytest.raises(StageError) as told:
            fetch(access, manifest, attempt)
        assert told.value.code in {"integrity_mismatch", "source_unsafe"}

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), SourcePrivateOrMissing),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (rate_limited(300), RateLimited),
            (Status(503, {"Retry-After": "300"}), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
        ],
    )
    def test_each_refusal_has_its_own_code(
        self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt, kind: Any, error: type[StageError]
    ) -> None:
        access = access_to(zoo, tmp_path)
        zoo.trouble(Fault(kind=kind))
        with pytest.raises(error):
            fetch(access, resolve(access, FACE), attempt)
        assert not list(attempt.workspace.rglob("*.json"))

    def test_a_page_in_place_of_a_file_is_refused(self, zoo: FakeOmz, tmp_path: Path, attempt: LocalAttempt) -> None:
        access = access_to(zoo, tmp_path)
        zoo.files.clear()
        zoo.soft_missing = True
        with pytest.raises(StageError) as told:
            fetch(access, resolve(access, FACE), attempt)
        assert told.value.code in {"integrity_mismatch", "source_unsafe"}

    def test_a_private_address_is_for_the_operator_to_name(self, zoo: FakeOmz, tmp_path: Path) -> None:
        named = access_to(zoo, tmp_path)
        brought = Access(settings=named.settings, given=frozenset({"OMZ_URL"}), network=NetworkRules())
        attempt = LocalAttempt(tmp_path / "brought", LIMITS)
        with pytest.raises(StageError) as told:
            fetch(brought, resolve(brought, FACE), attempt)
        assert told.value.code == "source_unsafe"

    def test_kill_9_costs_at_most_a_block_per_connection(self, tmp_path: Path) -> None:
        weights = hashlib.shake_128(b"weights").digest(24 * BLOCK)
        with FakeOmz(bytes_per_s=1_500_000) as zoo:
            zoo.add_model("large", {"FP32/large.xml": b"<net/>", "FP32/large.bin": weights})
            zoo.write_catalogue(tmp_path / "omz.json")
            for _ in range(2):
                before = zoo.requests.bytes_served()
                child = _a_child_that_fetches(zoo.endpoint, tmp_path)
                while child.is_alive() and zoo.requests.bytes_served() < before + 5 * BLOCK:
                    time.sleep(0.01)
                child.kill()
                child.join()
            attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
            access = access_to(zoo, tmp_path)
            fetch(access, resolve(access, "large"), attempt)
            served = zoo.requests.bytes_served()
        assert contents(attempt.workspace)["FP32/large.bin"] == weights
        assert attempt.reports[-1].bytes_resumed > 0
        assert 0 <= served - len(weights) <= 2 * LIMITS.connections * BLOCK + 64 * 1024


def _fetch_large(endpoint: str, tmp_path: Path) -> None:
    access = Access(settings={"OMZ_URL": endpoint, "OMZ_CATALOGUE": str(tmp_path / "omz.json")})
    fetch(access, resolve(access, "large"), LocalAttempt(tmp_path / "attempt", LIMITS, "killed"))


def _a_child_that_fetches(endpoint: str, tmp_path: Path) -> Any:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_fetch_large, args=(endpoint, tmp_path), daemon=True)
    child.start()
    return child


class TestTheStandIn:
    """The storage of the tests, as a client that is not ours sees it."""

    def test_files_can_be_read_in_parts_and_what_is_missing_is_a_page(self, zoo: FakeOmz) -> None:
        url = f"{zoo.endpoint}{STORED_BELOW}/{FACE}/FP32/{FACE}.bin"
        whole = httpx.get(url)
        assert whole.content == zoo.models[FACE][f"FP32/{FACE}.bin"]
        part = httpx.get(url, headers={"Range": "bytes=10-19", "If-Range": whole.headers["ETag"]})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert httpx.head(url).headers["Content-Length"] == str(len(whole.content))
        missing = httpx.get(f"{zoo.endpoint}/nothing")
        assert (missing.status_code, missing.content) == (404, MISSING_PAGE)


class TestJobs:
    """All stages of a job, one after the other."""

    def test_one_model_lies_as_the_contract_says(self, zoo: FakeOmz, tmp_path: Path) -> None:
        done = run_job(offer_of(zoo, tmp_path), tmp_path / "models", Wish(name=FACE, hub="omz", root="m"))
        assert done.folder == tmp_path / "models/m/omz" / FACE
        assert {*zoo.models[FACE], f"{FACE}.json"} == done.files - {".modelferry.json"}
        assert done.spec.shelf == f"omz/{FACE}"

    def test_a_list_gives_each_model_its_folder_and_leaves_others_alone(self, zoo: FakeOmz, tmp_path: Path) -> None:
        models = tmp_path / "models"
        standing = run_job(offer_of(zoo, tmp_path), models, Wish(name=POSE, hub="omz", root="m"))
        mine = models / "m/omz/mine/weights.bin"
        mine.parent.mkdir()
        mine.write_bytes(b"mine")
        done = run_job(offer_of(zoo, tmp_path), models, Wish(name=f"{FACE},{AGE}", hub="omz", root="m"))
        assert done.folder == models / "m/omz"
        assert {path.name for path in done.folder.iterdir()} == {FACE, AGE, POSE, "mine"}
        assert (done.folder / AGE / f"{AGE}.json").is_file()
        assert (done.folder / FACE / f"FP16-INT8/{FACE}.bin").is_file()
        assert standing.files
        assert mine.read_bytes() == b"mine"

    def test_a_failing_download_leaves_the_earlier_copy(self, zoo: FakeOmz, tmp_path: Path) -> None:
        models = tmp_path / "models"
        first = run_job(offer_of(zoo, tmp_path), models, Wish(name=POSE, hub="omz", root="m"))
        before = contents(first.folder)
        with pytest.raises(SourceNotFound):
            run_job(offer_of(zoo, tmp_path), models, Wish(name=f"{POSE},unknown", hub="omz", root="m"))
        assert contents(first.folder) == before

    def test_mobilenet_becomes_ir_that_answers_as_the_network(self, zoo: FakeOmz, tmp_path: Path) -> None:
        network = _a_mobilenet()
        zoo.add_model(MOBILENET, {CHECKPOINT: _saved(network, tmp_path)})
        zoo.write_catalogue(tmp_path / "omz.json")
        done = run_job(
            offer_of(zoo, tmp_path), tmp_path / "models", Wish(name=f"{MOBILENET},{POSE}", hub="omz", root="m")
        )
        folder = done.folder / MOBILENET
        assert contents(folder).keys() - {".modelferry.json"} == {
            "mobilenet-v2.json",
            *(f"{precision}/{MOBILENET}{suffix}" for precision in ("FP16", "FP32") for suffix in (".xml", ".bin")),
        }
        assert contents(done.folder / POSE).keys() - {".modelferry.json"} == zoo.models[POSE].keys()
        document = json.loads((folder / "mobilenet-v2.json").read_bytes())
        assert len(document["output_postproc"][0]["labels"]) == 1000
        assert document["input_preproc"][0]["params"] == {"resize": "aspect-ratio", "crop": "central"}
        _assert_answers_alike(folder / f"FP32/{MOBILENET}.xml", network)

    def test_one_precision_of_mobilenet(self, zoo: FakeOmz, tmp_path: Path) -> None:
        zoo.add_model(MOBILENET, {CHECKPOINT: _saved(_a_mobilenet(), tmp_path)})
        zoo.write_catalogue(tmp_path / "omz.json")
        wish = Wish(name=MOBILENET, hub="omz", root="m", config={"precision": "fp16"})
        done = run_job(offer_of(zoo, tmp_path), tmp_path / "models", wish)
        assert {path.partition("/")[0] for path in done.files} == {"FP16", "mobilenet-v2.json", ".modelferry.json"}

    def test_a_checkpoint_with_a_program_in_it_is_refused(self, zoo: FakeOmz, tmp_path: Path) -> None:
        torch.save({"features": _Program()}, tmp_path / "evil.pth")
        zoo.add_model(MOBILENET, {CHECKPOINT: (tmp_path / "evil.pth").read_bytes()})
        zoo.write_catalogue(tmp_path / "omz.json")
        with pytest.raises(Refused) as told:
            run_job(offer_of(zoo, tmp_path), tmp_path / "models", Wish(name=MOBILENET, hub="omz", root="m"))
        assert told.value.code in {"conversion_failed", "pickle_refused"}
        assert not (tmp_path / "models/m").exists()
        assert not (tmp_path / "ran").exists()

    def test_a_checkpoint_of_another_network_is_refused(self, zoo: FakeOmz, tmp_path: Path) -> None:
        torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
        zoo.add_model(MOBILENET, {CHECKPOINT: (tmp_path / "other.pth").read_bytes()})
        zoo.write_catalogue(tmp_path / "omz.json")
        with pytest.raises(Refused, match="not of the published network: it lacks"):
            run_job(offer_of(zoo, tmp_path), tmp_path / "models", Wish(name=MOBILENET, hub="omz", root="m"))


class _Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def _a_mobilenet() -> mobilenet.MobileNetV2:
    torch.manual_seed(7)
    network = mobilenet.MobileNetV2()
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            values.normal_(0, 0.1)
    return network.eval()


def _saved(network: mobilenet.MobileNetV2, tmp_path: Path) -> bytes:
    """As PyTorch's own checkpoint of 2019: in the form before the zip."""
    torch.save(network.state_dict(), tmp_path / CHECKPOINT, _use_new_zipfile_serialization=False)
    return (tmp_path / CHECKPOINT).read_bytes()


def _assert_answers_alike(xml: Path, network: mobilenet.MobileNetV2) -> None:
    """The IR takes blue, green, red from 0 to 255; the network red, green, blue, normalised as ImageNet is."""
    import openvino as ov

    picture = torch.rand((1, 3, 224, 224)) * 255
    mean, scale = torch.tensor(mobilenet.MEAN), torch.tensor(mobilenet.SCALE)
    normalised = (picture[:, [2, 1, 0]] - mean[:, None, None]) / scale[:, None, None]
    compiled = ov.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert (compiled.input().any_name, compiled.output().any_name) == ("data", "prob")
    with torch.no_grad():
        wanted = network(normalised).numpy()
    assert abs(compiled(picture.numpy())[0] - wanted).max() < 1e-3


def test_the_networks_weights_have_the_names_of_pytorchs_checkpoint() -> None:
    """As torchvision names them; 3,504,872 parameters is what it counts itself."""
    network = mobilenet.MobileNetV2()
    shapes = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    assert sum(one.numel() for one in network.parameters()) == 3_504_872
    assert shapes["features.0.0.weight"] == (32, 3, 3, 3)
    assert shapes["features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert shapes["features.2.conv.1.0.weight"] == (96, 1, 3, 3)
    assert shapes["features.17.conv.3.running_mean"] == (320,)
    assert shapes["features.18.1.num_batches_tracked"] == ()
    assert shapes["classifier.1.weight"] == (1000, 1280)
    assert len(shapes) == 314


def test_options_are_told_by_name() -> None:
    assert msgspec.to_builtins(OMZ.bind({"precision": "FP32", "device": "GPU"})) == {
        "precision": "FP32",
        "extra": {"device": "GPU"},
    }
    assert StageKind.CONVERT in set(StageKind)
