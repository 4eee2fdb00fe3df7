"""Each hub: what it brings, where that lies, and what is told of it."""

import base64
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from common.artefacts.manifest import check_published
from scripts.setup import profile_folder
from tests.acceptance.cases import case
from tests.acceptance.wire import Wire, files_below, refused
from tests.e2e.service import Service
from tests.fakes import ultralytics_models
from tests.fakes.files import FakeFiles
from tests.fakes.geti import Export, FakeGeti2, Shelf, Training
from tests.fakes.git_lfs import FakeForge
from tests.fakes.hls import FakeHls, keras_weights, write_keras
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.ollama_registry import FakeOllamaRegistry
from tests.fakes.omz import FakeOmz, intel_model
from tests.fakes.tls import TlsFront
from tests.fakes.ultralytics_assets import PICTURES, FakeUltralyticsAssets
from worker.converters.omz import mobilenet

ROOT = Path(__file__).parents[2]
PROFILE = profile_folder("ultralytics")
CONTAINER, HOST = "/opt/models", "/srv/models"
TOKEN = "Vk3-plain-looking-credential-88a1"
IN_BASE64 = base64.b64encode(TOKEN.encode()).decode()
WEIGHTS = b"GGUF" + bytes(range(256)) * 400
UDF = {"model/udf.py": b"def run():\n    pass\n", "model/weights.onnx": b"\1" * 5000, "README.md": b"# A model\n"}
YOLO, MOBILENET, CHECKPOINT = "yolov8n", "mobilenet-v2-pytorch", "mobilenet_v2-b0353104.pth"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("hubs")
    with ExitStack() as running:
        made = SimpleNamespace(
            hub=running.enter_context(FakeHuggingFace()),
            registry=running.enter_context(FakeOllamaRegistry()),
            forge=running.enter_context(FakeForge(zoo())),
            files=running.enter_context(FakeFiles({"/zoo/wind.tar": tar_of(UDF)})),
            geti=running.enter_context(FakeGeti2()),
            hls=running.enter_context(FakeHls()),
            omz=running.enter_context(FakeOmz()),
            assets=running.enter_context(FakeUltralyticsAssets()),
        )
        fill(made, folder)
        made.front = TlsFront(folder, made.files.port)
        running.callback(made.front.close)
        made.service = running.enter_context(Service(folder, **settings(made, folder)))
        made.service.start("api-mounted", MODELS_DIR=CONTAINER, MODEL_PATH=HOST)
        made.service.await_health("api-mounted")
        yield made


@pytest.fixture(scope="module")
def service(world: SimpleNamespace) -> Service:
    found: Service = world.service
    return found


def settings(made: SimpleNamespace, folder: Path) -> dict[str, str]:
    """Where the service finds every hub. Hosts of a private network that a hub leads to are named, as is usual."""
    own = {"MODELFERRY_PROFILES": f"ultralytics={PROFILE}"} if PROFILE.is_dir() else {}
    front = made.front.endpoint.removeprefix("https://")
    private = [made.forge.storage_url.removeprefix("http://"), front]
    return {
        "EXTERNAL_SOURCES_URL_ALLOWLIST": f"{front}/zoo/",
        "MODELFERRY_CA_BUNDLES": f"remote-url={made.front.certificate}",
        **own,
        **made.hls.settings(),
        "ENABLED_PLUGINS": "all,ultralytics",
        "HF_ENDPOINT": made.hub.endpoint,
        "OLLAMA_REGISTRY": made.registry.endpoint,
        "PIPELINE_ZOO_URL": made.forge.url,
        "GETI_HOST": made.geti.host,
        "GETI_TOKEN": made.geti.token,
        "OMZ_URL": made.omz.endpoint,
        "OMZ_CATALOGUE": str(made.omz.write_catalogue(folder / "omz.json")),
        "ULTRALYTICS_ASSETS_URL": made.assets.assets_url,
        "MODELFERRY_PRIVATE_HOSTS": ",".join(private),
        "MODELFERRY_LOG_LEVEL": "debug",
    }


def fill(made: SimpleNamespace, folder: Path) -> None:
    made.hub.tokens = {TOKEN: {"org/gated"}}
    made.hub.add_repo("org/name", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
    made.hub.commit("org/name", {"notes.txt": b"second"}, branch="r")
    made.hub.add_repo("org/gated", {"config.json": b"{}", "model.safetensors": b"g" * 1000}, gated="manual")
    made.registry.add_model("llama3.2", [("model", WEIGHTS), ("template", b"{{ .Prompt }}")], tag="3b")
    made.forge.quota = 100_000
    exports = [Export(precision="FP32"), Export(precision="FP16"), Export(precision="INT8")]
    exports += [Export(precision="FP16", fields={"line": "Line 4", "area": "Hall/North"})]
    made.geti.add(Shelf(name="Project").add(Training(name="YOLOX Small", exports=exports)))
    made.hls.add_rppg(write_keras(folder / "rppg.hdf5", keras_weights()).read_bytes())
    for name in ("face-detection-retail-0004", "human-pose-estimation-0001"):
        made.omz.add_model(name, intel_model(name))
    made.omz.add_model(MOBILENET, {CHECKPOINT: a_checkpoint(folder)})


def zoo() -> dict[str, bytes]:
    """A repository with two models."""
    files = {"README.md": b"# Zoo\n", "LICENSE": b"MIT License\n"}
    for name in ("dbnet", "emotions"):
        files |= {
            f"storage/{name}/FP16/{name}.xml": f"<net name='{name}'/>".encode(),
            f"storage/{name}/FP16/{name}.bin": name.encode() * 500,
            f"storage/{name}/{name}.json": b"{}",
        }
    return files


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def a_checkpoint(folder: Path) -> bytes:
    torch.manual_seed(7)
    torch.save(mobilenet.MobileNetV2().state_dict(), folder / CHECKPOINT, _use_new_zipfile_serialization=False)
    return (folder / CHECKPOINT).read_bytes()


# Hugging Face


@case(45)
def test_a_revision_of_a_repository_lies_below_its_hub(wire: Wire) -> None:
    place = f"Some/{wire.form}"
    job = wire.completed({"name": "org/name", "hub": "huggingface", "revision": "r"}, place)
    folder = wire.below(f"{place}/huggingface/org_name")
    assert (folder / "notes.txt").read_bytes() == b"second"
    assert check_published(folder, rehash=True) == []
    seen = Wire(wire.service, wire.form, api="api-mounted").job(job["id"])
    assert seen["result"]["download_path"] == f"{HOST}/{place}/huggingface"
    assert seen["output_dir"] == f"{CONTAINER}/{place}"
    assert seen["result"]["source"] == "huggingface"


@case(46)
def test_a_gated_repository_needs_a_token_that_is_then_found_nowhere(wire: Wire) -> None:
    gated = {"name": "org/gated", "hub": "huggingface"}
    job = wire.failed(gated, f"gated/{wire.form}")
    assert "gated" in job["error"]
    assert "HF_TOKEN" in job["error"] + job["hint"]
    opened = wire.completed({**gated, "override_credentials": {"HF_TOKEN": IN_BASE64}}, f"gated/{wire.form}")
    assert check_published(Path(opened["path"]), rehash=True) == []
    shown = wire.get("/jobs").text + wire.get("/models/results").text
    kept = b"".join(path.read_bytes() for path in wire.service.folder.rglob("*") if path.is_file())
    for token in (TOKEN, IN_BASE64):
        assert token not in shown
        assert token.encode() not in kept, "neither in the log nor in a row or a file"


# Ollama


@case(47)
def test_a_tag_of_an_ollama_model_has_a_folder_that_ollama_reads(wire: Wire) -> None:
    job = wire.completed({"name": "llama3.2", "hub": "ollama", "revision": "3b"}, wire.form)
    assert job["result"]["model_name"] == "llama3.2:3b"
    folder = wire.below(f"{wire.form}/ollama/llama3.2/3b")
    assert "manifests/registry.ollama.ai/library/llama3.2/3b" in files_below(folder)
    assert any(path.read_bytes() == WEIGHTS for path in (folder / "blobs").iterdir())


# Ultralytics


@case(48)
@pytest.mark.parametrize("name", ["yolov8n,yolov8s", "all"])
def test_int8_is_for_one_model_at_a_time(wire: Wire, name: str) -> None:
    if not PROFILE.is_dir():
        pytest.skip("without its environment the hub refuses whatever is asked")
    job = wire.failed({"name": name, "hub": "ultralytics", "config": {"quantize": "coco128"}})
    assert job["error"].startswith(f"INT8 requires a single model. Received '{name}' with quantize='coco128'.")


@case(48)
@pytest.mark.skipif(PROFILE.is_dir(), reason="the environment that exports is installed")
def test_without_its_environment_the_hub_says_so(wire: Wire) -> None:
    job = wire.failed({"name": YOLO, "hub": "ultralytics"})
    assert job["error_code"] == "plugin_not_installed"


@pytest.fixture(scope="module")
def yolo(world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A network of random weights among the releases, and archives of pictures; one of these holds none."""
    if not PROFILE.is_dir():
        pytest.skip("profile 'ultralytics' is not installed: scripts/setup.py --profile ultralytics")
    folder = tmp_path_factory.mktemp("yolo")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROFILE), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", ultralytics_models.__file__, str(folder), YOLO]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    world.assets.add({f"{YOLO}.pt": (folder / f"{YOLO}.pt").read_bytes()})
    world.assets.add({"coco128.zip": pictures("coco128", 4), "coco8.zip": pictures("coco8", 0)}, tag=PICTURES)


def pictures(name: str, count: int) -> bytes:
    chance = random.Random(3)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}/README.md", "about")
        for number in range(count):
            picture = io.BytesIO()
            Image.frombytes("RGB", (128, 96), chance.randbytes(128 * 96 * 3)).save(picture, "JPEG")
            archive.writestr(f"{name}/images/train2017/{number:012d}.jpg", picture.getvalue())
    return packed.getvalue()


@case(48)
@pytest.mark.usefixtures("yolo")
def test_a_detector_is_exported_and_calibrated(wire: Wire) -> None:
    place = wire.below(f"{wire.form}/ultralytics/public/{YOLO}")
    job = wire.completed({"name": YOLO, "hub": "ultralytics"}, wire.form)
    assert {f"FP32/{YOLO}.xml", f"FP32/{YOLO}.bin", f"FP16/{YOLO}.xml"} <= files_below(place)
    assert "int8_requested" not in job["result"] or job["result"]["int8_requested"] is False
    job = wire.completed({"name": YOLO, "hub": "ultralytics", "config": {"quantize": "coco128"}}, wire.form)
    assert {f"FP32/{YOLO}.xml", f"INT8/{YOLO}.xml", f"INT8/{YOLO}.bin"} <= files_below(place)
    assert job["result"]["int8_requested"] is True


@case(48)
@pytest.mark.usefixtures("yolo")
def test_what_cannot_be_calibrated_fails_and_leaves_nothing(service: Service) -> None:
    wire = Wire(service, "prefixed")
    wire.failed({"name": YOLO, "hub": "ultralytics", "config": {"quantize": "coco8"}}, "uncalibrated")
    assert not wire.below(f"uncalibrated/ultralytics/public/{YOLO}").exists()


# Pipeline Zoo


@case(49)
@pytest.mark.parametrize(
    ("name", "models"),
    [("dbnet", {"dbnet"}), ("dbnet,emotions", {"dbnet", "emotions"}), ("all", {"dbnet", "emotions"})],
)
def test_one_some_or_all_models_of_the_pipeline_zoo(wire: Wire, name: str, models: set[str]) -> None:
    place = f"{wire.form}/{len(name)}"
    job = wire.completed({"name": name, "hub": "pipeline-zoo-models"}, place)
    hub = wire.below(f"{place}/pipeline-zoo-models")
    assert {path.name for path in hub.iterdir()} == models
    for model in models:
        assert files_below(hub / model) >= {f"FP16/{model}.xml", f"FP16/{model}.bin", f"{model}.json"}
        assert check_published(hub / model, rehash=True) == []
    assert set(job["result"].get("models", models)) == models


@case(49)
def test_a_model_that_the_zoo_has_not_is_named(wire: Wire) -> None:
    assert "nowhere" in wire.failed({"name": "nowhere", "hub": "pipeline-zoo-models"})["error"]


@case(49)
@pytest.mark.parametrize("name", ["..", "../dbnet", ".hidden"])
def test_a_name_that_climbs_is_no_name(wire: Wire, name: str) -> None:
    refused(wire.download({"name": name, "hub": "pipeline-zoo-models"}), "Invalid model name")


@case("49b")
@pytest.mark.parametrize(("hub", "good"), [("pipeline-zoo-models", "dbnet"), ("omz", "face-detection-retail-0004")])
def test_a_list_that_fails_leaves_what_was_there(wire: Wire, hub: str, good: str) -> None:
    place = f"kept/{wire.form}"
    wire.completed({"name": good, "hub": hub}, place)
    folder = wire.below(f"{place}/{hub}/{good}")
    before = files_below(folder)
    job = wire.failed({"name": f"{good},unknown", "hub": hub}, place)
    assert "unknown" in job["error"]
    assert files_below(folder) == before
    assert check_published(folder, rehash=True) == []


# Open Model Zoo


@case(50)
def test_a_classifier_of_the_model_zoo_comes_with_its_labels(wire: Wire) -> None:
    wire.completed({"name": MOBILENET, "hub": "omz"}, wire.form)
    folder = wire.below(f"{wire.form}/omz/{MOBILENET}")
    assert {f"FP32/{MOBILENET}.xml", f"FP32/{MOBILENET}.bin", f"FP16/{MOBILENET}.xml"} <= files_below(folder)
    labels = json.loads((folder / "mobilenet-v2.json").read_text())["output_postproc"][0]["labels"]
    assert len(labels) == 1000


@case(50)
def test_all_of_the_model_zoo_cannot_be_asked_for(wire: Wire) -> None:
    assert "all" in wire.failed({"name": "all", "hub": "omz"})["error"]


# Addresses


@pytest.fixture
def archive(world: SimpleNamespace) -> str:
    """The address of an archive, with a place for its name."""
    return f"{world.front.endpoint}/zoo/{{name}}.tar"


@case(51)
def test_an_archive_of_an_allowed_address_is_unpacked(wire: Wire, archive: str) -> None:
    job = wire.completed({"name": "wind", "hub": "remote-url", "config": {"url": archive}}, wire.form)
    folder = wire.below(f"{wire.form}/remote-url/wind")
    assert {name: (folder / name).read_bytes() for name in UDF} == UDF
    assert job["config"]["url"] == archive


@case(51)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("https://", "http://"), "must use https"),
        (("localhost", "127.0.0.1"), "not on the allowlist"),
        (("/zoo/", "/other/"), "not on the allowlist"),
        (("https://", "https://user:pass@"), "must not contain embedded credentials"),
    ],
)
def test_other_addresses_are_refused(wire: Wire, archive: str, change: tuple[str, str], words: str) -> None:
    job = wire.failed({"name": "wind", "hub": "remote-url", "config": {"url": archive.replace(*change)}}, "elsewhere")
    assert words in job["error"]
    assert not wire.below("elsewhere/remote-url").exists()


@case(51)
def test_an_address_must_be_given(wire: Wire) -> None:
    assert wire.failed({"name": "wind", "hub": "remote-url"})["error"].startswith("hub 'remote-url' requires 'url'")


# Geti


@case(53)
def test_a_geti_model_is_found_in_any_case_and_fp16_unless_asked_otherwise(wire: Wire) -> None:
    job = wire.completed({"name": "yolox SMALL", "hub": "geti"}, wire.form)
    folder = wire.below(f"{wire.form}/geti/yolox small/fp16")
    assert Path(job["path"]) == folder
    assert {"model.xml", "model.bin"} <= files_below(folder)
    assert (job["result"]["export_type"], job["result"]["model_format"]) == ("optimized", "OpenVINO")
    job = wire.completed({"name": "YOLOX Small", "hub": "geti", "config": {"precision": "int8"}}, wire.form)
    assert Path(job["path"]) == wire.below(f"{wire.form}/geti/yolox small/int8")


@case(53)
def test_filters_become_folders_in_the_order_of_their_names(wire: Wire) -> None:
    config = {"line": "line 4", "area": "hall/north", "zebra": True}
    job = wire.completed({"name": "yolox small", "hub": "geti", "config": config}, f"filtered/{wire.form}")
    # A key that no candidate has is told, and is a part of the path all the same.
    assert Path(job["path"]) == wire.below(f"filtered/{wire.form}/geti/yolox small/hall_north/line_4/zebra/fp16")
    assert job["result"]["warnings"]["ignored_fields"] == ["zebra"]


# Health and life sciences


@case(54)
def test_a_wrong_name_is_told_with_the_right_ones(wire: Wire) -> None:
    job = wire.failed({"name": "zz", "hub": "hls", "type": "rppg"})
    assert job["error"] == "Invalid model name 'zz' for type 'rppg'. Expected one of: ['mtts_can']."


@case(54)
def test_a_pulse_reader_lies_where_its_application_looks(wire: Wire) -> None:
    root = "hls_assets" if wire.form == "bare" else "hls_assets/prefixed"
    job = wire.completed({"name": "mtts_can", "hub": "hls", "type": "rppg"}, root)
    folder = wire.below(f"{root}/rppg")
    assert files_below(folder) - {".modelferry.json"} == {"mtts_can.xml", "mtts_can.bin", "mtts_can.hdf5"}
    assert job["result"]["type"] == "rppg"
