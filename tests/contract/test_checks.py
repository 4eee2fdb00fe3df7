"""What the check of a finished conversion finds: missing files, other weights than asked for, and parts that fail.

The models are real ones, made by upstream's own functions, and then spoilt.
"""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.catalog.openvino import OPENVINO, OpenVINOOptions
from common.errors import OutputIncomplete, StageError, UnsupportedModel
from common.spec import Target
from common.vocabulary import Format, ModelType, Precision
from tests.conversions import in_child
from tests.fakes import tiny_models

IR = ("xml", "bin")
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def ir(*graphs: str) -> set[str]:
    return {f"{graph}.{end}" for graph in graphs for end in IR}


def parts(*folders: str) -> set[str]:
    return {f"{folder}/{name}" for folder in folders for name in ("config.json", *ir("openvino_model"))}


PLAIN = {"config.json", *ir("openvino_model")}
TOKENS = ir("openvino_tokenizer")
TEXT = TOKENS | ir("openvino_detokenizer")
FILES: dict[ModelType, set[str]] = {
    ModelType.LLM: PLAIN | TEXT,
    ModelType.VLM: {
        "config.json",
        "preprocessor_config.json",
        *ir("openvino_language_model", "openvino_text_embeddings_model", "openvino_vision_embeddings_model"),
        *TEXT,
    },
    ModelType.EMBEDDINGS: PLAIN | TOKENS,
    ModelType.RERANK: PLAIN | TOKENS,
    ModelType.IMAGE_GENERATION: {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *parts("text_encoder", "unet", "vae_decoder", "vae_encoder"),
        *ir("tokenizer/openvino_tokenizer"),
    },
    ModelType.TEXT2SPEECH: {
        "config.json",
        "preprocessor_config.json",
        *ir("openvino_encoder_model", "openvino_decoder_model", "openvino_postnet", "openvino_vocoder"),
        *TOKENS,
    },
    ModelType.SPEECH2TEXT: {
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        *ir("openvino_encoder_model", "openvino_decoder_model"),
        *TEXT,
    },
    ModelType.VISION: PLAIN | {"preprocessor_config.json"},
}


# Files: here only their names and sizes count


@pytest.mark.parametrize("model_type", FILES)
def test_each_file_of_a_type_must_be_there_and_not_empty(tmp_path: Path, model_type: ModelType) -> None:
    wanted = target(model_type)
    for name in sorted(FILES[model_type]):
        write(tmp_path, name)
    assert files_fault(tmp_path, wanted) is None
    for name in sorted(FILES[model_type]):
        file = tmp_path / name
        content = file.read_bytes()
        file.unlink()
        assert files_fault(tmp_path, wanted) == f"The conversion left no {name}"
        file.write_bytes(b"")
        assert str(files_fault(tmp_path, wanted)).startswith("The conversion left a")
        assert name in str(files_fault(tmp_path, wanted))
        file.write_bytes(content)


@pytest.mark.parametrize("model_type", set(FILES) - {ModelType.VISION})
def test_a_tokenizer_may_be_declined(tmp_path: Path, model_type: ModelType) -> None:
    for name in sorted(FILES[model_type]):
        if "tokenizer.xml" not in name and "tokenizer.bin" not in name:
            write(tmp_path, name)
    assert "openvino_tokenizer.xml" in str(files_fault(tmp_path, target(model_type)))
    assert files_fault(tmp_path, target(model_type), OpenVINOOptions(disable_convert_tokenizer=True)) is None


def test_a_part_that_only_some_families_have_must_be_whole(tmp_path: Path) -> None:
    for name in FILES[ModelType.VLM] | {"openvino_vision_embeddings_merger_model.xml"}:
        write(tmp_path, name)
    fault = files_fault(tmp_path, target(ModelType.VLM))
    assert fault == "The conversion left no openvino_vision_embeddings_merger_model.bin"


def test_each_component_of_a_pipeline_must_be_there(tmp_path: Path) -> None:
    for name in FILES[ModelType.IMAGE_GENERATION]:
        write(tmp_path, name)
    more = PIPELINE | {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    (tmp_path / "model_index.json").write_text(json.dumps(more))
    fault = files_fault(tmp_path, target(ModelType.IMAGE_GENERATION))
    assert fault == "The conversion left no text_encoder_2/config.json"


def test_a_missing_tokenizer_comes_with_advice(tmp_path: Path) -> None:
    for name in FILES[ModelType.LLM] - {"openvino_tokenizer.xml"}:
        write(tmp_path, name)
    with pytest.raises(OutputIncomplete) as caught:
        check_files(tmp_path, target(ModelType.LLM), OpenVINOOptions())
    assert "tokenizer files" in caught.value.advice


def test_a_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="rppg"):
        check_files(tmp_path, target(ModelType.RPPG), OpenVINOOptions())


def check_files(folder: Path, wanted: Target, options: OpenVINOOptions) -> None:
    from worker.converters.openvino.check import files

    files.check_files(folder, wanted, options)


def files_fault(folder: Path, wanted: Target, options: OpenVINOOptions | None = None) -> str | None:
    try:
        check_files(folder, wanted, options or OpenVINOOptions())
    except OutputIncomplete as error:
        return str(error)
    return None


def write(folder: Path, name: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(PIPELINE) if name == "model_index.json" else "{}")


# Weights


@dataclass(frozen=True)
class Made:
    """An IR of upstream's, and how it came about."""

    maker: str
    model_type: ModelType
    task: str
    precision: str
    library: str = "transformers"
    weights: dict[str, Any] = field(default_factory=dict)
    stateful: bool = True


LLAMA = ("tiny_llama", ModelType.LLM, "text-generation-with-past")
LLAVA = ("tiny_llava", ModelType.VLM, "image-text-to-text")
WHISPER = ("tiny_whisper", ModelType.SPEECH2TEXT, "automatic-speech-recognition-with-past")
FOUR_BITS = {"bits": 4, "sym": True, "ratio": 1.0, "group_size": 64, "backup_precision": "int8_asym"}
MADE = {
    "llama-int8": Made(*LLAMA, "int8", weights={"bits": 8, "sym": False}),
    "llama-int4": Made(*LLAMA, "int4", weights=FOUR_BITS),
    "llama-f8e4m3": Made(*LLAMA, "f8e4m3"),
    "llava-fp16": Made(*LLAVA, "fp16"),
    "llava-int4": Made(*LLAVA, "int4", weights=FOUR_BITS),
    "resnet-int4": Made("tiny_resnet", ModelType.VISION, "image-classification", "int4", weights=FOUR_BITS),
    "vit-fp16": Made("tiny_vit", ModelType.VISION, "image-classification", "fp16"),
    "yolos-fp32": Made("tiny_yolos", ModelType.VISION, "object-detection", "fp32"),
    "whisper-fp16": Made(*WHISPER, "fp16", stateful=False),
    "speecht5-fp16": Made("tiny_speecht5", ModelType.TEXT2SPEECH, "text-to-audio", "fp16"),
    "diffusion-fp16": Made(
        "tiny_stable_diffusion", ModelType.IMAGE_GENERATION, "text-to-image", "fp16", library="diffusers"
    ),
}

Get = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Get:
    root = tmp_path_factory.mktemp("checked")

    def get(name: str) -> Path:
        if not (root / name).exists():
            in_child(_make, MADE[name], root / "sources", root / name)
        return root / name

    return get


SYM = OpenVINOOptions(sym=True)
ASYM = OpenVINOOptions(sym=False)
UNKNOWN = OpenVINOOptions()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama-int8", ASYM),
        ("llama-int8", UNKNOWN),
        ("llama-int4", OpenVINOOptions(sym=True, ratio=1.0, group_size=64, backup_precision="int8_asym")),
        ("llama-int4", UNKNOWN),
        ("llama-f8e4m3", OpenVINOOptions(quant_mode="f8e4m3")),
        ("llama-f8e4m3", UNKNOWN),
        ("llava-int4", SYM),
        ("llava-int4", UNKNOWN),
        ("resnet-int4", SYM),
    ],
)
def test_what_was_asked_for_is_proven(made: Get, name: str, options: OpenVINOOptions) -> None:
    fault, words = in_child(_check, made(name), wanted(name), options)
    assert fault is None
    assert any(f"has {EXPECTED[name]} weights" in one for one in words)


EXPECTED = {
    "llama-int8": "int8_asym",
    "llama-int4": "int4_sym",
    "llama-f8e4m3": "quantised",
    "llava-int4": "int4_sym",
    "resnet-int4": "int4_sym",
}


def test_only_the_language_model_gets_four_bits(made: Get) -> None:
    _, words = in_child(_check, made("llava-int4"), wanted("llava-int4"), SYM)
    weights = dict(one.split(" has ", 1) for one in words if " has " in one)
    assert weights["openvino_language_model"].startswith("int4_sym weights (i4 ")
    assert weights["openvino_text_embeddings_model"].startswith("int8_sym weights (i8 ")
    assert weights["openvino_vision_embeddings_model"].startswith("int8_sym weights (i8 ")


def test_a_model_of_convolutions_has_nothing_for_four_bits(made: Get) -> None:
    fault, words = in_child(_check, made("resnet-int4"), wanted("resnet-int4"), SYM)
    assert fault is None
    assert re.match(r"openvino_model has int4_sym weights \(u8 9\d %", words[0])


@pytest.mark.parametrize(
    ("name", "precision", "options", "text"),
    [
        ("llama-int8", "int8", SYM, "was to have int8_sym weights, but has int8_asym weights"),
        ("llama-int8", "int4", ASYM, "was to have int4_asym weights, but has int8_asym weights"),
        ("llama-int8", "int4", UNKNOWN, "was to have int4_sym or int4_asym weights, but has int8_asym"),
        ("llama-int8", "fp16", UNKNOWN, "was to have fp16 weights, but has int8_asym"),
        ("llama-int8", "nf4", UNKNOWN, "was to have nf4 weights, but has int8_asym"),
        ("llama-int8", "int8", OpenVINOOptions(quant_mode="int8", sym=False), "and int8 activations, but has"),
        ("llama-int4", "int8", SYM, "was to have int8_sym weights, but has int4_sym"),
        ("llama-int4", "int4", OpenVINOOptions(sym=True, group_size=128), "group_size 128, but was with 64"),
        ("llama-int4", "int4", OpenVINOOptions(sym=True, ratio=0.8), "ratio 0.8, but was with 1.0"),
        ("llama-int4", "int4", OpenVINOOptions(sym=True, awq=True), "awq True, but was with False"),
        ("llama-int4", "int4", OpenVINOOptions(sym=True, backup_precision="none"), "none, but was with int8_asym"),
        ("llama-int4", "int4_f8e4m3", UNKNOWN, "f8e4m3 activations, but has int4_sym"),
        ("llama-f8e4m3", "f8e5m2", UNKNOWN, "f8e5m2 activations, but has quantised weights"),
        ("llama-f8e4m3", "int8", ASYM, "was to have int8_asym weights, but has quantised weights"),
        ("llava-fp16", "fp32", UNKNOWN, "openvino_language_model was to have fp32 weights, but has uncompressed"),
        ("llava-fp16", "int8", SYM, "openvino_language_model was to have int8_sym weights, but has uncompressed"),
    ],
)
def test_other_weights_than_asked_for_are_found(
    made: Get, name: str, precision: str, options: OpenVINOOptions, text: str
) -> None:
    fault, _ = in_child(_check, made(name), target(MADE[name].model_type, precision), options)
    assert fault is not None
    assert fault[0] == "VerificationFailed"
    assert text in fault[1]


def test_a_part_that_was_left_uncompressed_is_found(made: Get, tmp_path: Path) -> None:
    model = shutil.copytree(made("llava-int4"), tmp_path / "model")
    for end in IR:
        shutil.copyfile(made("llava-fp16") / f"openvino_vision_embeddings_model.{end}", model / _vision(end))
    fault, _ = in_child(_check, model, wanted("llava-int4"), SYM)
    text = "openvino_vision_embeddings_model was to have int8_sym weights, but has uncompressed weights"
    assert text in fault[1]


def _vision(end: str) -> str:
    return f"openvino_vision_embeddings_model.{end}"


def test_four_bits_in_name_only_are_found(made: Get, tmp_path: Path) -> None:
    model = shutil.copytree(made("llama-int8"), tmp_path / "model")
    graph = model / "openvino_model.xml"
    graph.write_text(graph.read_text().replace('mode value="int8_asym"', 'mode value="int4_asym"'))
    fault, _ = in_child(_check, model, target(ModelType.LLM, "int4"), ASYM)
    assert re.search(r"was to have int4_asym weights, but has int4_asym weights \(u8 9\d %", fault[1])


@pytest.mark.parametrize(
    ("name", "precision", "mode"),
    [
        ("llama-int8", Precision.INT8, None),
        ("llama-int4", Precision.INT4, None),
        ("llama-f8e4m3", Precision.F8E4M3, "f8e4m3"),
        ("llava-int4", Precision.INT4, None),
        ("llava-fp16", Precision.FP16, None),
        ("diffusion-fp16", Precision.FP16, None),
        ("speecht5-fp16", Precision.FP16, None),
    ],
)
def test_a_model_tells_its_own_precision(made: Get, name: str, precision: Precision, mode: str | None) -> None:
    assert in_child(_told, made(name)) == (precision, mode)


def test_a_folder_without_a_model_tells_no_precision(tmp_path: Path) -> None:
    assert in_child(_told, tmp_path) == (None, None)


# Answers


PARTS = {
    "vit-fp16": ("openvino_model",),
    "yolos-fp32": ("openvino_model",),
    "llama-int8": ("openvino_model",),
    "llava-fp16": (
        "openvino_vision_embeddings_model",
        "openvino_text_embeddings_model",
        "openvino_language_model",
    ),
    "whisper-fp16": ("openvino_encoder_model", "openvino_decoder_model", "openvino_decoder_with_past_model"),
    "speecht5-fp16": (
        "openvino_encoder_model",
        "openvino_decoder_model",
        "openvino_postnet",
        "openvino_vocoder",
    ),
    "diffusion-fp16": tuple(
        f"{part}/openvino_model" for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_has_to_answer_with_finite_numbers(made: Get, tmp_path: Path, name: str) -> None:
    """Every part is run: one that is spoilt is named, whichever it is."""
    found = in_child(_spoil_each, made(name), tmp_path, wanted(name), PARTS[name])
    assert found[""] is None
    for part in PARTS[name]:
        assert found[part] == ("VerificationFailed", f"{part} answers with numbers that are not finite")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("vit-fp16", "a picture (1, 3, 64, 64) gives finite logits (1, 10)"),
        ("yolos-fp32", "a picture (1, 3, 64, 64) gives finite logits (1, 10, 11) and boxes (1, 10, 4)"),
        ("llama-int8", "16 tokens give finite logits (1, 16, 362)"),
        ("llava-fp16", "32 embeddings of picture and text give finite logits (1, 32, 362)"),
        ("speecht5-fp16", "16 tokens give 32 finite samples of sound"),
        ("diffusion-fp16", "latents (1, 4, 8, 8) give a finite picture (1, 3, 16, 16)"),
    ],
)
def test_the_answer_is_told(made: Get, name: str, answer: str) -> None:
    fault, words = in_child(_check, made(name), wanted(name), options_of(name))
    assert fault is None
    assert words[-1] == answer


def test_a_classifier_that_does_not_know_its_labels_is_found(made: Get, tmp_path: Path) -> None:
    model = shutil.copytree(made("vit-fp16"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "only one"}
    (model / "config.json").write_text(json.dumps(config))
    fault, _ = in_child(_check, model, wanted("vit-fp16"), UNKNOWN)
    assert fault == ("VerificationFailed", "openvino_model answers a picture with a tensor of shape (1, 10)")


def test_a_model_of_another_kind_is_found(made: Get) -> None:
    fault, _ = in_child(_check, made("llama-int8"), target(ModelType.RERANK, "int8"), ASYM)
    assert fault == ("VerificationFailed", "openvino_model answers 16 tokens with a tensor of shape (1, 16, 362)")


def test_a_model_without_tokenizer_runs_all_the_same(made: Get, tmp_path: Path) -> None:
    model = shutil.copytree(made("llama-int8"), tmp_path / "model")
    for file in model.glob("openvino_*tokenizer.*"):
        file.unlink()
    options = OpenVINOOptions(sym=False, disable_convert_tokenizer=True)
    fault, words = in_child(_check, model, wanted("llama-int8"), options)
    assert fault is None
    assert words[-1] == "16 tokens give finite logits (1, 16, 362)"


def target(model_type: ModelType, precision: str = "int8") -> Target:
    return Target(format=Format.OPENVINO, model_type=model_type, precision=Precision(precision), device="CPU")


def wanted(name: str) -> Target:
    return target(MADE[name].model_type, MADE[name].precision)


def options_of(name: str) -> OpenVINOOptions:
    return OPENVINO.bind({"sym": MADE[name].weights["sym"]}) if MADE[name].weights else UNKNOWN


# What runs in processes of its own


def _make(made: Made, sources: Path, output: Path) -> None:
    source = sources / made.maker
    if not source.exists():
        getattr(tiny_models, made.maker)(source)
    if made.task == "object-detection":
        _export_detector(source, output)
    else:
        _export(made, source, output)
    settings = source / "preprocessor_config.json"
    if settings.exists():
        shutil.copyfile(settings, output / settings.name)


def _export(made: Made, source: Path, output: Path) -> None:
    from optimum.exporters.openvino.__main__ import _main_quantize, main_export
    from optimum.intel import OVConfig, OVQuantizationConfig, OVWeightQuantizationConfig

    quantization = None
    if made.weights:
        quantization = OVWeightQuantizationConfig(
            dtype=made.precision, group_size_fallback="adjust" if made.weights["bits"] == 4 else None, **made.weights
        )
    elif made.precision == "f8e4m3":
        texts = [text * 3 for text in tiny_models.SENTENCES]
        quantization = OVQuantizationConfig(dtype=made.precision, dataset=texts, num_samples=2)
    config = OVConfig(quantization_config=quantization) if quantization else OVConfig(dtype=made.precision)
    vocoder = {"vocoder": str(source / tiny_models.VOCODER)}
    known = {"model_name_or_path": str(source), "task": made.task, "library_name": made.library}
    main_export(
        **known,
        output=output,
        ov_config=config,
        convert_tokenizer=True,
        local_files_only=True,
        model_kwargs=vocoder if made.model_type is ModelType.TEXT2SPEECH else None,
        stateful=made.stateful,
    )
    if quantization is not None:
        _main_quantize(**known, quantization_config=quantization, output=output, cache_dir=str(output))


def _export_detector(source: Path, output: Path) -> None:
    """Upstream has no export for these."""
    import openvino as ov
    import torch
    from transformers import AutoModelForObjectDetection

    class Plain(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.model(pixel_values)
            return found.logits, found.pred_boxes

    model = AutoModelForObjectDetection.from_pretrained(source, attn_implementation="eager").eval()
    picture = torch.zeros(1, 3, 64, 64)
    converted = ov.convert_model(
        Plain(model), example_input={"pixel_values": picture}, input=[("pixel_values", [1, 3, 64, 64])]
    )
    for port, name in zip(converted.outputs, ("logits", "pred_boxes"), strict=True):
        port.get_tensor().set_names({name})
    output.mkdir(parents=True)
    ov.save_model(converted, output / "openvino_model.xml", compress_to_fp16=False)
    shutil.copyfile(source / "config.json", output / "config.json")


def _check(folder: Path, wanted: Target, options: OpenVINOOptions) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    from worker.converters.openvino.check import check_files, check_run
    from worker.converters.openvino.compiling import steady_compiling

    try:
        with steady_compiling():
            check_files(folder, wanted, options)
            return None, check_run(folder, wanted, options)
    except StageError as error:
        return (type(error).__name__, str(error)), ()


def _told(folder: Path) -> tuple[Precision | None, str | None]:
    from worker.converters.openvino.check import precision_of, quant_mode_of

    return precision_of(folder), quant_mode_of(folder)


def _spoil_each(model: Path, root: Path, wanted: Target, names: tuple[str, ...]) -> dict[str, tuple[str, str] | None]:
    """What is found when nothing is spoilt, and when one part after the other is."""
    folder = shutil.copytree(model, root / "model")
    found = {"": _check(folder, wanted, UNKNOWN)[0]}
    for name in names:
        weights = folder / f"{name}.bin"
        whole = weights.read_bytes()
        weights.write_bytes(_spoilt(folder / f"{name}.xml", whole))
        found[name] = _check(folder, wanted, UNKNOWN)[0]
        weights.write_bytes(whole)
    return found


def test_a_checked_model_leaves_the_memory(tmp_path):
    grown = in_child(_memory_after_checks, tmp_path)
    assert grown < 64 * 1024 * 1024


def _memory_after_checks(folder: Path) -> int:
    """By how much the process has grown between the first and the fourth look at a model of 128 MB."""
    import numpy as np
    import openvino as ov
    import psutil

    from worker.converters.openvino.check.running import Folder

    asked = ov.opset13.parameter([-1, 4096], ov.Type.f32, name="asked")
    asked.output(0).set_names({"asked"})
    weights = np.ones((4096, 16384), np.float16)
    wide = ov.opset13.convert(ov.opset13.constant(weights), "f32")
    ov.save_model(ov.Model([ov.opset13.matmul(asked, wide, False, False)], [asked]), folder / "model.xml", False)
    used = []
    for _ in range(4):
        Folder(folder).part("model").ask({})
        used.append(psutil.Process().memory_info().rss)
    return used[-1] - used[0]


NOT_A_NUMBER = {"f16": b"\x00\x7e", "f32": b"\x00\x00\xc0\x7f"}


def _spoilt(graph: Path, weights: bytes) -> bytes:
    """The weights without a number in any of them; what steers other operations are a few numbers at most."""
    spoilt = bytearray(weights)
    for data in ET.parse(graph).iter("data"):
        nothing = NOT_A_NUMBER.get(data.attrib.get("element_type", ""))
        if nothing is not None and "offset" in data.attrib:
            size, offset = int(data.attrib["size"]), int(data.attrib["offset"])
            if size > 16 * len(nothing):
                spoilt[offset : offset + size] = nothing * (size // len(nothing))
    return bytes(spoilt)
