"""Proves that a converted model is whole, has the wanted precision, loads, and answers."""

from pathlib import Path

from common.catalog.openvino import OpenVINOOptions
from common.spec import Target
from common.vocabulary import ModelType
from worker.converters.openvino.check.files import DETOKENIZER, MODEL, TOKENIZER, check_files, graphs_of, type_of
from worker.converters.openvino.check.pictures import answer_picture, paint, write_of_picture
from worker.converters.openvino.check.running import EarlyLoads, Folder, same_tokens
from worker.converters.openvino.check.sound import listen, speak
from worker.converters.openvino.check.text import embed, score, write
from worker.converters.openvino.check.weights import check_weights, precision_of, quant_mode_of

__all__ = [
    "DETOKENIZER",
    "MODEL",
    "TOKENIZER",
    "EarlyLoads",
    "check_files",
    "check_run",
    "graphs_of",
    "precision_of",
    "quant_mode_of",
    "same_tokens",
]

_ANSWERS = {
    ModelType.LLM: write,
    ModelType.VLM: write_of_picture,
    ModelType.EMBEDDINGS: embed,
    ModelType.RERANK: score,
    ModelType.IMAGE_GENERATION: paint,
    ModelType.TEXT2SPEECH: speak,
    ModelType.SPEECH2TEXT: listen,
    ModelType.VISION: answer_picture,
}


def check_run(
    folder: Path, target: Target, options: OpenVINOOptions, early: EarlyLoads | None = None
) -> tuple[str, ...]:
    """Prove the precision of every part of a model, and let the whole answer once. Returns what was proven, in words.

    The folder has passed `check_files`. Options that are None are not held against the model: of one that was made
    elsewhere nobody knows them. Raises VerificationFailed; a tool's own errors pass through.
    """
    kind = type_of(target)
    weights = [check_weights(folder, graph, target, options) for graph in graphs_of(folder, kind)]
    return (*weights, *_ANSWERS[kind](Folder(folder, early)))
