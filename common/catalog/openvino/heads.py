"""Tells what a model of transformers is for, by the classes that it was saved from and the papers beside it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from common.catalog.openvino.capabilities import tasks_of
from common.errors import UnsupportedModel
from common.plugins import Dossier
from common.vocabulary import ModelType

TASKS: Mapping[ModelType, str] = {
    ModelType.LLM: "text-generation-with-past",
    ModelType.VLM: "image-text-to-text",
    ModelType.EMBEDDINGS: "feature-extraction",
    ModelType.RERANK: "text-classification",
    ModelType.IMAGE_GENERATION: "text-to-image",
    ModelType.TEXT2SPEECH: "text-to-audio",
    ModelType.SPEECH2TEXT: "automatic-speech-recognition-with-past",
    ModelType.VISION: "image-classification",
}
"""What the tools call the usual conversion of each type."""

_DETECTION = "object-detection"
_LISTENING = "automatic-speech-recognition-with-past"
_SEEING = "image-text-to-text"

_CLASSIFIER = "ForSequenceClassification"
_WRITERS = ("ForCausalLM", "LMHeadModel", "LMHead")
_ANSWERERS = ("ForConditionalGeneration", "ForImageTextToText", "ForSpeechSeq2Seq", *_WRITERS)
_SPEAKERS = ("ForTextToSpeech", "ForTextToSpectrogram", "ForTextToWaveform")
_GUESSERS = ("ForMaskedLM", "ForPreTraining")
_WRITING_MODES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
_TEXT_TASKS = frozenset({"fill-mask", "text-classification", "text-generation", "question-answering"})

_DEFAULT_LABELS = 2
_MOST_LABELS = 2
_MANY_LABELS = 1_000_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_MOST_NAMED = 5
_KEPT_MODULES = frozenset({"Transformer", "Pooling", "Normalize", "Dropout"})
"""The parts of a sentence-transformers model that a model server knows, or that change nothing."""


class Heads(msgspec.Struct, frozen=True, kw_only=True):
    """A model of transformers, as its papers describe it."""

    config: Mapping[str, object]
    architecture: str
    classes: tuple[str, ...]
    own_classes: tuple[str, ...]
    """By what transformers' auto classes can load the repository's own code."""

    @property
    def shown(self) -> str:
        """The model in words."""
        head = f" with the head {', '.join(self.classes)}" if self.classes else ""
        return f"A '{self.architecture}' model{head}"

    def ends(self, *endings: str) -> bool:
        """Whether one of the classes has such a name."""
        return any(name.endswith(endings) for name in self.classes)

    @property
    def tasks(self) -> frozenset[str]:
        """What models of this architecture can be converted for, somewhere."""
        return tasks_of("transformers", self.architecture)

    @property
    def labels(self) -> int:
        """How many classes it tells apart."""
        named, counted = self.config.get("id2label"), self.config.get("num_labels")
        if isinstance(named, Mapping):
            return len(named)
        return counted if isinstance(counted, int) and 0 < counted < _MANY_LABELS else _DEFAULT_LABELS


def evident_type(heads: Heads, dossier: Dossier) -> ModelType:
    """The type of a model, where its papers tell. Raises UnsupportedModel where they do not."""
    if is_cross_encoder(heads, dossier):
        return ModelType.RERANK
    kind = _kind(heads)
    if kind is ModelType.RERANK and heads.labels != 1:
        raise UnsupportedModel(
            f"{heads.shown} sorts texts into {heads.labels} classes; of those models, only rerankers can be served",
            hint="If it is a reranker nevertheless, give type 'rerank'.",
        )
    if is_sentence_model(dossier) and kind in {ModelType.LLM, ModelType.EMBEDDINGS, None}:
        return ModelType.EMBEDDINGS
    if kind is None:
        raise UnsupportedModel(
            f"{heads.shown} does not tell what it is for",
            hint=f"Give its 'type': one of {', '.join(TASKS)}.",
        )
    return kind


def refuse_misfit(heads: Heads, wanted: ModelType, dossier: Dossier) -> None:
    """Raise UnsupportedModel where a model cannot be of the wanted type.

    A head that the checkpoint does not have would be filled with random numbers, and nobody would notice.
    """
    misfit = _misfit(heads, wanted, dossier)
    if misfit is not None:
        raise UnsupportedModel(f"{heads.shown} {misfit}")


def task_of(heads: Heads, model_type: ModelType) -> str:
    """What the tools call the conversion."""
    return _DETECTION if model_type is ModelType.VISION and heads.ends("ForObjectDetection") else TASKS[model_type]


def is_sentence_model(dossier: Dossier) -> bool:
    """Whether sentence-transformers wrote it, which makes vectors of texts."""
    papers = ("modules.json", "config_sentence_transformers.json")
    return any(
        path in papers or (path.startswith("sentence_") and path.endswith("_config.json")) for path in dossier.sizes
    )


def is_cross_encoder(heads: Heads, dossier: Dossier) -> bool:
    """Whether sentence-transformers wrote it as a reranker."""
    return _sentence_kind(dossier) == "CrossEncoder" and heads.ends(_CLASSIFIER)


def _kind(heads: Heads) -> ModelType | None:
    """The type by the classes alone."""
    return next((model_type for fits, model_type in _KINDS if fits(heads)), None)


def _sees(heads: Heads) -> bool:
    if isinstance(heads.config.get("vision_config"), Mapping):
        return heads.ends(*_ANSWERERS) or _SEEING in heads.tasks
    return _SEEING in heads.tasks and not ("text-generation" in heads.tasks and heads.ends(*_WRITERS))


def _writes(heads: Heads) -> bool:
    return heads.ends(*_WRITERS) or any(mode in _WRITING_MODES for mode in heads.own_classes)


def _reads(heads: Heads) -> bool:
    """Whether it makes vectors of the tokens of a text: not of pictures or sounds, nor only to write another text."""
    answers_only = "text2text-generation" in heads.tasks
    return "feature-extraction" in heads.tasks and bool(_TEXT_TASKS & heads.tasks) and not answers_only


_KINDS: tuple[tuple[Callable[[Heads], bool], ModelType], ...] = (
    (lambda heads: heads.ends(_CLASSIFIER), ModelType.RERANK),
    (lambda heads: heads.ends("ForImageClassification", "ForObjectDetection"), ModelType.VISION),
    (lambda heads: heads.ends(*_SPEAKERS), ModelType.TEXT2SPEECH),
    (_sees, ModelType.VLM),
    (lambda heads: _LISTENING in heads.tasks and heads.ends(*_ANSWERERS), ModelType.SPEECH2TEXT),
    (_writes, ModelType.LLM),
    (lambda heads: _reads(heads) and heads.ends("Model"), ModelType.EMBEDDINGS),
)
"""How the classes show a type; the first that fits."""


def _misfit(heads: Heads, wanted: ModelType, dossier: Dossier) -> str | None:
    """What is wrong with a wish, in words that follow the model's name."""
    kind = _kind(heads)
    if wanted is ModelType.EMBEDDINGS:
        return _no_embeddings(heads, kind, dossier)
    if wanted is ModelType.RERANK:
        return _no_reranker(heads, kind)
    if wanted is kind or not heads.classes:
        return None
    lack = _LACKS.get(wanted, "cannot be converted to that type")
    other = f"; use type '{kind}'" if {wanted, kind} == {ModelType.LLM, ModelType.VLM} else ""
    return lack + other


_LACKS: Mapping[ModelType, str] = {
    ModelType.LLM: "does not generate text",
    ModelType.VLM: "does not read pictures",
    ModelType.IMAGE_GENERATION: "does not draw pictures: it is no pipeline of diffusers",
    ModelType.TEXT2SPEECH: "does not speak",
    ModelType.SPEECH2TEXT: "does not write down speech in a form that can be served",
    ModelType.VISION: "does not classify pictures or find objects in them",
}


def _no_embeddings(heads: Heads, kind: ModelType | None, dossier: Dossier) -> str | None:
    """A model that writes has vectors too: those of its last layer."""
    if kind is ModelType.RERANK:
        return "scores texts; use type 'rerank'"
    if _sentence_kind(dossier) == "SparseEncoder":
        return "makes sparse vectors, which cannot be served"
    strange = _strange_modules(dossier)
    if strange:
        return f"makes its vectors with the parts {', '.join(strange)} of sentence-transformers, which would be lost"
    if not heads.classes or kind in {ModelType.EMBEDDINGS, ModelType.LLM} or heads.ends(*_GUESSERS):
        return None
    # An architecture that no table knows is refused later, with a better reason.
    return "makes no vectors of texts" if heads.tasks or not heads.ends("Model") else None


def _no_reranker(heads: Heads, kind: ModelType | None) -> str | None:
    if kind is ModelType.RERANK:
        many = heads.labels > _MOST_LABELS
        return f"sorts texts into {heads.labels} classes, and does not score them" if many else None
    if kind is ModelType.LLM:
        return (
            "does not score texts: it would have to be asked for its answer. A model server takes rerankers that were "
            "saved with a head for sequence classification; look for a variant named '-seq-cls'"
        )
    return "does not score texts" if heads.classes else None


def _sentence_kind(dossier: Dossier) -> object:
    said = dossier.documents.get("config_sentence_transformers.json")
    return cast("Mapping[str, object]", said).get("model_type") if isinstance(said, Mapping) else None


def _strange_modules(dossier: Dossier) -> Sequence[str]:
    """The parts of a sentence-transformers model that a conversion would leave out."""
    listed = dossier.documents.get("modules.json")
    kinds = [module.get("type") for module in listed if isinstance(module, Mapping)] if isinstance(listed, list) else []
    names = [kind.rpartition(".")[2] for kind in kinds if isinstance(kind, str)]
    return [name if _NAME.fullmatch(name) else "?" for name in names if name not in _KEPT_MODULES][:_MOST_NAMED]
