"""Tiny models really are converted, and what comes out is opened by the runtime that model servers use.

What is tried here is what docs/conversion.md claims: tests/coverage.py lists it.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.catalog.openvino import normalise
from common.spec import Evidence
from common.vocabulary import ModelType, Precision
from tests.conversions import Conversion, Wanted, convert, in_child
from tests.coverage import CELLS, FAMILIES, WEIGHTS, Cell, Family
from tests.fakes import tiny_models

SENTENCES = [
    "A ferry carries people and goods over the water.",
    "Boats take passengers across the river.",
    "The stock market fell sharply on Monday.",
    "He cooked a pot of soup with carrots and leeks.",
    "Quantised weights need less memory, and answer almost as well.",
]


@dataclass(frozen=True)
class Result:
    """One converted model."""

    folder: Path
    evidence: Evidence

    @property
    def files(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}


class Shop:
    """Makes and converts each model once. All weight formats of a model come from one conversion, as far as they can."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources: dict[str, Path] = {}
        self._results: dict[Cell, Result] = {}

    def source(self, family: Family) -> Path:
        if family.name not in self._sources:
            made = in_child(family.make, self._root / "sources" / family.name)
            self._sources[family.name] = Path(str(made))
        return self._sources[family.name]

    def result(self, cell: Cell) -> Result:
        if cell not in self._results:
            together = [Cell(cell.family, other) for other in WEIGHTS]
            self._convert(cell, [other for other in together if other != cell] if cell in together else [])
        return self._results[cell]

    def _quantising(self, cell: Cell) -> dict[str, object]:
        writes = cell.family.model_type is ModelType.LLM
        if not writes and not (self._root / "samples").exists():
            in_child(_write_samples, self._root / "samples")
        return {
            "quant_mode": cell.precision,
            "dataset": "auto" if writes else "path:samples",
            "num_samples": 2,
        }

    def _convert(self, cell: Cell, others: list[Cell]) -> None:
        wanted = Wanted(
            model=self.source(cell.family),
            workspace=self._root / "results" / str(cell),
            model_type=cell.family.model_type,
            precision=cell.precision,
            device=cell.device,
            config=self._quantising(cell) if cell.mode else {},
            siblings=tuple({"precision": other.precision} for other in others),
            settings={"MODELS_DIR": str(self._root)},
        )
        ended = in_child(convert, wanted)
        assert isinstance(ended, Conversion)
        assert (ended.error, ended.text) == (None, "")
        folders = (wanted.output, *(wanted.sibling(number) for number in range(len(others))))
        for made, folder, evidence in zip((cell, *others), folders, ended.evidence, strict=True):
            if evidence is not None and made not in self._results:
                self._results[made] = Result(folder, evidence)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=[pytest.mark.slow] if cell.is_slow else [], id=str(cell)) for cell in CELLS]
)
def test_a_model_is_converted_proven_and_opens(shop: Shop, cell: Cell) -> None:
    result = shop.result(cell)

    assert result.files == _files(cell)
    weights = [check for check in result.evidence.checks if " has " in check]
    assert sorted(one.split(" has ")[0] for one in weights) == sorted(_graphs(cell.family.model_type))
    assert any(f" has {_weights(cell)}" in one for one in weights), weights
    if cell.precision is Precision.INT4:
        assert any(re.search(r"\b[ui]4 \d", one) for one in weights) is cell.family.has_four_bits
    activations = cell.precision.value.rpartition("_")[2]
    assert any(one.endswith(f"and {activations} activations") for one in weights) is cell.mode
    assert in_child(_OPENERS[cell.family.model_type], result.folder) is not None


def test_only_npu_changes_the_recipe() -> None:
    compared = 0
    for kind in {family.model_type for family in FAMILIES}:
        for config in ({"precision": precision} for precision in (*WEIGHTS, Precision.NF4, Precision.CB4)):
            recipe = normalise(kind, "CPU", config)[:2]
            for device in ("GPU", "GPU.1", "HETERO:GPU,CPU"):
                assert normalise(kind, device, config)[:2] == recipe
                compared += 1
    assert compared == 8 * 6 * 3


def test_a_model_for_another_device_is_the_same_model(shop: Shop) -> None:
    family = FAMILIES[0]
    for_cpu, for_gpu = (shop.result(Cell(family, Precision.INT4, device=device)) for device in ("CPU", "GPU"))
    assert for_cpu.files == for_gpu.files
    # Nameless nodes are numbered by what came before them, so the graphs are equal but for names.
    assert _digests(for_cpu.folder, but=".xml") == _digests(for_gpu.folder, but=".xml")
    assert in_child(_write_text, for_gpu.folder, "HETERO:CPU") is not None


def test_weights_in_several_files_give_the_same_model(shop: Shop, tmp_path: Path) -> None:
    family = FAMILIES[0]
    source = in_child(tiny_models.tiny_llama_sharded, tmp_path / "source")
    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=family.model_type)
    ended = in_child(convert, wanted)
    assert (ended.error, ended.text) == (None, "")
    whole = shop.result(Cell(family, Precision.INT8)).folder
    assert _digests(wanted.output)["openvino_model.bin"] == _digests(whole)["openvino_model.bin"]


def test_minilm_in_int8_says_what_the_original_says(tmp_path: Path) -> None:
    source = tiny_models.minilm_repo(tmp_path / "hub")

    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=ModelType.EMBEDDINGS)
    ended, closest = in_child(_convert_and_compare, wanted)

    assert ended.error is None, ended.text
    assert min(closest) >= 0.99


def _weights(cell: Cell) -> str:
    """How the check names the weights of a cell, in the part that it is about."""
    sign = "sym" if cell.device == "NPU" else "asym"
    name = cell.precision.value
    weights = name.rpartition("_")[0]
    if cell.mode:
        return f"{weights}_{sign} weights" if weights == "int4" else f"{weights or 'quantised'} weights"
    if name.startswith("fp"):
        return f"uncompressed weights (f{name.removeprefix('fp')} 9"
    return f"{name}_{sign} weights" if name.startswith("int") else f"{name} weights"


_PLAIN = {"README.md", "config.json"}
_TEXT = {"tokenizer.json", "tokenizer_config.json"}
_GRAPHS: dict[ModelType, tuple[str, ...]] = {
    ModelType.LLM: ("openvino_model",),
    ModelType.VLM: (
        "openvino_language_model",
        "openvino_text_embeddings_model",
        "openvino_vision_embeddings_model",
    ),
    ModelType.EMBEDDINGS: ("openvino_model",),
    ModelType.RERANK: ("openvino_model",),
    ModelType.IMAGE_GENERATION: tuple(
        f"{part}/openvino_model" for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    ),
    ModelType.TEXT2SPEECH: (
        "openvino_decoder_model",
        "openvino_encoder_model",
        "openvino_postnet",
        "openvino_vocoder",
    ),
    ModelType.SPEECH2TEXT: ("openvino_decoder_model", "openvino_encoder_model"),
    ModelType.VISION: ("openvino_model",),
}
_TOKENIZERS: dict[ModelType, tuple[str, ...]] = {
    ModelType.LLM: ("openvino_tokenizer", "openvino_detokenizer"),
    ModelType.VLM: ("openvino_tokenizer", "openvino_detokenizer"),
    ModelType.EMBEDDINGS: ("openvino_tokenizer",),
    ModelType.RERANK: ("openvino_tokenizer",),
    ModelType.IMAGE_GENERATION: ("tokenizer/openvino_tokenizer", "tokenizer/openvino_detokenizer"),
    ModelType.TEXT2SPEECH: ("openvino_tokenizer", "openvino_detokenizer"),
    ModelType.SPEECH2TEXT: ("openvino_tokenizer", "openvino_detokenizer"),
    ModelType.VISION: (),
}
_PAPERS: dict[ModelType, set[str]] = {
    ModelType.LLM: _PLAIN | _TEXT | {"chat_template.jinja", "generation_config.json"},
    ModelType.VLM: _PLAIN
    | _TEXT
    | {"chat_template.jinja", "generation_config.json", "preprocessor_config.json", "processor_config.json"},
    ModelType.EMBEDDINGS: _PLAIN | _TEXT,
    ModelType.RERANK: _PLAIN | _TEXT,
    ModelType.IMAGE_GENERATION: {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        *(f"{part}/config.json" for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder")),
    },
    ModelType.TEXT2SPEECH: _PLAIN
    | {
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "spm_char.model",
        "tokenizer_config.json",
    },
    ModelType.SPEECH2TEXT: _PLAIN
    | _TEXT
    | {"generation_config.json", "preprocessor_config.json", "processor_config.json"},
    ModelType.VISION: _PLAIN | {"preprocessor_config.json"},
}


def _graphs(model_type: ModelType) -> tuple[str, ...]:
    return _GRAPHS[model_type]


def _files(cell: Cell) -> set[str]:
    """Everything that a conversion leaves, and nothing else."""
    kind = cell.family.model_type
    graphs = {f"{graph}.{end}" for graph in (*_GRAPHS[kind], *_TOKENIZERS[kind]) for end in ("xml", "bin")}
    settings = set() if cell.precision in {Precision.FP16, Precision.FP32} else {"openvino_config.json"}
    return graphs | _PAPERS[kind] | settings


def _digests(folder: Path, but: str = "") -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != but
    }


def _write_samples(folder: Path) -> None:
    """What each type can be calibrated with, in one folder."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(SENTENCES) + "\n")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", np.sin(np.arange(16_000) / (20 + number)).astype(np.float32))


# How each type is opened, in a process of its own. What they return is not None.


def _write_text(folder: Path, device: str = "CPU") -> str:
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(folder), device)
    answer = pipeline.generate("A ferry carries", max_new_tokens=4, ignore_eos=True)
    return str(answer)


def _write_of_a_picture(folder: Path) -> int:
    import numpy as np
    import openvino as ov
    import openvino_genai

    picture = np.random.default_rng(0).integers(0, 255, (1, 60, 90, 3), dtype=np.uint8)
    pipeline = openvino_genai.VLMPipeline(str(folder), "CPU")
    answer = pipeline.generate("What is it?", images=[ov.Tensor(picture)], max_new_tokens=4, ignore_eos=True)
    count = answer.perf_metrics.get_num_generated_tokens()
    assert count == 4
    return count


def _embed(folder: Path) -> tuple[int, ...]:
    import numpy as np
    import openvino_genai

    pipeline = openvino_genai.TextEmbeddingPipeline(str(folder), "CPU")
    vectors = np.array(pipeline.embed_documents(SENTENCES))
    assert vectors.shape == (len(SENTENCES), 64)
    assert np.isfinite(vectors).all()
    return vectors.shape


def _score(folder: Path) -> float:
    """As the model server's own calculator does it: tokens without special ones, put together by hand."""
    import numpy as np
    import openvino as ov
    import openvino_tokenizers  # noqa: F401

    core = ov.Core()
    tokens = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")(["a ferry", "over the water"])
    ids = np.concatenate([row[row > 0] for row in tokens["input_ids"]])[np.newaxis, :]
    plain = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    scores = core.compile_model(folder / "openvino_model.xml", "CPU")(plain)[0]
    assert scores.shape == (1, 1)
    assert np.isfinite(scores).all()
    return float(scores[0, 0])


def _paint(folder: Path) -> tuple[int, ...]:
    import numpy as np
    import openvino_genai

    pipeline = openvino_genai.Text2ImagePipeline(str(folder), "CPU")
    picture = np.array(pipeline.generate("a ferry", width=64, height=64, num_inference_steps=2).data)
    assert picture.shape == (1, 64, 64, 3)
    assert picture.std() > 1
    return picture.shape


def _speak(folder: Path) -> int:
    import numpy as np
    import openvino as ov
    import openvino_genai

    voice = ov.Tensor(np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32))
    spoken = openvino_genai.Text2SpeechPipeline(str(folder), "CPU").generate("A ferry.", speaker_embedding=voice)
    sound = np.array(spoken.speeches[0].data)
    assert sound.size > 0
    assert np.isfinite(sound).all()
    return sound.size


def _listen(folder: Path) -> str:
    import numpy as np
    import openvino_genai

    sound = np.sin(np.arange(16_000) / 20).astype(np.float32)
    heard = openvino_genai.WhisperPipeline(str(folder), "CPU").generate(sound.tolist(), max_new_tokens=8)
    assert heard.texts[0]
    return heard.texts[0]


def _look(folder: Path) -> dict[str, tuple[int, ...]]:
    import numpy as np
    import openvino as ov

    model = ov.Core().compile_model(folder / "openvino_model.xml", "CPU")
    sizes = [size.get_length() if size.is_static else 64 for size in list(model.input(0).get_partial_shape())[2:]]
    picture = np.random.default_rng(0).random((1, 3, *sizes), np.float32)
    answers = {port.get_any_name(): np.array(value) for port, value in model({"pixel_values": picture}).items()}
    if "pred_boxes" in answers:
        assert answers["logits"].shape == (1, 10, 11)
        assert ((answers["pred_boxes"] >= 0) & (answers["pred_boxes"] <= 1)).all()
    else:
        assert answers["logits"].shape == (1, 10)
    assert all(np.isfinite(answer).all() for answer in answers.values())
    return {name: answer.shape for name, answer in answers.items()}


_OPENERS: dict[ModelType, Callable[[Path], object]] = {
    ModelType.LLM: _write_text,
    ModelType.VLM: _write_of_a_picture,
    ModelType.EMBEDDINGS: _embed,
    ModelType.RERANK: _score,
    ModelType.IMAGE_GENERATION: _paint,
    ModelType.TEXT2SPEECH: _speak,
    ModelType.SPEECH2TEXT: _listen,
    ModelType.VISION: _look,
}


def _convert_and_compare(wanted: Wanted) -> tuple[Conversion, list[float]]:
    import numpy as np
    import openvino_genai
    import torch
    from transformers import AutoModel, AutoTokenizer

    ended = convert(wanted)
    if ended.error is not None:
        return ended, []
    config = openvino_genai.TextEmbeddingPipeline.Config()
    config.pooling_type = openvino_genai.TextEmbeddingPipeline.PoolingType.MEAN
    config.normalize = True
    pipeline = openvino_genai.TextEmbeddingPipeline(str(wanted.output), "CPU", config)
    ours = np.array(pipeline.embed_documents(SENTENCES))

    tokens = AutoTokenizer.from_pretrained(wanted.model)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(wanted.model)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    theirs = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    return ended, [float(value) for value in (ours * theirs).sum(axis=1)]
