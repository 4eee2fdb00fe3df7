"""Which files the result of each type of model has."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.catalog.openvino import OpenVINOOptions
from common.errors import OutputIncomplete, UnsupportedModel
from common.spec import Target
from common.vocabulary import ModelType

MODEL = "openvino_model"
TOKENIZER = "openvino_tokenizer"
DETOKENIZER = "openvino_detokenizer"
LANGUAGE = "openvino_language_model"
TEXT_EMBEDDINGS = "openvino_text_embeddings_model"
VISION_EMBEDDINGS = "openvino_vision_embeddings_model"
ENCODER = "openvino_encoder_model"
DECODER = "openvino_decoder_model"
WITH_PAST = "openvino_decoder_with_past_model"
POSTNET = "openvino_postnet"
VOCODER = "openvino_vocoder"
PREPROCESSOR = "preprocessor_config.json"
PIPELINE = "model_index.json"

_TOKENIZER_HINT = "The model's tokenizer cannot be converted: check that the repository holds its tokenizer files."
_PREPROCESSOR_HINT = "Check that the repository holds the settings of its preprocessor."
_VAE = ("vae_encoder", "vae_decoder")


def check_files(folder: Path, target: Target, options: OpenVINOOptions) -> None:
    """Raise OutputIncomplete unless everything that a model server opens is there and not empty.

    Raises UnsupportedModel for a type whose results nobody here knows.
    """
    kind = type_of(target)
    for name in _wanted(folder, kind, with_tokenizer=not options.disable_convert_tokenizer):
        _check(folder, name)
    for graph in graphs_of(folder, kind):
        _check(folder, f"{graph}.xml")
        _check(folder, f"{graph}.bin")


def type_of(target: Target) -> ModelType:
    """The type of model that is wanted. Raises UnsupportedModel where it is none that can be checked."""
    if target.model_type is None or target.model_type not in {*_LAYOUTS, ModelType.IMAGE_GENERATION}:
        raise UnsupportedModel(f"What a conversion of type '{target.model_type}' has to leave is not known here")
    return target.model_type


def graphs_of(folder: Path, kind: ModelType) -> tuple[str, ...]:
    """Every part of the model but tokenizers, first what must be there: the paths of its IR without their endings."""
    wanted = _pipeline(folder).graphs if kind is ModelType.IMAGE_GENERATION else _LAYOUTS[kind].graphs
    found = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("openvino_*.xml"))
    more = (graph for graph in found if Path(graph).name not in {TOKENIZER, DETOKENIZER})
    return tuple(dict.fromkeys((*wanted, *more)))


@dataclass(frozen=True)
class _Layout:
    graphs: tuple[str, ...]
    papers: tuple[str, ...] = ("config.json",)
    tokenizers: tuple[str, ...] = ()


_LAYOUTS = {
    ModelType.LLM: _Layout((MODEL,), tokenizers=(TOKENIZER, DETOKENIZER)),
    ModelType.VLM: _Layout(
        (LANGUAGE, TEXT_EMBEDDINGS, VISION_EMBEDDINGS), ("config.json", PREPROCESSOR), (TOKENIZER, DETOKENIZER)
    ),
    ModelType.EMBEDDINGS: _Layout((MODEL,), tokenizers=(TOKENIZER,)),
    ModelType.RERANK: _Layout((MODEL,), tokenizers=(TOKENIZER,)),
    ModelType.TEXT2SPEECH: _Layout((ENCODER, DECODER, POSTNET, VOCODER), ("config.json", PREPROCESSOR), (TOKENIZER,)),
    ModelType.SPEECH2TEXT: _Layout(
        (ENCODER, DECODER), ("config.json", "generation_config.json", PREPROCESSOR), (TOKENIZER, DETOKENIZER)
    ),
    ModelType.VISION: _Layout((MODEL,), ("config.json", PREPROCESSOR)),
}


def _pipeline(folder: Path) -> _Layout:
    """What a pipeline of diffusers has, as its own index tells."""
    _check(folder, PIPELINE)
    components = sorted(_components(folder))
    painters = [name for name in components if name in {"unet", "transformer"}]
    encoders = [name for name in components if name.startswith("text_encoder")]
    parts = [*encoders, *(painters or ["unet"]), *_VAE]
    papers = [PIPELINE, *(f"{part}/config.json" for part in parts)]
    if "scheduler" in components:
        papers.append("scheduler/scheduler_config.json")
    return _Layout(
        tuple(f"{part}/{MODEL}" for part in parts),
        tuple(papers),
        tuple(f"{name}/{TOKENIZER}" for name in components if name.startswith("tokenizer")),
    )


def _components(folder: Path) -> Iterator[str]:
    try:
        index = json.loads((folder / PIPELINE).read_bytes())
    except ValueError as error:
        raise OutputIncomplete(f"The conversion left a {PIPELINE} that is no JSON: {error}") from error
    for name, value in index.items():
        # Each is the library and the class of a component; an absent one has null for both.
        if isinstance(value, list) and any(value):
            yield name


def _wanted(folder: Path, kind: ModelType, *, with_tokenizer: bool) -> Iterator[str]:
    layout = _pipeline(folder) if kind is ModelType.IMAGE_GENERATION else _LAYOUTS[kind]
    yield from layout.papers
    for graph in (*layout.graphs, *(layout.tokenizers if with_tokenizer else ())):
        yield f"{graph}.xml"
        yield f"{graph}.bin"


def _check(folder: Path, name: str) -> None:
    file = folder / name
    if not file.is_file():
        raise OutputIncomplete(f"The conversion left no {name}", hint=_hint(name))
    if file.stat().st_size == 0:
        raise OutputIncomplete(f"The conversion left an empty {name}", hint=_hint(name))


def _hint(name: str) -> str | None:
    if Path(name).stem in {TOKENIZER, DETOKENIZER}:
        return _TOKENIZER_HINT
    return _PREPROCESSOR_HINT if name == PREPROCESSOR else None
