"""Measures how much a converted model answers like its source, on a few inputs that are always the same."""

import gc
from pathlib import Path

import torch

from common.catalog.openvino import OpenVINOOptions
from common.errors import InvalidParameters, VerificationFailed
from common.spec import Similarity, Target
from common.vocabulary import ModelType
from worker.converters.openvino.similarity.comparing import Kept, compare, divergence, kept
from worker.converters.openvino.similarity.painting import Painter
from worker.converters.openvino.similarity.pictures import Describer, Viewer
from worker.converters.openvino.similarity.probing import Probe, Subject
from worker.converters.openvino.similarity.sound import Listener, Speaker
from worker.converters.openvino.similarity.text import Embedder, Ranker, Writer

__all__ = ["check_similarity", "divergence", "measure"]


def measure(
    model: Path,
    folder: Path,
    target: Target,
    options: OpenVINOOptions,
    *,
    samples: int,
    trusted: bool,
    vocoder: Path | None = None,
) -> Similarity:
    """Ask the source in `model`, and then its conversion in `folder`, the same `samples` questions.

    The source answers with torch in 32 bits, and is gone before the conversion is loaded. What a model is asked
    depends on its type, and so does the measure: what chooses among words, labels or scores is measured by `kl`, what
    gives vectors, latents or sound by `cosine`. Of a model with several parts the worst is told. `vocoder` is where the
    source of a speaker's vocoder lies, if not in its own folder `vocoder`; where there is none, it is left out.

    Raises InvalidParameters where there is no way to compare this model with its source, and VerificationFailed where
    the conversion answers with something else than numbers; a tool's own errors pass through.
    """
    kind = None if target.model_type is None else _PROBES.get(target.model_type)
    if kind is None:
        raise InvalidParameters(f"'verify' is not offered for models of type '{target.model_type}'")
    if options.library not in {None, *_LIBRARIES}:
        raise InvalidParameters(f"'verify' is not offered for models of the library '{options.library}'")
    if not _has_weights(model):
        raise InvalidParameters("'verify' has nothing to compare with: the repository holds no weights of PyTorch")
    probe = kind(
        Subject(model=model, folder=folder, options=options, trusted=trusted, samples=samples, vocoder=vocoder)
    )
    with torch.inference_mode():
        expected = _expected(probe)
        gc.collect()
        return compare(expected, probe.converted(), samples)


def check_similarity(similarity: Similarity, max_divergence: float) -> None:
    """Raise VerificationFailed where the answers are further apart than `max_divergence`."""
    apart = divergence(similarity)
    if apart <= max_divergence:
        return
    raise VerificationFailed(
        f"The converted model's answers to {similarity.samples} inputs diverge from the source's by {apart:.4g} "
        f"(a similarity of {similarity.value:.4f} by {similarity.measure}); 'max_divergence' allows {max_divergence:g}",
        hint="Nothing was published. Ask for a higher precision, or for less loss in this one: a smaller 'group_size', "
        "a lower 'ratio', 'awq' or 'scale_estimation'; or allow a larger 'max_divergence'.",
    )


def _expected(probe: Probe) -> list[Kept]:
    try:
        return [kept(answer) for answer in probe.original()]
    except ImportError as error:
        raise InvalidParameters(f"'verify' cannot run the source: it needs {error.name or error}") from error


_PROBES: dict[ModelType, type[Probe]] = {
    ModelType.LLM: Writer,
    ModelType.VLM: Describer,
    ModelType.EMBEDDINGS: Embedder,
    ModelType.RERANK: Ranker,
    ModelType.IMAGE_GENERATION: Painter,
    ModelType.TEXT2SPEECH: Speaker,
    ModelType.SPEECH2TEXT: Listener,
    ModelType.VISION: Viewer,
}
_LIBRARIES = ("transformers", "diffusers", "sentence_transformers")
_WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "pytorch_model*.bin", "diffusion_pytorch_model*.bin")


def _has_weights(model: Path) -> bool:
    return any(next(model.rglob(pattern), None) is not None for pattern in _WEIGHTS)
