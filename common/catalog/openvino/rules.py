"""Which options go with which number format, and with which type of model.

The tools would tell most of this only after the model was fetched and traced, and pass over the rest in silence.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from common.catalog.openvino.fields import CALIBRATES_ITSELF, MAX_DOC_LENGTH, OpenVINOOptions
from common.catalog.openvino.values import without_none
from common.errors import InvalidSpec
from common.spec import Target
from common.vocabulary import ModelType, Precision

QUANT_MODES = frozenset(
    {
        Precision.F8E4M3,
        Precision.F8E5M2,
        Precision.CB4_F8E4M3,
        Precision.INT4_F8E4M3,
        Precision.INT4_F8E5M2,
    }
)
"""The formats that are for activations too. INT8 may be either."""

TASKS: Mapping[ModelType, tuple[str, ...]] = {
    ModelType.LLM: ("text-generation-with-past", "text-generation"),
    ModelType.VLM: ("image-text-to-text",),
    ModelType.EMBEDDINGS: ("feature-extraction",),
    ModelType.RERANK: ("text-classification",),
    ModelType.IMAGE_GENERATION: ("text-to-image", "image-to-image", "inpainting", "fill"),
    ModelType.TEXT2SPEECH: ("text-to-audio",),
    ModelType.SPEECH2TEXT: ("automatic-speech-recognition-with-past", "automatic-speech-recognition"),
    ModelType.VISION: ("image-classification", "object-detection"),
}
"""What a model of each type may be exported for, in optimum's words; the usual task first."""

SYNONYMS: Mapping[str, str] = {
    "audio-ctc": "automatic-speech-recognition",
    "causal-lm": "text-generation",
    "causal-lm-with-past": "text-generation-with-past",
    "default": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "latent-consistency": "text-to-image",
    "mask-generation": "feature-extraction",
    "pretraining": "feature-extraction",
    "sentence-similarity": "feature-extraction",
    "sequence-classification": "text-classification",
    "speech2seq-lm": "automatic-speech-recognition",
    "speech2seq-lm-with-past": "automatic-speech-recognition-with-past",
    "stable-diffusion": "text-to-image",
    "stable-diffusion-xl": "text-to-image",
    "text-to-speech": "text-to-audio",
    "zero-shot-classification": "text-classification",
}
"""Optimum's other names for these tasks."""


class Form(NamedTuple):
    """What weights and activations become."""

    precision: Precision
    activations: bool

    @property
    def words(self) -> str:
        """As a client writes it."""
        return f"quant_mode '{self.precision}'" if self.activations else f"precision '{self.precision}'"


def recipe_for(form: Form, *, npu: bool, wanted: OpenVINOOptions) -> dict[str, object]:
    """The wish in full, without what changes nothing. Equal wishes give equal recipes. Raises InvalidSpec."""
    said = without_none(wanted)
    quantising = {name: value for name, value in said.items() if name in _QUANTISING}
    recipe = _defaults(form, npu=npu) | _effective(form, quantising)
    recipe = {name: value for name, value in recipe.items() if value is not False or name == "sym"}
    _check(form, recipe)
    if not form.activations and not _looks_at_data(recipe):
        recipe = {name: value for name, value in recipe.items() if name not in _DATA}
    if form.activations:
        recipe["quant_mode"] = form.precision.value
    return recipe | {name: value for name, value in said.items() if name not in _QUANTISING and value is not False}


def complete(model_type: ModelType, target_device_is_npu: bool, recipe: Mapping[str, object]) -> dict[str, object]:
    """A recipe together with all that depends on the type of the model. Safe to repeat. Raises InvalidSpec."""
    done = {name: value for name, value in recipe.items() if value is not None}
    if target_device_is_npu and model_type not in _ON_NPU:
        raise InvalidSpec("NPU target device is only supported for 'llm' and 'vlm' model types.")
    _check_task(model_type, done.get("task"))
    if done.get("dataset") == CALIBRATES_ITSELF and model_type is not ModelType.LLM:
        raise InvalidSpec(
            "'dataset' 'auto' works for type 'llm' only, where the model itself writes the texts: "
            "name a file or folder below MODELS_DIR instead, as path:..."
        )
    if "dataset" in done and model_type is ModelType.TEXT2SPEECH:
        raise InvalidSpec(f"'dataset' is not for type '{model_type}': the tools cannot calibrate its models")
    if model_type is ModelType.IMAGE_GENERATION and done.get("quant_mode") in _MIXED:
        raise InvalidSpec(f"'quant_mode' '{done['quant_mode']}' is not for type '{model_type}'")
    if "vocoder" in done and model_type is not ModelType.TEXT2SPEECH:
        raise InvalidSpec(f"'vocoder' is for type '{ModelType.TEXT2SPEECH}' only")
    if "draft_source_model" in done and model_type is not ModelType.LLM:
        raise InvalidSpec(f"'draft_source_model' is for type '{ModelType.LLM}' only")
    longest = done.pop("max_doc_length", MAX_DOC_LENGTH)
    if model_type is ModelType.RERANK:
        done["max_doc_length"] = longest
    return done


def goes_along(target: Target, options: Mapping[str, object]) -> bool:
    """Whether a conversion may be made in one go with others of the same source: only its weights are changed."""
    needs_more = options.keys() & {*_DATA, *_ALGORITHMS, "quant_mode", "verify", "draft_source_model"}
    return target.precision in _FROM_ONE_TRACE and not needs_more and options.get("engine") != "strict"


def base(target: Target, options: Mapping[str, object]) -> tuple[Target, dict[str, object]] | None:
    """The form of a model from which this one can be made without its source: the same in FP16.

    None where only the source will do: for what looks at data, and for models of several parts.
    """
    fits = target.precision in _FROM_FP16 and target.model_type in _OF_ONE_PART
    if not fits or not goes_along(target, options):
        return None
    plain = {name: value for name, value in options.items() if name not in _QUANTISING}
    return msgspec.structs.replace(target, precision=Precision.FP16), plain


_FROM_FP16 = frozenset({Precision.INT4, Precision.INT8})
_OF_ONE_PART = frozenset({ModelType.LLM, ModelType.EMBEDDINGS, ModelType.RERANK})
_FROM_ONE_TRACE = frozenset({Precision.INT4, Precision.INT8, Precision.FP16, Precision.FP32})
_ON_NPU = frozenset({ModelType.LLM, ModelType.VLM})
_MIXED = frozenset({Precision.CB4_F8E4M3, Precision.INT4_F8E4M3, Precision.INT4_F8E5M2})

_ALGORITHMS = ("awq", "scale_estimation", "gptq", "lora_correction")
_WITHOUT_DATA = "weight_quantization_error"
_DATA = ("dataset", "num_samples", "quantization_statistics_path")
_WEIGHTS = ("ratio", "group_size", "group_size_fallback", "backup_precision", "all_layers", "sensitivity_metric")
_QUANTISING = frozenset({"sym", *_WEIGHTS, *_ALGORITHMS, *_DATA, "smooth_quant_alpha"})

_FULL = ("dataset", "num_samples", "smooth_quant_alpha")
TAKES: Mapping[Form, frozenset[str]] = {
    Form(Precision.INT4, activations=False): frozenset({"sym", *_WEIGHTS, *_ALGORITHMS, *_DATA}),
    Form(Precision.MXFP4, activations=False): frozenset({*_WEIGHTS, *_DATA}),
    Form(Precision.NF4, activations=False): frozenset({*_WEIGHTS, *_ALGORITHMS, *_DATA}),
    Form(Precision.CB4, activations=False): frozenset({*_WEIGHTS, *_ALGORITHMS, *_DATA}) - {"lora_correction"},
    Form(Precision.INT8, activations=False): frozenset({"sym"}),
    Form(Precision.FP16, activations=False): frozenset(),
    Form(Precision.FP32, activations=False): frozenset(),
    Form(Precision.INT4_F8E4M3, activations=True): frozenset({"sym", *_WEIGHTS, *_ALGORITHMS, *_DATA, *_FULL}),
    Form(Precision.INT4_F8E5M2, activations=True): frozenset({"sym", *_WEIGHTS, *_ALGORITHMS, *_DATA, *_FULL}),
    Form(Precision.CB4_F8E4M3, activations=True): frozenset({*_WEIGHTS, *_ALGORITHMS, *_DATA, *_FULL})
    - {"lora_correction"},
    Form(Precision.INT8, activations=True): frozenset({"sym", *_FULL}),
    Form(Precision.F8E4M3, activations=True): frozenset(_FULL),
    Form(Precision.F8E5M2, activations=True): frozenset(_FULL),
}
"""What of the options that quantise goes with each form."""

# What is symmetric anyway.
_SYMMETRIC = frozenset(form for form, names in TAKES.items() if "sym" not in names) - {
    Form(Precision.FP16, activations=False),
    Form(Precision.FP32, activations=False),
}
# What changes nothing, so that `--group-size -1` may be sent along with any precision.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "sym": (False,),
    "ratio": (1.0,),
    "group_size": (-1,),
    "all_layers": (False,),
    **dict.fromkeys(_ALGORITHMS, (False,)),
}
_BACKUP = {"backup_precision": "int8_asym"}
_DEFAULTS: Mapping[Precision, Mapping[str, object]] = {
    Precision.INT4: {"sym": False, "ratio": 1.0, "group_size": 128, "group_size_fallback": "adjust"} | _BACKUP,
    Precision.NF4: {"ratio": 1.0, "group_size": 128, "group_size_fallback": "adjust"} | _BACKUP,
    Precision.CB4: {"ratio": 1.0, "group_size": -1, "group_size_fallback": "adjust"} | _BACKUP,
    # The tools back these up in floats of 8 bits, which no option can name.
    Precision.MXFP4: {"ratio": 1.0, "group_size": 32},
    Precision.INT4_F8E4M3: {"sym": False, "ratio": 1.0, "group_size": 128, "group_size_fallback": "adjust"},
    Precision.INT4_F8E5M2: {"sym": False, "ratio": 1.0, "group_size": 128, "group_size_fallback": "adjust"},
    Precision.CB4_F8E4M3: {"ratio": 1.0, "group_size": -1, "group_size_fallback": "adjust"},
    Precision.INT8: {"sym": False},
}
_DEFAULTS_ON_NPU: Mapping[Precision, Mapping[str, object]] = {
    Precision.INT4: {"sym": True, "group_size": -1},
    Precision.NF4: {"group_size": -1},
}


def _defaults(form: Form, *, npu: bool) -> dict[str, object]:
    own = dict(_DEFAULTS.get(form.precision, {}))
    return own | dict(_DEFAULTS_ON_NPU.get(form.precision, {})) if npu else own


def _effective(form: Form, said: Mapping[str, object]) -> dict[str, object]:
    """What was said, without what changes nothing in this form. Raises InvalidSpec for what would need another."""
    takes = TAKES[form]
    # Clients send one config for all precisions, so data for a precision that looks at none is no mistake.
    silent = {"group_size_fallback"} if form.activations else {"group_size_fallback", *_DATA}
    for name, value in said.items():
        if name in takes or name in silent or value in _NEUTRAL.get(name, ()):
            continue
        if name == "sym" and form in _SYMMETRIC:
            continue
        raise InvalidSpec(f"'{name}' does not go with {form.words}; it needs {_needed(name)}")
    return {name: value for name, value in said.items() if name in takes}


def _needed(name: str) -> str:
    if name == "smooth_quant_alpha":
        return "a 'quant_mode'"
    *others, last = dict.fromkeys(f"'{form.precision}'" for form, names in TAKES.items() if name in names)
    return f"{', '.join(others)} or {last}" if others else last


def _check(form: Form, recipe: Mapping[str, object]) -> None:
    has_data = "dataset" in recipe
    if form.activations and not has_data:
        raise InvalidSpec(f"'quant_mode' needs {_ADVICE}")
    if form.precision is Precision.MXFP4:
        _check_mxfp4(recipe)
    # There are no activations by which an embedding could be corrected; nncf would fail for want of them.
    for name in ("gptq", "all_layers"):
        if name in recipe and "lora_correction" in recipe:
            raise InvalidSpec(f"'{name}' and 'lora_correction' exclude each other")
    for name in ("scale_estimation", "gptq", "lora_correction"):
        if name in recipe and not has_data:
            raise InvalidSpec(f"'{name}' needs {_ADVICE}")
    metric = recipe.get("sensitivity_metric", _WITHOUT_DATA)
    if metric != _WITHOUT_DATA and not has_data:
        raise InvalidSpec(f"'sensitivity_metric' '{metric}' needs {_ADVICE}")


_ADVICE = (
    'calibration data: add "dataset": "path:..." with a file or folder below MODELS_DIR, '
    'or for type \'llm\' "dataset": "auto"'
)


def _check_mxfp4(recipe: Mapping[str, object]) -> None:
    if recipe["group_size"] != 32:
        raise InvalidSpec("'group_size' is always 32 with precision 'mxfp4'")
    if recipe.get("group_size_fallback") == "adjust":
        raise InvalidSpec("'group_size_fallback' must be 'error' or 'ignore' with precision 'mxfp4'")


def _looks_at_data(recipe: Mapping[str, object]) -> bool:
    """Whether calibration data changes the weights."""
    if "dataset" not in recipe:
        return False
    if any(name in recipe for name in _ALGORITHMS):
        return True
    metric = recipe.get("sensitivity_metric")
    return metric != _WITHOUT_DATA and (metric is not None or recipe.get("ratio") != 1.0)


def _check_task(model_type: ModelType, task: object) -> None:
    tasks = TASKS.get(model_type, ())
    if task is not None and task not in tasks:
        raise InvalidSpec(f"'task' '{task}' does not go with type '{model_type}'; it takes {', '.join(tasks)}")
