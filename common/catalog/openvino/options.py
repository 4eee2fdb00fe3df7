"""How a client's config is sorted into what decides the converted bytes and what a model server is told."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping

import msgspec

from common.catalog.openvino.drafts import served_draft, settle_draft
from common.catalog.openvino.fields import (
    CALIBRATES_ITSELF,
    MAX_DOC_LENGTH,
    PATH_PREFIX,
    ModelKwargs,
    OpenVINOOptions,
    Verification,
    dataset_path,
)
from common.catalog.openvino.flags import model_kwargs, read_flags, to_argv
from common.catalog.openvino.rules import QUANT_MODES, SYNONYMS, TASKS, Form, complete, recipe_for
from common.catalog.openvino.serving import ServingOptions, serving_for
from common.catalog.openvino.values import pick
from common.errors import InvalidSpec, SourceUnsafe
from common.planning import flatten
from common.spec import check_file_path
from common.vocabulary import ModelType, Precision

__all__ = [
    "MAX_DOC_LENGTH",
    "PATH_PREFIX",
    "OpenVINOOptions",
    "Verification",
    "complete",
    "dataset_path",
    "model_kwargs",
    "normalise",
    "to_argv",
]


def normalise(
    model_type: ModelType | None, device: str, config: Mapping[str, object]
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    """Sort a client's config into (precision that will be used, OpenVINOOptions, ServingOptions), both as dicts.

    Equal wishes give equal dicts, however they were spelled. Without a type, `complete` has to follow once it is
    known; then the result is the same. Raises InvalidSpec.
    """
    given = _spellings(flatten(config))
    _refuse_unusable(given)
    wanted = _settled(given)
    npu = device == "NPU"
    form = _form(given, wanted, npu=npu)
    others = msgspec.structs.replace(wanted, weight_format=None, quant_mode=None)
    recipe: dict[str, object] = settle_draft(msgspec.to_builtins(recipe_for(form, npu=npu, wanted=others)))
    if model_type is not None:
        recipe = complete(model_type, npu, recipe)
    served = msgspec.structs.replace(_served(given), **served_draft(recipe))
    return form.precision, recipe, serving_for(model_type, device, served)


Spellings = Mapping[str, list[tuple[str, object]]]
"""Option -> (the key as it was written, its value), of every key that stands for it."""

# Keys of the wire contract that say nothing to this converter: clients send one config to every hub.
_ELSEWHERE = frozenset(
    {
        "device",
        "export_type",
        "model_group_id",
        "model_only",
        "model_type",
        "optimized_model_id",
        "overwrite_models",
        "post_processing",
        "quantize",
        "source_model",
        "target_device",
        "type",
        "version",
    }
)
_REFUSED: dict[str, str] = {
    "model": "what is converted is the 'name' of the request",
    "output": "where the model is published is decided by 'download_path', device, precision and name",
    "dataset_sha256": "the service finds it out by itself",
    "draft_models_path": "the service fills it in where 'draft_source_model' names a draft",
}
_EXTRA = "extra_quantization_params"
_RECIPE = frozenset(OpenVINOOptions.__struct_fields__) - _REFUSED.keys()
_SERVING = frozenset(ServingOptions.__struct_fields__) - served_draft({}).keys()
_KNOWN = sorted({"precision", *_RECIPE, *_SERVING, *_ELSEWHERE})
# Accepted, so that a command line can be taken over as it is, though they change nothing.
_WITHOUT_EFFECT = ("cache_dir", "framework")
NAMED_DATA = frozenset(
    {
        "c4",
        "c4-new",
        "coco",
        "conceptual_captions",
        "contextual",
        "gsm8k",
        "laion/220k-GPT4Vision-captions-from-LIVIS",
        "laion/filtered-wit",
        "librispeech",
        "textvqa",
        "wikitext2",
    }
)
"""The data sets that optimum knows by name, and would download."""
_NAMED_DATA_FOLDER = "datasets"


def _spellings(config: Mapping[str, object]) -> Spellings:
    found: dict[str, list[tuple[str, object]]] = {}
    for key, value in config.items():
        found.setdefault(key.removeprefix("--").replace("-", "_"), []).append((key, value))
    return found


def _refuse_unusable(given: Spellings) -> None:
    for name in sorted(given):
        key = given[name][0][0]
        if name in _REFUSED:
            raise InvalidSpec(f"'{key}' is not for a request: {_REFUSED[name]}")
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            advice = f" Did you mean '{near[0]}'?" if near else ""
            raise InvalidSpec(f"The OpenVINO converter has no option {key[:80]!r}.{advice}")


def _settled(given: Spellings) -> OpenVINOOptions:
    """The options that decide the bytes, from keys and flags alike. Raises InvalidSpec where two of them contradict."""
    said = [(name, key, value) for name in sorted(_RECIPE & given.keys()) for key, value in given[name]]
    flags = [found for name, _, value in said if name == _EXTRA for found in _flags(value).items()]
    said += [(name, _EXTRA, value) for name, value in flags]
    agreed = _agreed((name, key, _typed(name, value)) for name, key, value in said if name not in {_EXTRA, "vocoder"})
    kwargs = agreed.pop("model_kwargs", None)
    vocoders = [("vocoder", key, value) for name, key, value in said if name == "vocoder"]
    if isinstance(kwargs, ModelKwargs):
        vocoders.append(("vocoder", "model_kwargs", kwargs.vocoder))
        others = msgspec.structs.replace(kwargs, vocoder=None)
        agreed |= {} if others == ModelKwargs() else {"model_kwargs": others}
    agreed |= _agreed((name, key, _typed(name, value)) for name, key, value in vocoders if value is not None)
    return pick({name: value for name, value in agreed.items() if name not in _WITHOUT_EFFECT}, OpenVINOOptions)


def _served(given: Spellings) -> ServingOptions:
    """The options for the model server. Raises InvalidSpec where two of them contradict."""
    said = [(name, key, value) for name in sorted(_SERVING & given.keys()) for key, value in given[name]]
    return pick(
        _agreed((name, key, getattr(pick({name: value}, ServingOptions), name)) for name, key, value in said),
        ServingOptions,
    )


def _flags(text: object) -> dict[str, object]:
    flags = read_flags(pick({_EXTRA: text}, OpenVINOOptions).extra_quantization_params or "")
    for name in sorted(flags.keys() & _REFUSED.keys()):
        raise InvalidSpec(f"'{_EXTRA}' must not hold '--{name}': {_REFUSED[name]}")
    return flags


def _agreed(said: Iterable[tuple[str, str, object]]) -> dict[str, object]:
    agreed: dict[str, object] = {}
    for name, key, value in said:
        if name in agreed and agreed[name] != value:
            raise InvalidSpec(f"'{key}' contradicts '{name}'")
        agreed[name] = value
    return agreed


def _form(given: Spellings, wanted: OpenVINOOptions, *, npu: bool) -> Form:
    """What weights and activations become. Raises InvalidSpec where the words for it contradict each other."""
    said = {key: _precision(value) for key, value in given.get("precision", ())}
    said |= {
        name: Precision(word)
        for name, word in (("weight_format", wanted.weight_format), ("quant_mode", wanted.quant_mode))
        if word is not None
    }
    if len(set(said.values())) > 1:
        words = ", ".join(f"'{key}' is {precision}" for key, precision in said.items())
        raise InvalidSpec(f"The number format is told in ways that contradict each other: {words}")
    precision = next(iter(said.values()), Precision.INT8)
    activations = wanted.quant_mode is not None or precision in QUANT_MODES
    if npu and activations:
        raise InvalidSpec("'quant_mode' is not for device 'NPU', which wants 4 bits for weights alone")
    if npu and precision is not Precision.NF4:
        precision = Precision.INT4
    return Form(precision, activations)


def _precision(value: object) -> Precision:
    try:
        return Precision(str(_word(value)))
    except ValueError as error:
        raise InvalidSpec(f"Invalid precision {str(value)[:40]!r}") from error


def _typed(name: str, value: object) -> object:
    """One value as its option has it. Raises InvalidSpec."""
    read = _READERS.get(name)
    return getattr(pick({name: value if read is None else read(value)}, OpenVINOOptions), name)


def _word(value: object) -> object:
    """Neither case nor space around it counts."""
    return value.strip().lower() if isinstance(value, str) else value


def _task(value: object) -> object:
    """The task in optimum's own word; None for the one that is told by the model. Raises InvalidSpec."""
    if not isinstance(value, str) or value == "auto":
        return None if value == "auto" else value
    task = SYNONYMS.get(value, value)
    known = [name for tasks in TASKS.values() for name in tasks]
    if task not in known:
        raise InvalidSpec(f"'task' {value[:80]!r} is of no type that is converted here; known are {', '.join(known)}")
    return task


def _json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"'model_kwargs' is no JSON: {error}") from error


def _data(value: object) -> object:
    """`auto`, or the path of a file or folder after its mark: for a name, where such data lie. Raises InvalidSpec."""
    if not isinstance(value, str):
        return value
    known, _, _ = value.partition(":")
    if known == CALIBRATES_ITSELF:
        # Optimum takes a length here too, and writes texts of its own length all the same.
        return CALIBRATES_ITSELF
    if value.startswith(PATH_PREFIX):
        return PATH_PREFIX + _inside("dataset", value.removeprefix(PATH_PREFIX))
    if value in NAMED_DATA:
        # A conversion has no network, so an operator puts them there.
        return f"{PATH_PREFIX}{_NAMED_DATA_FOLDER}/{value}"
    if known in NAMED_DATA:
        raise InvalidSpec(f"'dataset' '{value[:80]}' must not tell a length: write {known}")
    raise InvalidSpec("'dataset' must be auto, or path: and a file or folder below MODELS_DIR, as path:texts/faq.txt")


def _statistics(value: object) -> object:
    return _inside("quantization_statistics_path", value) if isinstance(value, str) else value


def _inside(name: str, path: str) -> str:
    """A path below MODELS_DIR, as far as its text tells. Raises InvalidSpec."""
    tidy = path.removeprefix("./").removesuffix("/")
    try:
        return check_file_path(tidy)
    except SourceUnsafe as error:
        raise InvalidSpec(f"'{name}' must be a path relative to MODELS_DIR, without '..': {path[:80]!r}") from error


_READERS: Mapping[str, Callable[[object], object]] = {
    "dataset": _data,
    "model_kwargs": _json,
    "quant_mode": _word,
    "quantization_statistics_path": _statistics,
    "task": _task,
    "weight_format": _word,
}
