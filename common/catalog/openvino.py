"""What may be asked of the OpenVINO converter: its options, and how a client's config is sorted into them."""

import argparse
import difflib
import shlex
from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn, TypeVar

import msgspec

from common.errors import InvalidSpec
from common.planning import flatten
from common.plugins import ConverterPlugin
from common.spec import MemoryRule, Spec
from common.vocabulary import Format, ModelType, Precision

S = TypeVar("S", bound=msgspec.Struct)

Positive = Annotated[int, msgspec.Meta(gt=0)]
Parser = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]

NAME = "openvino"
TOOLS = (
    "nncf",
    "openvino",
    "openvino-tokenizers",
    "optimum",
    "optimum-intel",
    "torch",
    "transformers",
)
"""The distributions whose versions decide the bytes of a result."""

MAX_DOC_LENGTH = 16000

MEMORY = MemoryRule(base_bytes=500_000_000, per_byte=2.2)
"""Our own measurement, of language models of 0.5 and 1.1 billion parameters in 16 bits: beside the libraries, the peak
was at most 2.2 times the source in FP16, INT8 and INT4, mapped files included; in FP32 2.3 times without them."""


class OpenVINOOptions(Spec, frozen=True):
    """What decides the converted bytes. Where nothing is given, `normalise` fills in the precision's own default."""

    sym: bool | None = None
    """Symmetric weights; the default is asymmetric."""
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The share of the layers that get 4 bits; the others keep the backup precision."""
    group_size: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    """How many weights share one scale; -1 is a whole channel."""
    group_size_fallback: Literal["error", "ignore", "adjust"] | None = None
    """What to do with a layer whose width the group size does not divide."""
    backup_precision: Literal["none", "int8_sym", "int8_asym"] | None = None
    """The form of embeddings, the last layer, and all that `ratio` leaves out."""
    all_layers: bool | None = None
    """4 bits for the embeddings and the last layer too."""
    awq: bool | None = None
    scale_estimation: bool | None = None
    gptq: bool | None = None
    lora_correction: bool | None = None
    sensitivity_metric: (
        Literal[
            "weight_quantization_error",
            "hessian_input_activation",
            "mean_activation_variance",
            "max_activation_variance",
            "mean_activation_magnitude",
        ]
        | None
    ) = None
    """How to choose the layers that `ratio` leaves out."""
    dataset: Literal["auto"] | None = None
    """`auto` calibrates on texts that the model itself writes. Named data sets would need a network."""
    num_samples: Positive | None = None
    extra_quantization_params: str | None = None
    """The options above as flags of optimum-cli, such as `--sym --ratio 1.0 --group-size -1`."""
    max_doc_length: Positive | None = None
    """The most tokens of one document that a reranker reads."""

    def __post_init__(self) -> None:
        if self.group_size == 0:
            msg = "group_size must be greater than 0, or -1"
            raise ValueError(msg)

    def resolved(self) -> "OpenVINOOptions":
        """The same wish, with the flags of `extra_quantization_params` in the fields they stand for.

        Raises InvalidSpec for a flag that is unknown or contradicts a field.
        """
        if self.extra_quantization_params is None:
            return self
        flags = _parse_flags(self.extra_quantization_params)
        for name, value in flags.items():
            given = getattr(self, name)
            if given is not None and given != value:
                raise InvalidSpec(f"'extra_quantization_params' contradicts '{name}'")
        return msgspec.structs.replace(self, **flags, extra_quantization_params=None)


class ServingOptions(Spec, frozen=True):
    """What the model server is told about a model. None is the server's own default."""

    cache_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The size of the KV cache in GB; 0 lets it grow."""
    kv_cache_precision: Literal["u8"] | None = None
    enable_prefix_caching: bool | None = None
    dynamic_split_fuse: bool | None = None
    max_num_batched_tokens: Positive | None = None
    max_num_seqs: Positive | None = None
    max_prompt_len: Positive | None = None
    """The longest prompt in tokens; for NPU only."""
    prompt_lookup_decoding: bool | None = None
    pipeline_type: Literal["LM", "LM_CB", "VLM", "VLM_CB", "AUTO"] | None = None
    reasoning_parser: Parser | None = None
    tool_parser: Parser | None = None
    enable_tool_guided_generation: bool | None = None
    normalize: bool | None = None
    """Embeddings of length 1; true unless told otherwise."""
    pooling: Literal["CLS", "LAST", "MEAN"] | None = None
    """How token vectors become one; what the model itself says, else CLS."""
    truncate: bool | None = None
    """Cut texts that are too long, instead of refusing them."""
    num_streams: Positive | None = None
    ov_cache_dir: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    """Where the model server keeps compiled models."""


def normalise(
    model_type: ModelType, precision: Precision, device: str, config: Mapping[str, object]
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    """Sort a client's config into (precision that will be used, OpenVINOOptions, ServingOptions), both as dicts.

    Equal wishes give equal dicts, however they were spelled. Raises InvalidSpec.
    """
    given = flatten(config)
    _refuse_unusable(model_type, given)
    precision = _precision(given, precision)
    if device == "NPU":
        if model_type not in _GENERATORS:
            raise InvalidSpec("NPU target device is only supported for 'llm' and 'vlm' model types.")
        precision = Precision.INT4
    recipe = _recipe(model_type, precision, device, _pick(given, OpenVINOOptions))
    serving = _serving(model_type, device, _pick(given, ServingOptions))
    return precision, recipe, serving


_GENERATORS = frozenset({ModelType.LLM, ModelType.VLM})

_GENERATION_FIELDS = frozenset(
    {
        "cache_size",
        "kv_cache_precision",
        "enable_prefix_caching",
        "dynamic_split_fuse",
        "max_num_batched_tokens",
        "max_num_seqs",
        "max_prompt_len",
        "prompt_lookup_decoding",
        "pipeline_type",
        "reasoning_parser",
        "tool_parser",
        "enable_tool_guided_generation",
        "ov_cache_dir",
    }
)
_SERVING_FIELDS: Mapping[ModelType, frozenset[str]] = {
    ModelType.LLM: _GENERATION_FIELDS,
    ModelType.VLM: _GENERATION_FIELDS,
    ModelType.EMBEDDINGS: frozenset({"normalize", "pooling", "truncate", "num_streams", "ov_cache_dir"}),
    ModelType.RERANK: frozenset({"num_streams", "ov_cache_dir"}),
}

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
        "precision",
        "quantize",
        "source_model",
        "target_device",
        "type",
        "version",
        "weight-format",
    }
)
_SPECULATIVE = frozenset({"draft_eagle3_mode", "draft_model_name", "draft_source_model"})

_ALGORITHMS = ("awq", "scale_estimation", "gptq", "lora_correction")
_NEEDS_DATA = ("scale_estimation", "gptq", "lora_correction")
# What changes nothing, so that `--group-size -1` may be sent along with any precision.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "sym": (False,),
    "ratio": (1.0,),
    "group_size": (-1,),
    "all_layers": (False,),
    **dict.fromkeys(_ALGORITHMS, (False,)),
}
_INT4_DEFAULTS: Mapping[str, object] = {
    "sym": False,
    "ratio": 1.0,
    "group_size": 128,
    "group_size_fallback": "adjust",
    "backup_precision": "int8_asym",
}


def _refuse_unusable(model_type: ModelType, given: Mapping[str, object]) -> None:
    known = {*OpenVINOOptions.__struct_fields__, *ServingOptions.__struct_fields__, *_ELSEWHERE}
    for key in sorted(given):
        if key in _SPECULATIVE:
            if model_type in _GENERATORS:
                raise InvalidSpec(f"'{key}' is not supported: a job converts one model, and no draft model beside it")
        elif key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1)
            advice = f" Did you mean '{near[0]}'?" if near else ""
            raise InvalidSpec(f"The OpenVINO converter has no option {key[:80]!r}.{advice}")


def _precision(given: Mapping[str, object], asked: Precision) -> Precision:
    named = given.get("precision", given.get("weight-format", asked))
    try:
        return Precision(str(named).strip().lower())
    except ValueError as error:
        raise InvalidSpec(f"Invalid precision {str(named)[:40]!r}") from error


def _pick(given: Mapping[str, object], options: type[S]) -> S:
    named = {key: value for key, value in given.items() if key in options.__struct_fields__}
    try:
        return msgspec.convert(named, options, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"Invalid option for '{NAME}': {error}") from error


def _recipe(model_type: ModelType, precision: Precision, device: str, options: OpenVINOOptions) -> dict[str, object]:
    wanted = _without_none(options.resolved())
    documents = wanted.pop("max_doc_length", None)
    match precision:
        case Precision.INT4:
            recipe = _int4(model_type, device, wanted)
        case Precision.INT8:
            recipe = {"sym": False, **_only(("sym",), precision, wanted)}
        case _:
            recipe = _only((), precision, wanted)
    if model_type is ModelType.RERANK:
        recipe["max_doc_length"] = documents or MAX_DOC_LENGTH
    return recipe


def _int4(model_type: ModelType, device: str, wanted: dict[str, object]) -> dict[str, object]:
    """The rules that the tools would raise only after the model was fetched and traced."""
    defaults = dict(_INT4_DEFAULTS)
    if device == "NPU":
        defaults |= {"sym": True, "group_size": -1}
    recipe = defaults | wanted
    for name in ("all_layers", *_ALGORITHMS):
        if recipe.get(name) is False:
            del recipe[name]
    has_data = "dataset" in recipe
    if has_data and model_type is not ModelType.LLM:
        raise InvalidSpec("'dataset' works for type 'llm' only: the calibration texts are written by the model itself")
    if "gptq" in recipe and "lora_correction" in recipe:
        raise InvalidSpec("'gptq' and 'lora_correction' exclude each other")
    for name in _NEEDS_DATA:
        if name in recipe and not has_data:
            raise InvalidSpec(f'\'{name}\' needs calibration texts: add "dataset": "auto"')
    if recipe.get("sensitivity_metric", "weight_quantization_error") != "weight_quantization_error" and not has_data:
        raise InvalidSpec('This \'sensitivity_metric\' needs calibration texts: add "dataset": "auto"')
    return recipe


def _only(allowed: tuple[str, ...], precision: Precision, wanted: Mapping[str, object]) -> dict[str, object]:
    """`wanted` without what changes nothing in this precision. Raises InvalidSpec for what would need another."""
    silent = {"group_size_fallback", "dataset", "num_samples"}
    for name, value in wanted.items():
        if name in allowed or name in silent or value in _NEUTRAL.get(name, ()):
            continue
        needed = "'int4' or 'int8'" if name == "sym" else "'int4'"
        raise InvalidSpec(f"'{name}' does not go with precision '{precision}'; it needs {needed}")
    return {name: value for name, value in wanted.items() if name in allowed}


def _serving(model_type: ModelType, device: str, options: ServingOptions) -> dict[str, object]:
    fields = _SERVING_FIELDS.get(model_type, frozenset())
    serving = {name: value for name, value in _without_none(options).items() if name in fields}
    if "max_prompt_len" in serving and device != "NPU":
        raise InvalidSpec("'max_prompt_len' is for device 'NPU' only")
    parsers = {serving.get("reasoning_parser"), serving.get("tool_parser")}
    if "gptoss" in parsers and len(parsers) > 1:
        raise InvalidSpec("'gptoss' must be both the 'reasoning_parser' and the 'tool_parser'")
    if model_type is ModelType.VLM:
        serving.setdefault("pipeline_type", "VLM")
    return serving


def _without_none(options: msgspec.Struct) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}


class _FlagParser(argparse.ArgumentParser):
    """Reads the tool's own flags, and raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSpec(f"'extra_quantization_params' is not usable: {message[:200]}")


def _parse_flags(text: str) -> dict[str, object]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidSpec(f"'extra_quantization_params' is not usable: {error}") from error
    parser = _FlagParser(add_help=False, prog=NAME, argument_default=argparse.SUPPRESS)
    for name in OpenVINOOptions.__struct_fields__:
        flag = f"--{name.replace('_', '-')}"
        if name in {"sym", "all_layers", *_ALGORITHMS}:
            parser.add_argument(flag, dest=name, action="store_true")
        elif name not in {"extra_quantization_params", "max_doc_length"}:
            parser.add_argument(flag, dest=name)
    return _without_none(_pick(vars(parser.parse_args(words)), OpenVINOOptions))


# The first keeps the tools from reporting home, so it must come before any of them. The others are what one
# conversion of each type was seen to import after the converter itself was.
_PRELOAD = (
    "worker.converters",
    "worker.converters.openvino.converter",
    "nncf.openvino.optimized_functions",
    "nncf.openvino.quantization.quantize_model",
    "nncf.quantization.algorithms.weight_compression.openvino_backend",
    "nncf.torch",
    "openvino.frontend.pytorch.fx_decoder",
    "openvino.frontend.pytorch.module_extension",
    "openvino.tools.ovc.moc_frontend.offline_transformations",
    "openvino_tokenizers.hf_parser",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
)

OPENVINO = ConverterPlugin(
    name=NAME,
    description="Converts language, embedding and reranking models to OpenVINO IR and quantises their weights.",
    options=OpenVINOOptions,
    serving=ServingOptions,
    normalise=normalise,
    reads=frozenset({Format.TRANSFORMERS, Format.OPENVINO}),
    writes=Format.OPENVINO,
    model_types=frozenset({ModelType.LLM, ModelType.EMBEDDINGS, ModelType.RERANK}),
    precisions=frozenset(Precision),
    implementation="worker.converters.openvino.converter:OpenVINOConverter",
    extra="openvino",
    # A torchvision of another build than torch makes every import of transformers' models fail.
    fragile=("torchvision",),
    preload=_PRELOAD,
    settings=frozenset({"MODELFERRY_TRUST_REMOTE_CODE"}),
    memory=MEMORY,
)
