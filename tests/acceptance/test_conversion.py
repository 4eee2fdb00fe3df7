"""Conversions: what comes out, where, what the model server is told, and what never counts as done."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from common.artefacts.manifest import check_published
from tests.acceptance.cases import case
from tests.acceptance.wire import Wire, conversion, files_below, graph_says, refused, served
from tests.conversions import in_child
from tests.e2e.conftest import PLUGINS
from tests.e2e.service import ENDED, Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.tiny_models import tiny_llava, tiny_whisper

LLAMA = "Tiny-Org/Llama-Tiny"
BERT = "tiny/bert"
LLAVA = "tiny/llava"
ANALYZER: dict[str, Any] = {
    "name": "openai/whisper-base", "hub": "openvino", "type": "speech2text", "target": "audio-analyzer",
}  # fmt: skip
CONTAINER, HOST = "/opt/models", "/srv/models"
NOT_OFFERED = {".modelferry.json", "graph.pbtxt", "README.md"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("conversion")
    with FakeHuggingFace() as hub:
        hub.add_directory(LLAMA, tiny.llama)
        hub.add_directory(BERT, tiny.bert)
        hub.add_directory(ANALYZER["name"], in_child(tiny_whisper, folder / "whisper"))
        hub.add_directory(LLAVA, in_child(tiny_llava, folder / "llava"))
        with Service(folder, HF_ENDPOINT=hub.endpoint, PYTHONPATH=str(PLUGINS), ENABLED_PLUGINS="all") as service:
            # A web process for a converter that fails on demand, and one that sees the volume as a container does.
            service.start("api-noisy", ENABLED_PLUGINS="huggingface,noisy")
            service.start("api-mounted", MODELS_DIR=CONTAINER, MODEL_PATH=HOST)
            for name in ("api-noisy", "api-mounted"):
                service.await_health(name)
            yield SimpleNamespace(hub=hub, service=service)


@pytest.fixture(scope="module")
def service(world: SimpleNamespace) -> Service:
    found: Service = world.service
    return found


@pytest.fixture
def noisy(wire: Wire) -> Wire:
    """The same service, where `is_ovms` means a converter that does what `config.mood` says."""
    return Wire(wire.service, wire.form, api="api-noisy")


def noise(mood: str, **more: object) -> dict[str, Any]:
    return {**conversion(LLAMA, "llm", mood=mood, **more), "hub": "huggingface"}


def weights_are(folder: Path, kinds: str) -> bool:
    """Whether the IR has constants of one of these number formats."""
    return re.search(rf'element_type="(?:{kinds})"', (folder / "openvino_model.xml").read_text()) is not None


# Precision, device and place


@case(55)
def test_an_llm_for_a_gpu_is_made_and_served_as_asked(wire: Wire) -> None:
    config = {"precision": "int4", "device": "GPU", "cache_size": 4}
    place = wire.below(f"{wire.form}/openvino_models/gpu/int4")
    job = wire.completed(conversion(LLAMA, "llm", **config), wire.form)
    folder = place / LLAMA
    assert Path(job["path"]) == folder
    assert check_published(folder, rehash=True) == []
    assert weights_are(folder, "u4|i4"), "--weight-format int4"
    assert graph_says(folder, r"^\s*cache_size:\s*4\b"), "--cache_size 4"
    assert graph_says(folder, r'device:\s*"GPU"'), "--target_device GPU"
    assert graph_says(folder, "HttpLLMCalculator"), "text_generation"
    assert served(place) == {LLAMA: LLAMA}
    assert json.loads((folder / ".modelferry.json").read_text())["name"] == LLAMA, "--source_model"
    assert job["result"]["config"] == {"precision": "int4", "device": "GPU", "cache": 4}


@case(56)
def test_what_is_not_said_is_int8_on_a_cpu(wire: Wire) -> None:
    job = wire.completed({"name": LLAMA, "hub": "openvino", "type": "llm", "is_ovms": True}, wire.form)
    place = wire.below(f"{wire.form}/openvino_models/cpu/int8")
    assert job["result"]["config"] == {"precision": "int8", "device": "CPU"}
    assert Path(job["result"]["conversion_path"]) == Path(job["output_dir"]) == place
    assert weights_are(place / LLAMA, "u8|i8")
    assert place.is_dir()


@case(56)
def test_the_path_of_a_conversion_is_that_of_the_host(wire: Wire) -> None:
    (job_id,) = wire.submit(conversion(LLAMA, "llm"), download_path=wire.form)
    wire.wait(job_id)
    job = Wire(wire.service, wire.form, api="api-mounted").job(job_id)
    below = f"{wire.form}/openvino_models/cpu/int8"
    assert job["result"]["conversion_path"] == f"{HOST}/{below}"
    assert job["output_dir"] == f"{CONTAINER}/{below}"


@case(57)
def test_an_npu_has_int4_whatever_was_asked_for(wire: Wire) -> None:
    job = wire.completed(conversion(LLAMA, "llm", precision="int8", device="NPU"), wire.form)
    folder = wire.below(f"{wire.form}/openvino_models/npu/int4/{LLAMA}")
    assert Path(job["path"]) == folder
    assert job["result"]["config"]["precision"] == "int4"
    assert weights_are(folder, "u4|i4")


@case(57)
def test_an_npu_takes_no_embeddings(wire: Wire) -> None:
    answer = wire.download(conversion(BERT, "embeddings", device="NPU"))
    refused(answer, "NPU target device is only supported for 'llm' and 'vlm' model types.")


@case(57)
def test_a_choice_of_devices_with_an_npu_keeps_int8(wire: Wire) -> None:
    job = wire.completed(conversion(LLAMA, "llm", precision="int8", device="HETERO:NPU,CPU"), wire.form)
    folder = wire.below(f"{wire.form}/openvino_models/hetero_npu_cpu/int8/{LLAMA}")
    assert Path(job["path"]) == folder
    assert job["result"]["config"] == {"precision": "int8", "device": "HETERO:NPU,CPU"}
    assert weights_are(folder, "u8|i8")


@case(21)
def test_a_model_of_another_hub_is_fetched_and_converted_in_one_job(wire: Wire) -> None:
    job = wire.completed({**conversion(BERT, "embeddings"), "hub": "huggingface"}, f"other/{wire.form}")
    assert (job["operation_type"], job["hub"]) == ("convert", "huggingface")
    assert Path(job["path"]) == wire.below(f"other/{wire.form}/openvino_models/cpu/int8/{BERT}")
    assert check_published(Path(job["path"]), rehash=True) == []


# What the model server is told


@case(58)
def test_a_vlm_has_its_pipeline_unless_the_client_names_another(wire: Wire) -> None:
    folder = wire.below(f"{wire.form}/openvino_models/cpu/int8/{LLAVA}")
    wire.completed(conversion(LLAVA, "vlm"), wire.form)
    assert graph_says(folder, r"pipeline_type:\s*VLM\b")
    wire.completed(conversion(LLAVA, "vlm", pipeline_type="VLM_CB"), wire.form)
    assert graph_says(folder, r"pipeline_type:\s*VLM_CB\b")


@case(59)
def test_options_of_embeddings_mean_what_they_say(wire: Wire) -> None:
    folder = wire.below(f"{wire.form}/openvino_models/cpu/int8/{BERT}")
    wire.completed(conversion(BERT, "embeddings", cache_size="10", normalize=False, pooling="MEAN"), wire.form)
    assert not graph_says(folder, "cache_size")
    assert graph_says(folder, r"normalize_embeddings:\s*false")
    assert graph_says(folder, r"pooling:\s*MEAN")
    wire.completed(conversion(BERT, "embeddings", normalize=True), wire.form)
    assert graph_says(folder, r"normalize_embeddings:\s*true")


# Voice targets


@case(74)
def test_a_target_has_the_folder_that_its_application_reads(wire: Wire) -> None:
    place = f"voice/{wire.form}"
    job = wire.completed(ANALYZER, place)
    folder = wire.below(f"{place}/audio-analyzer/openvino/whisper-base")
    assert job["operation_type"] == "convert", "although is_ovms was not said"
    assert (job["path"], job["output_dir"]) == (str(folder), str(folder))
    assert {"openvino_encoder_model.xml", "openvino_decoder_model.xml"} <= files_below(folder)
    assert check_published(folder, rehash=True) == []


@case(74)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"name": "openai/whisper-tiny"},
            "Target 'audio-analyzer' supports only name='openai/whisper-base', hub='openvino', type='speech2text'.",
        ),
        ({"config": {"precision": "fp16"}}, "Target 'audio-analyzer' supports only precision: int8."),
        ({"config": {"device": "GPU"}}, "Target 'audio-analyzer' supports only device='CPU'."),
        (
            {
                "name": "microsoft/speecht5_tts", "type": "text2speech", "target": "text-to-speech",
                "config": {"precision": "int4"},
            },
            "Target 'text-to-speech' supports only precision: fp16, int8.",
        ),
    ],
)  # fmt: skip
def test_what_a_target_is_not_for_is_refused(wire: Wire, change: dict[str, Any], told: str) -> None:
    assert refused(wire.download({**ANALYZER, **change})) == told


# Models that are ready-made


@pytest.fixture(scope="module")
def shelf(world: SimpleNamespace, tiny: SimpleNamespace) -> FakeHuggingFace:
    """The hub with ready-made models: the exact one, one with a longer name, and each for NPUs and for others."""
    hub: FakeHuggingFace = world.hub
    wire = Wire(world.service, "bare")
    for name in ("intel/ready", "intel/only-cw", "intel/only-plain"):
        hub.add_directory(name, tiny.llama)
    made = {
        "int8": wire.completed(conversion(LLAMA, "llm"), "for-the-hub")["path"],
        "int4": wire.completed(conversion(LLAMA, "llm", device="NPU"), "for-the-hub")["path"],
    }
    for name, made_of in (
        ("ready-instruct-int8-ov", "intel/ready-instruct"),
        ("ready-int8-ov", "intel/ready"),
        ("ready-int8-cw-ov", "intel/ready"),
        ("ready-int4-ov", "intel/ready"),
        ("ready-int4-cw-ov", "intel/ready"),
        ("only-cw-int8-cw-ov", "intel/only-cw"),
        ("only-plain-int4-ov", "intel/only-plain"),
    ):
        precision = "int8" if "-int8-" in name else "int4"
        offered(hub, name, made[precision], made_of, bits=int(precision[-1]))
    return hub


def offered(hub: FakeHuggingFace, name: str, folder: str, made_of: str, *, bits: int) -> None:
    """A repository as Intel's organisation has them, which tell of what they are made, and with how many bits."""
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in NOT_OFFERED
    }
    told = {"dtype": f"int{bits}", "quantization_config": {"bits": bits, "quant_method": "default"}}
    files["openvino_config.json"] = json.dumps(told).encode()
    files["README.md"] = f"---\nlicense: apache-2.0\nbase_model:\n- {made_of}\n---\n".encode()
    hub.add_repo(f"OpenVINO/{name}", files)


@case(62)
@pytest.mark.parametrize(
    ("device", "precision", "repository"), [("CPU", "int8", "ready-int8-ov"), ("NPU", "int4", "ready-int4-cw-ov")]
)
@pytest.mark.usefixtures("shelf")
def test_the_very_model_is_pulled(wire: Wire, device: str, precision: str, repository: str) -> None:
    place = wire.below(f"pulled/{wire.form}/openvino_models/{device.lower()}/{precision}")
    job = wire.completed(conversion("intel/ready", "llm", device=device), f"pulled/{wire.form}")
    assert (job["result"]["mode"], job["result"]["pulled_from"]) == ("pull", f"OpenVINO/{repository}")
    assert Path(job["path"]) == place / "intel/ready"
    assert served(place) == {"intel/ready": "intel/ready"}
    assert graph_says(place / "intel/ready", rf'device:\s*"{device}"')
    assert check_published(place / "intel/ready", rehash=True) == []


@case(62)
@pytest.mark.parametrize(("name", "device"), [("intel/only-cw", "CPU"), ("intel/only-plain", "NPU")])
@pytest.mark.usefixtures("shelf")
def test_what_was_made_for_other_devices_is_not_pulled(wire: Wire, name: str, device: str) -> None:
    job = wire.completed(conversion(name, "llm", device=device), f"converted/{wire.form}")
    assert job["result"]["mode"] == "convert"
    assert "pulled_from" not in job["result"]


# What never counts as done


@case(64)
def test_a_conversion_that_leaves_no_model_has_failed(noisy: Wire) -> None:
    place = f"quiet/{noisy.form}"
    job = noisy.failed(noise("quiet"), place)
    assert not noisy.below(f"{place}/openvino_models/cpu/int8/{LLAMA}").exists()
    assert job["error_code"] == "output_incomplete"
    assert noisy.completed(noise("good"), place)["path"], "and it is done anew when it is asked for again"


@case(64)
def test_a_conversion_that_was_interrupted_is_done_anew(wire: Wire) -> None:
    # Options that differ for each form: what is known already would not be done at all.
    size = 64 if wire.form == "bare" else 32
    wish = conversion(LLAMA, "llm", precision="int4", extra_quantization_params=f"--group-size {size} --ratio 0.8")
    place = f"interrupted/{wire.form}"
    folder = wire.below(f"{place}/openvino_models/cpu/int4/{LLAMA}")
    (killed,) = wire.submit(wish, download_path=place)
    kill_a_conversion(wire, killed)
    assert wire.post(f"/jobs/{killed}/cancel").status_code == 200
    assert not folder.exists()
    again = wire.completed(wish, place)
    assert again["id"] != killed
    assert again["result"]["reused"] is False
    assert check_published(folder, rehash=True) == []


def kill_a_conversion(wire: Wire, job_id: str) -> None:
    """kill -9 of the process that converts, once it does."""
    (server,) = psutil.Process(wire.service.pid("convert")).children()

    def at_work() -> bool:
        job = wire.job(job_id)
        assert job["status"] not in ENDED, job
        return job["progress"]["phase"] == "converting" and bool(server.children())

    wire.service.wait_until(at_work, 60, "converting")
    for child in server.children():
        child.kill()


@case(66)
def test_a_tool_that_floods_its_output_ends_and_is_quoted(noisy: Wire) -> None:
    job = noisy.failed(noise("loud"))
    assert "the line before the last" in job["error"]
    assert "the last line" in job["error"]
