"""Finds out what a model is from the small files of its repository, before any weights are fetched."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from common.catalog.openvino.capabilities import is_known, is_known_class, tasks_of
from common.catalog.openvino.heads import TASKS, Heads, evident_type, refuse_misfit, task_of
from common.catalog.openvino.nature import Nature
from common.catalog.openvino.weights import (
    gguf_bytes,
    has_ir,
    has_originals,
    model_weights,
    pipeline_weights,
    size_of,
    weights_bytes,
)
from common.errors import UnsupportedModel
from common.plugins import Dossier
from common.vocabulary import ModelType

__all__ = ["PAPERS", "Nature", "detect", "weights_bytes"]

PAPERS: tuple[str, ...] = (
    "config.json",
    "model_index.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "*_Pooling/config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "openvino_config.json",
    "*.index.json",
)
"""The small files that tell what a model is, as patterns of fnmatch."""


def detect(dossier: Dossier, wanted: ModelType | None) -> Nature:
    """What the model is; of the wanted type, where one is given.

    Raises UnsupportedModel when the papers do not tell, or tell that the model cannot be of that type.
    """
    if wanted is not None and wanted not in TASKS:
        raise UnsupportedModel(f"Models of type '{wanted}' cannot be converted here")
    if has_ir(dossier):
        return _converted(dossier, wanted)
    if _INDEX in dossier.sizes:
        return _pipeline(dossier, wanted)
    if any(path.endswith(".gguf") for path in dossier.sizes) and not has_originals(dossier):
        return _gguf(dossier, wanted)
    return _original(dossier, wanted)


_CONFIG = "config.json"
_INDEX = "model_index.json"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_MOST_CLASSES = 20

_PAPERS_WITH_CODE: Mapping[str, tuple[str, ...]] = {
    "tokenizer_config.json": ("AutoTokenizer",),
    "preprocessor_config.json": ("AutoImageProcessor", "AutoFeatureExtractor", "AutoProcessor"),
    "processor_config.json": ("AutoProcessor",),
}
_TELLS_CLASS: Mapping[str, tuple[str, ...]] = {
    "AutoTokenizer": ("tokenizer_class",),
    "AutoImageProcessor": ("image_processor_type", "feature_extractor_type"),
    "AutoFeatureExtractor": ("feature_extractor_type", "image_processor_type"),
    "AutoProcessor": ("processor_class",),
}
_OWN_BACKBONE = frozenset({"yolos"})


def _original(dossier: Dossier, wanted: ModelType | None) -> Nature:
    """A model of transformers."""
    heads = _heads(dossier)
    model_type = _checked_type(heads, wanted, dossier)
    weights = model_weights(dossier)
    task = task_of(heads, model_type)
    return Nature(
        model_type=model_type,
        task=task,
        library="transformers",
        architecture=heads.architecture,
        classes=heads.classes,
        form="transformers",
        brings_code=_needed_code(heads, dossier),
        pickled=weights.pickled,
        weights_bytes=size_of(dossier, weights.files),
        needs=("timm",) if task == "object-detection" and _has_timm_backbone(heads) else (),
    )


def _pipeline(dossier: Dossier, wanted: ModelType | None) -> Nature:
    """A pipeline of diffusers."""
    if wanted not in {None, ModelType.IMAGE_GENERATION}:
        raise UnsupportedModel(
            f"This is a pipeline of diffusers, which draws pictures; it cannot be of type '{wanted}'"
        )
    index = _read(dossier, _INDEX)
    own = index.get("_class_name")
    named = own[-1] if isinstance(own, list) and own else own
    if not isinstance(named, str) or not _CLASS.fullmatch(named):
        raise UnsupportedModel("The repository has no usable model_index.json, so it is no pipeline of diffusers")
    task = _drawing_task(named)
    components = {name: kind for name, kind in index.items() if isinstance(kind, list) and _WORD.fullmatch(name)}
    weights = pipeline_weights(dossier, components)
    return Nature(
        model_type=ModelType.IMAGE_GENERATION,
        task=task,
        library="diffusers",
        architecture=named,
        classes=(named,),
        form="diffusers",
        brings_code=_pipeline_code(dossier, named, components, custom=isinstance(own, list)),
        pickled=weights.pickled,
        weights_bytes=size_of(dossier, weights.files),
    )


def _converted(dossier: Dossier, wanted: ModelType | None) -> Nature:
    """A model in OpenVINO's form."""
    draws = _INDEX in dossier.sizes
    architecture = "openvino"
    classes: tuple[str, ...] = ()
    if draws:
        model_type = ModelType.IMAGE_GENERATION
        task = TASKS[model_type]
    elif "openvino_language_model.xml" in dossier.sizes:
        model_type = ModelType.VLM
        task = TASKS[model_type]
    elif wanted is not None and not _read(dossier, _CONFIG):
        model_type, task = wanted, TASKS[wanted]
    else:
        heads = _heads(dossier)
        model_type = _checked_type(heads, wanted, dossier)
        task, architecture, classes = task_of(heads, model_type), heads.architecture, heads.classes
    if wanted not in {None, model_type}:
        raise UnsupportedModel(f"The repository holds a converted model of type '{model_type}', not '{wanted}'")
    return Nature(
        model_type=model_type,
        task=task,
        library="diffusers" if draws else "transformers",
        architecture=architecture,
        classes=classes,
        form="openvino",
        brings_code=None,
        pickled=False,
        weights_bytes=weights_bytes(dossier),
    )


def _gguf(dossier: Dossier, wanted: ModelType | None) -> Nature:
    """A model in llama.cpp's form. What reads it reads language models only."""
    if wanted not in {None, ModelType.LLM}:
        raise UnsupportedModel(f"A model in GGUF form can be converted as type 'llm' only, not as '{wanted}'")
    named = _read(dossier, _CONFIG).get("model_type")
    return Nature(
        model_type=ModelType.LLM,
        task=TASKS[ModelType.LLM],
        library="transformers",
        architecture=named if isinstance(named, str) and _WORD.fullmatch(named) else "gguf",
        classes=(),
        form="gguf",
        brings_code=None,
        pickled=False,
        weights_bytes=gguf_bytes(dossier),
    )


def _heads(dossier: Dossier) -> Heads:
    config = _read(dossier, _CONFIG)
    if not config:
        raise UnsupportedModel(
            "The repository has no usable config.json, so nothing tells what it holds: it is no model of transformers",
            hint="Name the repository of the original model, or give the 'type' of one that is converted already.",
        )
    if "pretrained_cfg" in config and "model_type" not in config:
        raise UnsupportedModel("This is a model of timm; such models cannot be converted here")
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not architecture:
        adapter = " It is an adapter for another model." if "adapter_config.json" in dossier.sizes else ""
        raise UnsupportedModel(f"The model's config.json names no model_type.{adapter}")
    if not _WORD.fullmatch(architecture):
        raise UnsupportedModel(f"The model's config.json names an impossible model_type: {architecture[:40]!r}")
    listed = config.get("architectures")
    classes = tuple(_class_names(listed))[:_MOST_CLASSES] if isinstance(listed, list) else ()
    own = config.get("auto_map")
    coded = isinstance(own, Mapping) and not is_known(architecture, classes)
    modes = tuple(_class_names(cast("Mapping[str, object]", own))) if coded else ()
    return Heads(config=config, architecture=architecture, classes=classes, own_classes=modes)


def _checked_type(heads: Heads, wanted: ModelType | None, dossier: Dossier) -> ModelType:
    model_type = evident_type(heads, dossier) if wanted is None else wanted
    refuse_misfit(heads, model_type, dossier)
    return model_type


def _needed_code(heads: Heads, dossier: Dossier) -> str | None:
    """Many repositories still carry code that transformers has long taken over; only what is needed counts."""
    if "auto_map" in heads.config and not is_known(heads.architecture, heads.classes):
        return "auto_map of config.json"
    for path, modes in _PAPERS_WITH_CODE.items():
        paper = _read(dossier, path)
        own = paper.get("auto_map")
        if isinstance(own, Mapping) and any(mode in own and not _has_known_class(paper, mode) for mode in modes):
            return f"auto_map of {path}"
    return None


def _has_known_class(paper: Mapping[str, object], mode: str) -> bool:
    """Whether transformers itself has the class that a paper names for this purpose."""
    names = [name for key in _TELLS_CLASS[mode] if isinstance(name := paper.get(key), str) and name]
    return any(is_known_class(name) or is_known_class(f"{name}Fast") for name in names)


def _pipeline_code(dossier: Dossier, named: str, components: Mapping[str, object], *, custom: bool) -> str | None:
    if custom:
        return "_class_name of model_index.json"
    for name, kind in components.items():
        module = kind[0] if isinstance(kind, list) and kind else None
        if isinstance(module, str) and f"{name}/{module}.py" in dossier.sizes:
            return f"{name}/{module[:100]}.py"
    unknown = not tasks_of("diffusers", named)
    return "pipeline.py" if unknown and "pipeline.py" in dossier.sizes else None


def _drawing_task(pipeline: str) -> str:
    """What the tools call the use of a pipeline; one that nobody knows is refused later, with the reason."""
    tasks = tasks_of("diffusers", pipeline)
    drawing = [task for task in ("text-to-image", "image-to-image", "inpainting", "fill") if task in tasks]
    if tasks and not drawing:
        raise UnsupportedModel(f"A {pipeline} does not draw pictures; it is for {', '.join(sorted(tasks))}")
    return drawing[0] if drawing else TASKS[ModelType.IMAGE_GENERATION]


def _has_timm_backbone(heads: Heads) -> bool:
    """Whether the part of a detector that looks at the picture is a model of timm; that is so where nothing is said."""
    if heads.architecture in _OWN_BACKBONE:
        return False
    backbone = heads.config.get("backbone_config")
    return not isinstance(backbone, Mapping) or backbone.get("model_type") == "timm_backbone"


def _class_names(names: Sequence[object] | Mapping[str, object]) -> list[str]:
    return [name for name in names if isinstance(name, str) and _CLASS.fullmatch(name)]


def _read(dossier: Dossier, path: str) -> Mapping[str, object]:
    """A paper, where it is an object of JSON; else nothing."""
    document = dossier.documents.get(path)
    return cast("Mapping[str, object]", document) if isinstance(document, dict) else {}
