"""Voice targets: what they refuse, where they publish, and that the application can read what is there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from api.compat.targets import VoiceTarget, aimed
from common.artefacts.manifest import check_published
from common.catalog.registry import Catalog
from common.planning import Wish, plan, stages
from common.vocabulary import ModelType, Pool, StageKind
from tests.conversions import in_child
from tests.e2e.service import Service
from tests.fakes import tiny_models
from tests.fakes.huggingface import FakeHuggingFace
from tests.web import Web, web

ANALYZER: dict[str, Any] = {
    "name": "openai/whisper-base",
    "hub": "openvino",
    "type": "speech2text",
    "target": "audio-analyzer",
}
SPEAKER: dict[str, Any] = {
    "name": "microsoft/speecht5_tts",
    "hub": "openvino",
    "type": "text2speech",
    "target": "text-to-speech",
}
ONLY_WHISPER = "Target 'audio-analyzer' supports only name='openai/whisper-base', hub='openvino', type='speech2text'."
ONLY_SPEECHT5 = (
    "Target 'text-to-speech' supports only name='microsoft/speecht5_tts', hub='openvino', type='text2speech'."
)
ANALYZER_FOLDER = "audio-analyzer/openvino/whisper-base"
SPEAKER_FOLDER = "text-to-speech/openvino/microsoft_speecht5_tts__"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as running:
        yield running


@pytest.mark.parametrize("more", [{}, {"is_ovms": True}, {"is_ovms": False, "config": {"device": "cpu"}}])
def test_case_74_a_target_is_a_conversion_into_a_folder_of_its_own(service: Web, more: dict[str, Any]) -> None:
    (job_id,) = service.submitted({**ANALYZER, **more}, download_path="voice")
    job = service.job(job_id)
    assert job["operation_type"] == "convert"
    assert job["output_dir"] == str(service.models_dir / "voice" / ANALYZER_FOLDER)
    assert (job["model_name"], job["hub"], job["plugin_name"]) == ("openai/whisper-base", "openvino", "openvino")


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({}, "int8"),
        ({"precision": "int8"}, "int8"),
        ({"precision": "fp16", "device": "CPU"}, "fp16"),
        ({"weight-format": "fp16"}, "fp16"),
        ({"openvino_config": {"precision": "fp16", "device": "CPU"}}, "fp16"),
        ({"target_device": "CPU"}, "int8"),
    ],
)
def test_case_74_the_folder_of_a_speaker_names_its_precision(
    service: Web, config: dict[str, Any], precision: str
) -> None:
    (job_id,) = service.submitted({**SPEAKER, "config": config})
    assert service.job(job_id)["output_dir"] == str(service.models_dir / "x" / f"{SPEAKER_FOLDER}{precision}")


@pytest.mark.parametrize(
    ("model", "detail"),
    [
        ({**ANALYZER, "name": "openai/whisper-tiny"}, ONLY_WHISPER),
        ({**ANALYZER, "name": "OpenAI/whisper-base"}, ONLY_WHISPER),
        ({**ANALYZER, "hub": "huggingface"}, ONLY_WHISPER),
        ({**ANALYZER, "type": "llm"}, ONLY_WHISPER),
        ({**ANALYZER, "type": None}, ONLY_WHISPER),
        ({**SPEAKER, "name": "microsoft/speecht5"}, ONLY_SPEECHT5),
        ({**SPEAKER, "target": "audio-analyzer"}, ONLY_WHISPER),
        ({**ANALYZER, "target": "text-to-speech"}, ONLY_SPEECHT5),
        ({**ANALYZER, "config": {"precision": "fp16"}}, "Target 'audio-analyzer' supports only precision: int8."),
        ({**ANALYZER, "config": {"weight-format": "nf4"}}, "Target 'audio-analyzer' supports only precision: int8."),
        ({**SPEAKER, "config": {"precision": "int4"}}, "Target 'text-to-speech' supports only precision: fp16, int8."),
        (
            {**SPEAKER, "config": {"openvino_config": {"precision": "fp32"}}},
            "Target 'text-to-speech' supports only precision: fp16, int8.",
        ),
        (
            {**SPEAKER, "config": {"quant_mode": "f8e4m3"}},
            "Target 'text-to-speech' supports only precision: fp16, int8.",
        ),
        ({**ANALYZER, "config": {"device": "GPU"}}, "Target 'audio-analyzer' supports only device='CPU'."),
        ({**SPEAKER, "config": {"target_device": "npu"}}, "Target 'text-to-speech' supports only device='CPU'."),
        ({**SPEAKER, "config": {"device": "HETERO:CPU"}}, "Target 'text-to-speech' supports only device='CPU'."),
        (
            {**ANALYZER, "config": {"openvino_config": {"device": "GPU"}}},
            "Target 'audio-analyzer' supports only device='CPU'.",
        ),
    ],
)
def test_case_74_what_a_target_is_not_for(service: Web, model: dict[str, Any], detail: str) -> None:
    answer = service.submit({"name": "org/model", "hub": "huggingface"}, model)
    assert (answer.status_code, answer.json()) == (400, {"detail": detail})
    assert service.get("/jobs").json() == {"jobs": []}, "not even the model before it"


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "int8", "weight-format": "fp16"},
        {"precision": "fp16", "extra_quantization_params": "--weight-format int8"},
        {"extra_quantization_params": "--weight-format int4"},
    ],
)
def test_no_option_leads_past_the_precision_of_the_folder(service: Web, config: dict[str, Any]) -> None:
    answer = service.submit({**SPEAKER, "config": config})
    assert answer.status_code == 400
    assert "contradict" in answer.json()["detail"]


def test_the_rules_of_a_target_come_before_what_is_enabled(tmp_path: Path) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        wrong = service.submit({**ANALYZER, "config": {"device": "GPU"}})
        assert wrong.json()["detail"] == "Target 'audio-analyzer' supports only device='CPU'."
        right = service.submit(ANALYZER)
        assert right.status_code == 400
        assert right.json()["detail"].startswith("OpenVINO conversion requested but plugin is not available: ")


def test_a_plan_tells_where_a_target_would_go() -> None:
    wish = Wish(name="openai/whisper-base", hub="openvino", root="voice", model_type=ModelType.SPEECH2TEXT)
    aim = aimed(wish, VoiceTarget.AUDIO_ANALYZER)
    spec = plan(aim, Catalog.installed("all"))
    assert (spec.destination.root, spec.destination.folder) == ("voice", ANALYZER_FOLDER)
    *_, convert, publish = stages(spec)
    assert convert.kind is StageKind.CONVERT
    assert publish.work["converter"] is None, "nothing is written for a model server"
    assert publish.work["serving"] == {}
    assert publish.pool is Pool.DOWNLOAD, "so no convert worker is needed any more"
    usual = plan(msgspec.structs.replace(aim, folder=""), Catalog.installed("all"))
    assert convert == stages(usual)[-2], "so that they share it"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A hub that has tiny models under the names that targets want, and a service beside it."""
    root = tmp_path_factory.mktemp("sources")
    in_child(tiny_models.tiny_whisper, root / "whisper")
    in_child(tiny_models.tiny_speecht5, root / "speecht5")
    shutil.move(root / "speecht5" / tiny_models.VOCODER, root / "vocoder")
    with FakeHuggingFace() as hub:
        hub.add_directory("openai/whisper-base", root / "whisper")
        hub.add_directory("microsoft/speecht5_tts", root / "speecht5")
        hub.add_directory("microsoft/speecht5_hifigan", root / "vocoder")
        folder = tmp_path_factory.mktemp("studio")
        with Service(folder, HF_ENDPOINT=hub.endpoint, MODEL_PATH="/srv/models") as service:
            yield SimpleNamespace(hub=hub, service=service)


def completed(studio: SimpleNamespace, model: dict[str, Any], folder: str) -> Path:
    (job_id,) = studio.service.submit(model, download_path="voice")
    job = studio.service.wait(job_id, timeout_s=110)
    assert job["status"] == "completed", job
    place: Path = studio.service.models_dir / "voice" / folder
    assert job["path"] == job["output_dir"] == str(place)
    assert job["result"]["conversion_path"] == str(place)
    assert job["result"]["type"] == model["type"]
    assert job["result"]["evidence"]["checks"]
    assert check_published(place, rehash=True) == []
    assert not (place / "graph.pbtxt").exists(), "the application is no model server"
    assert not list((studio.service.models_dir / "voice").rglob("config_all.json"))
    return place


def test_case_74_an_audio_analyzer_reads_what_is_published(studio: SimpleNamespace) -> None:
    place = completed(studio, ANALYZER, ANALYZER_FOLDER)
    assert json.loads((place / ".modelferry.json").read_text())["target"]["precision"] == "int8"
    in_child(transcribe, place)


def test_case_74_a_speaker_reads_what_is_published(studio: SimpleNamespace) -> None:
    for precision in ("fp16", "int8"):
        place = completed(studio, {**SPEAKER, "config": {"precision": precision}}, f"{SPEAKER_FOLDER}{precision}")
        in_child(speak, place)


def test_a_target_shares_its_conversion_with_the_model_server(studio: SimpleNamespace) -> None:
    first = completed(studio, ANALYZER, ANALYZER_FOLDER)
    served = {name: value for name, value in ANALYZER.items() if name != "target"} | {"is_ovms": True}
    (job_id,) = studio.service.submit(served, download_path="served")
    job = studio.service.wait(job_id, timeout_s=110)
    assert job["status"] == "completed", job
    assert job["output_dir"].endswith("served/openvino_models/cpu/int8")
    assert (Path(job["path"]) / "graph.pbtxt").exists()
    manifest = json.loads((first / ".modelferry.json").read_text())
    assert job["result"]["artefact"] == manifest["artefact"]
    assert (Path(job["path"]) / "openvino_encoder_model.bin").samefile(first / "openvino_encoder_model.bin")


def transcribe(folder: Path) -> None:
    import openvino_genai

    pipeline = openvino_genai.WhisperPipeline(folder, "CPU")
    assert pipeline.generate([0.0] * 16_000, max_new_tokens=5).texts


def speak(folder: Path) -> None:
    import openvino_genai

    pipeline = openvino_genai.Text2SpeechPipeline(folder, "CPU")
    assert pipeline.generate("a ferry").speeches
