"""Conversions are measured against their sources: good ones pass, worse ones are told apart, and spoilt ones fail."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common.catalog.openvino import OpenVINOOptions
from common.errors import InvalidParameters, VerificationFailed
from common.spec import Similarity, Target
from common.vocabulary import Format, ModelType, Precision
from tests.conversions import in_child
from tests.fakes import tiny_models

SAMPLES = 4


def in_a_worker(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test where conversions run: in a process that has the tools loaded already."""

    @functools.wraps(test)
    def run(**given: object) -> None:
        if multiprocessing.parent_process() is None:
            in_child(_run, run, given)
        else:
            test(**given)

    return run


def _run(test: Callable[..., None], given: Mapping[str, object]) -> None:
    test(**given)


@dataclass(frozen=True)
class Kind:
    """A type of model, and which graph and layer of it to spoil."""

    model_type: ModelType
    make: Callable[[Path], Path]
    task: str
    graph: str
    layer: str
    measure: str = "kl"
    library: str = "transformers"
    compressed: bool = False


KINDS = {
    "llm": Kind(
        ModelType.LLM, tiny_models.tiny_llama, "text-generation-with-past", "openvino_model", "layers.1.mlp",
        compressed=True,
    ),
    "embeddings": Kind(
        ModelType.EMBEDDINGS, tiny_models.tiny_bert, "feature-extraction", "openvino_model", "layer.1.", "cosine",
        compressed=True,
    ),
    "rerank": Kind(
        ModelType.RERANK, tiny_models.tiny_reranker, "text-classification", "openvino_model", "layer.1.",
        compressed=True,
    ),
    "vision": Kind(
        ModelType.VISION, tiny_models.tiny_vit, "image-classification", "openvino_model", "layer.1.", compressed=True
    ),
    "speech2text": Kind(
        ModelType.SPEECH2TEXT, tiny_models.tiny_whisper, "automatic-speech-recognition-with-past",
        "openvino_decoder_model", "layers.1.",
    ),
    "vlm": Kind(
        ModelType.VLM, tiny_models.tiny_llava, "image-text-to-text", "openvino_vision_embeddings_model", "layers.0."
    ),
}  # fmt: skip
SLOW_KINDS = {
    "text2speech": Kind(
        ModelType.TEXT2SPEECH, tiny_models.tiny_speecht5, "text-to-audio", "openvino_decoder_model", "layers.1.",
        "cosine",
    ),
    "image_generation": Kind(
        ModelType.IMAGE_GENERATION, tiny_models.tiny_stable_diffusion, "text-to-image", "unet/openvino_model",
        "mid_block", "cosine", "diffusers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_KINDS)])
def test_a_conversion_is_as_similar_as_its_precision_lets_it_be_and_a_spoilt_one_is_found(tmp_path, name):
    kind = (KINDS | SLOW_KINDS)[name]
    measured: Mapping[str, Similarity] = in_child(_convert_and_measure, kind, tmp_path)

    assert {one.measure for one in measured.values()} == {kind.measure}
    assert {one.samples for one in measured.values()} == {SAMPLES}
    assert all(0 <= one.value <= 1 for one in measured.values())
    assert measured["fp16"].value >= 0.999
    assert measured["spoilt"].value < 0.8
    if kind.compressed:
        assert 0.99 < measured["int8"].value <= measured["fp16"].value
        assert 0.8 < measured["int4"].value < measured["int8"].value


@pytest.mark.slow
def test_of_the_real_minilm_each_precision_keeps_as_much_as_is_known(tmp_path):
    kind = Kind(ModelType.EMBEDDINGS, tiny_models.minilm_repo, "feature-extraction", "openvino_model", "layer.3.", "cosine", compressed=True)  # fmt: skip
    measured = in_child(_convert_and_measure, kind, tmp_path, 8)
    assert measured["fp16"].value >= 0.9999
    assert measured["int8"].value >= 0.999
    assert 0.92 <= measured["int4"].value <= 0.98
    assert measured["spoilt"].value < 0.8


@in_a_worker
def test_only_a_divergence_beyond_the_limit_fails_and_the_error_tells_the_figures():
    from worker.converters.openvino.similarity import check_similarity, divergence

    chosen = Similarity(measure="kl", value=math.exp(-0.25), samples=8)
    assert divergence(chosen) == pytest.approx(0.25)
    assert divergence(Similarity(measure="cosine", value=0.96, samples=8)) == pytest.approx(0.04)
    assert divergence(Similarity(measure="top1", value=0.75, samples=8)) == pytest.approx(0.25)
    assert divergence(Similarity(measure="kl", value=0.0, samples=8)) == math.inf
    with pytest.raises(ValueError):
        divergence(Similarity(measure="taste", value=1.0, samples=8))

    check_similarity(chosen, 0.2501)
    with pytest.raises(VerificationFailed) as failed:
        check_similarity(chosen, 0.2)
    for figure in ("8 inputs", "0.25", "0.7788", "kl", "0.2"):
        assert figure in str(failed.value)
    assert "precision" in failed.value.advice


@in_a_worker
def test_equal_choices_are_equal_and_others_are_as_far_apart_as_the_formula_says():
    assert _compared(choices=(_CHOICES, _CHOICES)).value == pytest.approx(1.0, abs=1e-12)
    assert _compared(choices=(_CHOICES, _CHOICES + 3.0)).value == pytest.approx(1.0, abs=1e-12)
    other = _CHOICES[:, ::-1]
    assert _compared(choices=(_CHOICES, other)).value == pytest.approx(math.exp(-_kl(_CHOICES, other)))


@in_a_worker
def test_of_very_many_choices_the_likeliest_are_enough():
    dice = np.random.default_rng(1)
    one = dice.normal(0, 3, (4, 50_000)).astype(np.float32)
    other = one + dice.normal(0, 0.5, one.shape).astype(np.float32)
    wanted, found = math.exp(-_kl(one, other)), _compared(choices=(one, other)).value
    assert wanted <= found < wanted + 0.05


@in_a_worker
def test_what_a_source_rules_out_may_be_ruled_out_and_what_is_no_number_may_not():
    ruled_out = np.where(_CHOICES > 1.5, _CHOICES, -np.inf)
    assert _compared(choices=(ruled_out, ruled_out)).value == pytest.approx(1.0)
    for nonsense in (np.full_like(_CHOICES, np.nan), np.full_like(_CHOICES, np.inf)):
        with pytest.raises(VerificationFailed, match="converted model's part"):
            _compared(choices=(_CHOICES, nonsense))
        with pytest.raises(VerificationFailed, match="source's own part"):
            _compared(choices=(nonsense, _CHOICES))
    with pytest.raises(VerificationFailed, match="shape"):
        _compared(choices=(_CHOICES, _CHOICES[:, :-1]))


@in_a_worker
def test_a_source_that_tells_next_to_nothing_is_held_to_that():
    slight = 0.01 * _CHOICES
    assert _compared(choices=(slight, slight[:, ::-1])).value < 0.3
    assert _compared(choices=(slight, np.zeros_like(slight))).value == pytest.approx(math.exp(-1), abs=0.01)
    assert _compared(choices=(slight, 1.01 * slight)).value > 0.999


@in_a_worker
def test_vectors_are_as_alike_as_their_worst():
    from worker.converters.openvino.similarity.comparing import Answer, compare, kept

    ahead, aside = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    expected = [kept(Answer(vectors={"part": ahead})) for _ in range(2)]
    found = [Answer(vectors={"part": vector}) for vector in (5 * ahead, aside)]
    assert compare(expected, found, 2) == Similarity(measure="cosine", value=pytest.approx(math.sqrt(0.5)), samples=2)
    assert _compared(vectors=(ahead, -ahead)).value == 0
    with pytest.raises(VerificationFailed):
        _compared(vectors=(ahead, np.array([1.0, -np.inf])))


@in_a_worker
def test_of_several_parts_the_worst_is_told():
    from worker.converters.openvino.similarity.comparing import Answer, compare, kept

    expected = [kept(Answer(choices={"words": _CHOICES}, vectors={"boxes": np.array([1.0, 0.0])}))]
    found = [Answer(choices={"words": _CHOICES}, vectors={"boxes": np.array([1.0, 0.5])})]
    assert compare(expected, found, 1).measure == "cosine"


def test_weights_of_16_bits_stay_so_and_the_source_computes_in_32(tmp_path):
    narrow, apart = in_child(_ask_narrow, tmp_path)
    assert narrow == {"torch.bfloat16"}
    assert apart < 1e-5


def test_a_source_whose_modules_use_the_weights_of_others_is_widened_as_a_whole():
    assert in_child(_ask_entangled) < 1e-6


def test_texts_are_embedded_as_the_model_itself_pools(tmp_path):
    pooled, states = in_child(_embed_by_first_token, tmp_path)
    assert pooled == pytest.approx(states[0], abs=1e-5)
    assert pooled != pytest.approx(states.mean(axis=0), abs=1e-3)


@in_a_worker
def test_questions_are_the_same_each_time_and_all_different():
    from worker.converters.openvino.similarity import questions

    for asked in (questions.texts(64), questions.prose(64), questions.pairs(64)):
        assert len(set(asked)) == 64
    assert questions.texts(3) == questions.texts(8)[:3]
    one, again, other = (questions.picture(number).tobytes() for number in (0, 0, 1))
    assert one == again != other
    assert np.array_equal(questions.sound(1, 16000), questions.sound(1, 16000))
    assert np.isfinite(questions.sound(2, 16000)).all()


@in_a_worker
def test_what_cannot_be_compared_is_refused(tmp_path):
    from worker.converters.openvino.similarity import measure

    sources = {name: tmp_path / name for name in ("torch", "openvino", "gguf")}
    for name, file in {"torch": "model.safetensors", "openvino": "openvino_model.bin", "gguf": "model.gguf"}.items():
        sources[name].mkdir()
        (sources[name] / file).write_bytes(b"weights")
    for source, model_type, options in [
        ("torch", ModelType.POSE_3D, OpenVINOOptions()),
        ("torch", None, OpenVINOOptions()),
        ("torch", ModelType.VISION, OpenVINOOptions(library="timm")),
        ("openvino", ModelType.LLM, OpenVINOOptions()),
        ("gguf", ModelType.LLM, OpenVINOOptions()),
    ]:
        with pytest.raises(InvalidParameters, match="'verify'"):
            measure(sources[source], tmp_path, _target(model_type), options, samples=1, trusted=False)


@in_a_worker
def test_a_detector_is_asked_for_labels_and_boxes(tmp_path):
    import openvino as ov
    import torch
    from transformers import AutoModelForObjectDetection

    from worker.converters.openvino.similarity import measure

    source, folder = tiny_models.tiny_yolos(tmp_path / "source"), tmp_path / "converted"
    detector = AutoModelForObjectDetection.from_pretrained(source).eval()

    class Asked(torch.nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.detector, self.shift = detector, shift

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            said = self.detector(pixel_values=pixel_values)
            return {"logits": said.logits, "pred_boxes": said.pred_boxes * torch.tensor([1.0, 1.0, 1.0, self.shift])}

    options = OpenVINOOptions(task="object-detection")
    for shift, low, high in ((1.0, 0.999, 1.0), (0.0, 0.5, 0.99)):
        model = ov.convert_model(Asked(shift), example_input=torch.rand(1, 3, 64, 80))
        ov.save_model(model, folder / "openvino_model.xml")
        similarity = measure(source, folder, _target(ModelType.VISION), options, samples=2, trusted=False)
        assert low < similarity.value <= high
    assert similarity.measure == "cosine"


_CHOICES = np.random.default_rng(0).normal(0, 3, (5, 40)).astype(np.float32)


def _kl(one: np.ndarray, other: np.ndarray) -> float:
    p, q = (np.exp(rows - rows.max(1, keepdims=True), dtype=np.float64) for rows in (one, other))
    p, q = (rows / rows.sum(1, keepdims=True) for rows in (p, q))
    return float((p * np.log(p / q)).sum(1).mean())


def _compared(**parts: tuple[np.ndarray, np.ndarray]) -> Similarity:
    from worker.converters.openvino.similarity.comparing import Answer, compare, kept

    one, other = (Answer(**{form: {"part": pair[side]} for form, pair in parts.items()}) for side in (0, 1))
    return compare([kept(one)], [other], 1)


def _target(model_type: ModelType | None) -> Target:
    return Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.FP16, device="CPU")


def _convert_and_measure(kind: Kind, root: Path, samples: int = SAMPLES) -> dict[str, Similarity]:
    """Measure a conversion to 16 bits, some that are compressed, and one with a layer that was overwritten."""
    from worker.converters.openvino.similarity import measure

    source, converted = kind.make(root / "source"), root / "fp16"
    _export(kind, source, converted)
    folders = {"fp16": converted, "spoilt": _spoilt(converted, root / "spoilt", kind)}
    if kind.compressed:
        folders |= _compressed(converted, root, group=128 if kind.make is tiny_models.minilm_repo else 32)
    target = _target(kind.model_type)
    return {
        name: measure(source, folder, target, OpenVINOOptions(task=kind.task), samples=samples, trusted=False)
        for name, folder in folders.items()
    }


def _export(kind: Kind, source: Path, folder: Path) -> None:
    from optimum.exporters.openvino.__main__ import main_export
    from optimum.intel import OVConfig

    speaks = kind.model_type is ModelType.TEXT2SPEECH
    main_export(
        model_name_or_path=str(source),
        output=folder,
        task=kind.task,
        library_name=kind.library,
        local_files_only=True,
        ov_config=OVConfig(dtype="fp16"),
        convert_tokenizer=False,
        **({"model_kwargs": {"vocoder": str(source / tiny_models.VOCODER)}} if speaks else {}),
    )


def _compressed(converted: Path, root: Path, group: int) -> dict[str, Path]:
    import nncf
    import openvino as ov

    modes = {
        "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
        "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": group, "ratio": 1.0},
    }
    for name, recipe in modes.items():
        model = ov.Core().read_model(converted / "openvino_model.xml")
        ov.save_model(nncf.compress_weights(model, **recipe), root / name / "openvino_model.xml")
    return {name: root / name for name in modes}


def _spoilt(converted: Path, folder: Path, kind: Kind) -> Path:
    """A copy of a conversion in which the weights of one layer are others of ten times their size."""
    shutil.copytree(converted, folder)
    weights = folder / f"{kind.graph}.bin"
    content = bytearray(weights.read_bytes())
    dice = np.random.default_rng(0)
    spoilt = 0
    for node in ET.parse(folder / f"{kind.graph}.xml").getroot().iter("layer"):
        data = node.find("data")
        if node.get("type") != "Const" or kind.layer not in node.get("name") or data.get("element_type") != "f16":
            continue
        place, size = int(data.get("offset")), int(data.get("size"))
        if size >= 1024:
            old = np.frombuffer(bytes(content[place : place + size]), np.float16)
            new = dice.normal(0, 10 * old.astype(np.float32).std(), old.size)
            content[place : place + size] = new.astype(np.float16).tobytes()
            spoilt += 1
    assert spoilt, f"No weights of '{kind.layer}' in {kind.graph}"
    weights.write_bytes(content)
    return folder


def _ask_narrow(root: Path) -> tuple[set[str], float]:
    import torch
    from transformers import AutoModelForCausalLM

    from worker.converters.openvino.similarity.probing import Original

    source = tiny_models.tiny_llama(root)
    original = Original(AutoModelForCausalLM.from_pretrained(source, dtype="auto"))
    wide = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    ids = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        apart = (original.ask(input_ids=ids).logits - wide(input_ids=ids).logits).abs().max()
    return {str(weight.dtype) for weight in original.model.parameters()}, float(apart)


def _ask_entangled() -> float:
    import torch
    from torch import nn

    from worker.converters.openvino.similarity.probing import Original

    class Entangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.first(numbers), self.second.weight)

    model = Entangled().to(torch.bfloat16)
    numbers = torch.linspace(-1, 1, 8)
    with torch.inference_mode():
        expected = model.second.weight.float() @ (model.first.weight.float() @ numbers + model.first.bias.float())
        return float((Original(model).ask(numbers=numbers) - expected).abs().max())


def _embed_by_first_token(root: Path) -> tuple[np.ndarray, np.ndarray]:
    import torch
    from transformers import AutoModel

    from worker.converters.openvino.similarity.probing import Subject
    from worker.converters.openvino.similarity.questions import prose
    from worker.converters.openvino.similarity.text import AutoTokenizer, Embedder

    source = tiny_models.tiny_bert(root)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    subject = Subject(model=source, folder=source, options=OpenVINOOptions(), trusted=False, samples=1)
    tokens = AutoTokenizer.from_pretrained(source)(prose(1)[0], return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(source)(**tokens).last_hidden_state
        return next(Embedder(subject).original()).vectors["vectors"], states[0].numpy()
