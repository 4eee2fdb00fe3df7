"""What is claimed to be convertible, and how each claim was tried: docs/conversion.md shows this as a table.

tests/integration/test_conversion.py converts every cell for real, has the converter prove it, and opens the result with
what stands in `runs`. There is a CPU only where the tests run, so the result for any device is run there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.vocabulary import ModelType, Precision
from tests.fakes import tiny_models

WEIGHTS = (Precision.INT8, Precision.INT4, Precision.FP16, Precision.FP32)
"""The number formats of weights that every type of model is converted to."""


@dataclass(frozen=True)
class Family:
    """Models of one architecture."""

    name: str
    model_type: ModelType
    make: Callable[..., Path]
    runs: str
    """What opens the result and lets it answer, beside the converter's own check."""
    precisions: tuple[Precision, ...] = WEIGHTS
    modes: tuple[Precision, ...] = ()
    """Those for activations too, calibrated with files below MODELS_DIR; for a type that writes text, with its own."""
    on_npu: bool = False
    has_four_bits: bool = True
    """Whether INT4 leaves any weight of 4 bits: convolutions, embeddings and the last layer get 8."""


@dataclass(frozen=True)
class Rule:
    """What a target device changes about a conversion."""

    device: str
    types: tuple[ModelType, ...]
    says: str
    tried: str


@dataclass(frozen=True)
class Cell:
    """One claim: models of this family, in this form, for this device."""

    family: Family
    precision: Precision
    device: str = "CPU"
    mode: bool = False
    """Activations are quantised too."""

    @property
    def is_slow(self) -> bool:
        """Whether it takes more than ten seconds to try."""
        return self.mode and self.family.model_type in {ModelType.IMAGE_GENERATION, ModelType.SPEECH2TEXT}

    def __str__(self) -> str:
        kind = "quant-mode-" if self.mode else ""
        return f"{self.family.name}-{kind}{self.precision}-{self.device}"


_INT8 = (Precision.INT8,)

FAMILIES = (
    Family(
        "Llama",
        ModelType.LLM,
        tiny_models.tiny_llama,
        "openvino_genai.LLMPipeline",
        (*WEIGHTS, Precision.NF4, Precision.CB4, Precision.MXFP4),
        (
            Precision.INT8,
            Precision.F8E4M3,
            Precision.F8E5M2,
            Precision.CB4_F8E4M3,
            Precision.INT4_F8E4M3,
            Precision.INT4_F8E5M2,
        ),
        on_npu=True,
    ),
    Family("LLaVA", ModelType.VLM, tiny_models.tiny_llava, "openvino_genai.VLMPipeline", modes=_INT8, on_npu=True),
    Family("BERT", ModelType.EMBEDDINGS, tiny_models.tiny_bert, "openvino_genai.TextEmbeddingPipeline", modes=_INT8),
    Family(
        "BERT classifier",
        ModelType.RERANK,
        tiny_models.tiny_reranker,
        "openvino, with tokens as the model server makes them",
        modes=_INT8,
    ),
    Family(
        "Stable Diffusion",
        ModelType.IMAGE_GENERATION,
        tiny_models.tiny_stable_diffusion,
        "openvino_genai.Text2ImagePipeline",
        modes=_INT8,
    ),
    Family("SpeechT5", ModelType.TEXT2SPEECH, tiny_models.tiny_speecht5, "openvino_genai.Text2SpeechPipeline"),
    Family("Whisper", ModelType.SPEECH2TEXT, tiny_models.tiny_whisper, "openvino_genai.WhisperPipeline", modes=_INT8),
    Family("ViT", ModelType.VISION, tiny_models.tiny_vit, "openvino", modes=_INT8),
    Family("ResNet", ModelType.VISION, tiny_models.tiny_resnet, "openvino", modes=_INT8, has_four_bits=False),
    Family("YOLOS", ModelType.VISION, tiny_models.tiny_yolos, "openvino"),
    Family("DETR", ModelType.VISION, tiny_models.tiny_detr, "openvino"),
)
TYPES = tuple(dict.fromkeys(family.model_type for family in FAMILIES))
RULES = (
    Rule("CPU", TYPES, "any number format", "converted and run"),
    Rule(
        "GPU, GPU.n, HETERO:...",
        TYPES,
        "the same files as for CPU; only what the model server is told differs",
        "recipes compared for each type, files for one model; run on CPU and HETERO:CPU",
    ),
    Rule(
        "NPU",
        (ModelType.LLM, ModelType.VLM),
        "always INT4: symmetric, one scale for each channel, ratio 1.0",
        "converted and run on CPU",
    ),
)


def _cells() -> Iterator[Cell]:
    for family in FAMILIES:
        for precision in family.precisions:
            yield Cell(family, precision)
        for precision in family.modes:
            yield Cell(family, precision, mode=True)
        if family.on_npu:
            yield Cell(family, Precision.INT4, device="NPU")


CELLS = tuple(_cells())
"""All that is claimed for CPU and NPU."""


def families_as_table() -> str:
    """The families as a table in Markdown, with what was tried for each."""
    rows = [
        (
            f"`{family.model_type}`",
            family.name,
            _listed(family.precisions) + ("" if family.has_four_bits else " (int4: all layers stay at 8 bits)"),
            _listed(family.modes),
            "int4" if family.on_npu else "",
            family.runs,
        )
        for family in FAMILIES
    ]
    return _table(("type", "architecture", "precision", "quant_mode", "for NPU", "opened and run with"), rows)


def rules_as_table() -> str:
    """What a target device changes, as a table in Markdown."""
    rows = [
        (rule.device, _listed(rule.types) if rule.types != TYPES else "all", rule.says, rule.tried) for rule in RULES
    ]
    return _table(("device", "types", "rule", "tried"), rows)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(words)


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = (heads, ("---",) * len(heads), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
