"""Judges a fetched model before anything heavy is done: what it is, and whether the tools can convert it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import transformers
from optimum.exporters.tasks import TasksManager
from packaging.version import Version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from common.errors import RemoteCodeRefused, UnsupportedModel
from common.vocabulary import ModelType

TASKS = {
    ModelType.LLM: "text-generation-with-past",
    ModelType.EMBEDDINGS: "feature-extraction",
    ModelType.RERANK: "text-classification",
}
"""What the tools call these types of models."""

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True)
class Judged:
    """A model that the tools can convert."""

    architecture: str
    """The name that transformers gives to the model's kind, such as `llama`."""
    task: str


def is_converted(model: Path) -> bool:
    """Whether the repository holds OpenVINO's form, and not the weights that it was made from."""
    has_weights = any(next(model.glob(pattern), None) for pattern in ("*.safetensors", "pytorch_model*.bin"))
    return (model / "openvino_model.xml").is_file() and not has_weights


def judge(model: Path, model_type: ModelType, *, trusted: bool) -> Judged:
    """Find the task of a model from its files. Raises UnsupportedModel or RemoteCodeRefused."""
    config = _read_config(model)
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not architecture:
        raise UnsupportedModel("The model's config.json names no model_type")
    classes = [name for name in cast("list[object]", config.get("architectures") or []) if isinstance(name, str)]
    if not trusted:
        _refuse_code(model, config, architecture, classes)
    if architecture not in CONFIG_MAPPING and not trusted:
        raise UnsupportedModel(f"transformers {transformers.__version__} does not know models of type '{architecture}'")
    _check_type(model_type, architecture, classes)
    task = _task(model_type, architecture)
    if not any(next(model.glob(pattern), None) for pattern in _WEIGHTS):
        raise UnsupportedModel("The repository holds no weights of a PyTorch model")
    return Judged(architecture=architecture, task=task)


def _read_config(model: Path) -> Mapping[str, object]:
    if (model / "model_index.json").exists():
        raise UnsupportedModel("This is an image generation pipeline; such models cannot be converted here")
    config = _read_json(model / "config.json")
    if config is None:
        raise UnsupportedModel("The repository has no usable config.json, so it is no model of transformers")
    return config


def _read_json(file: Path) -> Mapping[str, object] | None:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_code(model: Path, config: Mapping[str, object], architecture: str, classes: list[str]) -> None:
    """Many repositories still carry code that transformers has long taken over; only needing it is refused."""
    known = architecture in CONFIG_MAPPING and all(hasattr(transformers, name) for name in classes)
    if "auto_map" in config and not known:
        raise RemoteCodeRefused(f"Models of type '{architecture}' bring their own Python code, which is not run here")
    tokenizer = _read_json(model / "tokenizer_config.json") or {}
    own = tokenizer.get("auto_map")
    if isinstance(own, Mapping) and "AutoTokenizer" in own:
        kind = str(tokenizer.get("tokenizer_class", ""))
        if not any(hasattr(transformers, name) for name in (kind, f"{kind}Fast") if name):
            raise RemoteCodeRefused(f"The tokenizer '{kind}' brings its own Python code, which is not run here")


def _check_type(model_type: ModelType, architecture: str, classes: list[str]) -> None:
    """A head that the checkpoint does not have would be filled with random numbers, and nobody would notice."""
    if not classes:
        return
    shown = ", ".join(classes)
    classifies = any(name.endswith("ForSequenceClassification") for name in classes)
    writes = any("ForCausalLM" in name or "LMHead" in name for name in classes)
    match model_type:
        case ModelType.LLM if not writes:
            raise UnsupportedModel(f"A '{architecture}' model with the head {shown} does not generate text")
        case ModelType.RERANK if not classifies:
            raise UnsupportedModel(f"A '{architecture}' model with the head {shown} does not score texts")
        case ModelType.EMBEDDINGS if classifies:
            raise UnsupportedModel(f"A '{architecture}' model with the head {shown} scores texts; use type 'rerank'")
        case _:
            return


def _task(model_type: ModelType, architecture: str) -> str:
    task = TASKS.get(model_type)
    if task is None:
        raise UnsupportedModel(f"Models of type '{model_type}' cannot be converted here")
    try:
        known = TasksManager.get_supported_tasks_for_model_type(
            architecture, exporter="openvino", library_name="transformers"
        )
    except KeyError as error:
        raise UnsupportedModel(f"optimum-intel cannot convert models of type '{architecture}'") from error
    if task not in known:
        can = ", ".join(sorted(known)) or "nothing"
        raise UnsupportedModel(f"optimum-intel cannot convert '{architecture}' models for {task}; it can for: {can}")
    _check_bounds(architecture, known[task])
    return task


def _check_bounds(architecture: str, constructor: object) -> None:
    """The exporter of a model says which releases of transformers it was written for."""
    exporter = getattr(constructor, "func", constructor)
    here = Version(transformers.__version__)
    least, most = (getattr(exporter, f"{end}_TRANSFORMERS_VERSION", None) for end in ("MIN", "MAX"))
    if (least and here < Version(str(least))) or (most and here > Version(str(most))):
        bounds = " and ".join(text for text in (least and f"at least {least}", most and f"at most {most}") if text)
        raise UnsupportedModel(
            f"Converting '{architecture}' models takes transformers of {bounds}; installed is {here}",
        )
