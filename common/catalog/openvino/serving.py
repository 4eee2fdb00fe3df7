"""What the model server is told about a model: the options, and which of them a type of model has a use for.

The texts below the fields are what `GET /plugins` and the docs say about them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from common.catalog.openvino.values import without_none
from common.errors import InvalidSpec
from common.spec import Spec
from common.vocabulary import ModelType

REASONING_PARSERS = ("qwen3", "gptoss", "lfm2", "gemma4", "onyx")
TOOL_PARSERS = (
    "llama3", "phi4", "hermes3", "mistral", "qwen3coder", "gptoss", "devstral", "lfm2", "gemma4", "onyx",
)  # fmt: skip
"""The names that servers are known to have; a server may be newer than this list."""

LARGEST_IMAGE = "4096x4096"
MOST_STEPS = 100
USUAL_STEPS = 50
SLOWEST_SPEECH = 0.25
FASTEST_SPEECH = 4.0
"""What the server takes where nothing is said."""

_PARSER = r"^[a-z0-9][a-z0-9_.-]{0,39}$"
_SIZE = "[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"
_DIMENSION = "(-1|[1-9][0-9]{0,8}(:[1-9][0-9]{0,8})?)"
_LAYOUT = r"[A-Z?.]{1,16}"
_BELOW = r"^\./[A-Za-z0-9_][A-Za-z0-9_.-]*$(?!\n)"
# In Python, `$` also stands before a last line feed.
_END = r"$(?!\n)"

# The server reads these into numbers of 32 and 64 bits.
Count = Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1)]
Size = Annotated[
    str, msgspec.Meta(pattern=f"^{_SIZE}{_END}", max_length=32, extra_json_schema={"examples": ["512x512", "1024x768"]})
]


class ServingOptions(Spec, frozen=True, omit_defaults=True):
    """What the model server is told about a model. What is not given is left to the server's own default."""

    cache_size: Annotated[int, msgspec.Meta(ge=0, le=1_000_000, extra_json_schema={"default": 0})] | None = None
    """The size of the KV cache in GB; 0 lets it grow."""
    kv_cache_precision: Literal["u8"] | None = None
    """The number format of the KV cache; `u8` makes it smaller. The default is the model's own."""
    enable_prefix_caching: Annotated[bool, msgspec.Meta(extra_json_schema={"default": True})] | None = None
    """Keep what was computed for the beginning of a prompt, for the next prompt that begins alike."""
    dynamic_split_fuse: bool | None = None
    """Split long prompts, so that other requests are served in between. The server's default is true."""
    max_num_batched_tokens: Count | None = None
    """How many tokens one step computes at most."""
    max_num_seqs: Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1, extra_json_schema={"default": 256})] | None = None
    """How many sequences are generated at once at most."""
    max_prompt_len: Count | None = None
    """The longest prompt in tokens. Only for the device `NPU`."""
    prompt_lookup_decoding: bool | None = None
    """Guess the next tokens from the prompt itself; fast where answers repeat it, as in summaries."""
    pipeline_type: Literal["LM", "LM_CB", "VLM", "VLM_CB", "AUTO"] | None = None
    """What generates: for texts (`LM`) or texts and pictures (`VLM`), one request after the other or in continuous
    batches (`_CB`). The default is `VLM` for the type `vlm`, `LM` for the type `llm` on several devices, else the
    server's choice."""
    reasoning_parser: (
        Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _PARSER, "examples": list(REASONING_PARSERS)})] | None
    ) = None
    """How the server tells thoughts from answers in what this family of models writes."""
    tool_parser: (
        Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _PARSER, "examples": list(TOOL_PARSERS)})] | None
    ) = None
    """How the server finds calls of tools in what this family of models writes."""
    enable_tool_guided_generation: bool | None = None
    """Let the model write calls of tools in their proper form only."""
    draft_models_path: (
        Annotated[str, msgspec.Meta(pattern=_BELOW, max_length=210, extra_json_schema={"readOnly": True})] | None
    ) = None
    """The folder of the draft, from the model's own. Filled in by the service, where `draft_source_model` names one."""
    draft_eagle3_mode: Annotated[bool, msgspec.Meta(extra_json_schema={"readOnly": True})] | None = None
    """Filled in by the service. Such drafts serve one request after the other, so `max_num_seqs` is 1."""
    best_of_limit: Count | None = None
    """How many answers to choose from a request may ask for."""
    max_tokens_limit: Count | None = None
    """How many tokens one request may ask for."""
    chat_template_mode: Literal["MINJA", "JINJA"] | None = None
    """What renders chat templates. For servers from 2026.3 on."""
    normalize: Annotated[bool, msgspec.Meta(extra_json_schema={"default": True})] | None = None
    """Embeddings of length 1."""
    pooling: Literal["CLS", "LAST", "MEAN"] | None = None
    """How token vectors become one. The default is what the model itself says, else `CLS`."""
    truncate: Annotated[bool, msgspec.Meta(extra_json_schema={"default": False})] | None = None
    """Cut texts that are too long, instead of refusing them."""
    max_allowed_chunks: Count | None = None
    """How many documents, and pieces of documents, one request to a reranker may hold."""
    resolution: (
        Annotated[
            str,
            msgspec.Meta(
                pattern=f"^{_SIZE}( {_SIZE})*{_END}",
                max_length=256,
                extra_json_schema={"examples": ["512x512", "512x512 1024x1024"]},
            ),
        ]
        | None
    ) = None
    """The only sizes that pictures may have, with spaces between them. One alone is compiled into the model, which
    NPU needs."""
    num_images_per_prompt: Count | None = None
    """How many pictures are made at once. Compiled into the model, so only with one `resolution`."""
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=1000)] | None = None
    """How closely pictures follow the prompt. Compiled into the model, so only with one `resolution`."""
    max_resolution: Size | None = None
    """The largest picture that a request may ask for. Not with `resolution`. The server's default is 4096x4096."""
    default_resolution: Size | None = None
    """The size of a picture where a request names none."""
    max_num_images_per_prompt: Count | None = None
    """How many pictures one request may ask for. Not with one `resolution`. The server's default is 10."""
    default_num_inference_steps: Count | None = None
    """How many steps a picture takes where a request names no number. The server's default is 50."""
    max_num_inference_steps: Count | None = None
    """How many steps a request may ask for. The server's default is 100."""
    speed_min: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    """The slowest speech that a request may ask for; 1 is the usual speed. The server's default is 0.25."""
    speed_max: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    """The fastest speech that a request may ask for. The server's default is 4."""
    enable_word_timestamps: Annotated[bool, msgspec.Meta(extra_json_schema={"default": False})] | None = None
    """Let requests ask when each word was spoken."""
    shape: (
        Annotated[
            str,
            msgspec.Meta(
                pattern=rf"^(auto|\({_DIMENSION}(,{_DIMENSION})*\)){_END}",
                max_length=200,
                extra_json_schema={"examples": ["(1,3,224,224)", "(-1,3,224:512,224:512)", "auto"]},
            ),
        ]
        | None
    ) = None
    """The shape of the input of a model with one input, where it is to be another than the model's own."""
    layout: (
        Annotated[
            str,
            msgspec.Meta(
                pattern=f"^{_LAYOUT}(:{_LAYOUT})?{_END}",
                max_length=40,
                extra_json_schema={"examples": ["NHWC:NCHW"]},
            ),
        ]
        | None
    ) = None
    """The order of the input's dimensions in requests, and after the colon in the model."""
    num_streams: Count | None = None
    """How many requests are computed side by side. The default is 1 where a graph needs a number, else the server's."""
    ov_cache_dir: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    """Where the model server keeps compiled models: a folder as the server sees it."""

    def __post_init__(self) -> None:
        for name, known in (("reasoning_parser", REASONING_PARSERS), ("tool_parser", TOOL_PARSERS)):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(_PARSER, value, re.ASCII):
                msg = f"'{name}' must be the name of a parser of the model server, such as {', '.join(known)}"
                raise ValueError(msg)
        if self.ov_cache_dir is not None and not self.ov_cache_dir.isprintable():
            msg = "'ov_cache_dir' must be a path without control characters"
            raise ValueError(msg)


def serving_for(model_type: ModelType | None, device: str, options: ServingOptions) -> dict[str, object]:
    """The options that a model of this type has a use for; all of them while the type is not known.

    What Intel's service knows by name is passed over where a type has no use for it, because clients send one config
    for all their models. Raises InvalidSpec for any other option of another type, and for what no server would load.
    """
    said = without_none(options)
    if model_type is not None:
        _refuse_foreign(model_type, said)
        said = _narrowed(model_type, said)
    _check_generation(device, said)
    _check_pictures(model_type, device, said)
    _check_steps(said)
    _check_speed(said)
    if model_type is ModelType.VISION and device == "NPU" and "shape" not in said:
        raise InvalidSpec("Device 'NPU' needs a fixed 'shape', such as '(1,3,224,224)', for models of type 'vision'")
    return said if model_type is None else _completed(model_type, said)


def complete_serving(model_type: ModelType, serving: Mapping[str, object]) -> dict[str, object]:
    """What `serving_for` gave while the type was not known, now that it is. Options of other types are passed over."""
    return _completed(model_type, _narrowed(model_type, serving))


_GENERATION = frozenset(
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
        "best_of_limit",
        "max_tokens_limit",
        "chat_template_mode",
        "ov_cache_dir",
    }
)
_STREAMS = frozenset({"num_streams", "ov_cache_dir"})
_PICTURES = _STREAMS | {
    "resolution",
    "num_images_per_prompt",
    "guidance_scale",
    "max_resolution",
    "default_resolution",
    "max_num_images_per_prompt",
    "default_num_inference_steps",
    "max_num_inference_steps",
}

FIELDS: Mapping[ModelType, frozenset[str]] = {
    ModelType.LLM: _GENERATION | {"draft_models_path", "draft_eagle3_mode"},
    ModelType.VLM: _GENERATION,
    ModelType.EMBEDDINGS: _STREAMS | {"normalize", "pooling", "truncate"},
    ModelType.RERANK: _STREAMS | {"max_allowed_chunks"},
    ModelType.IMAGE_GENERATION: _PICTURES,
    ModelType.TEXT2SPEECH: _STREAMS | {"speed_min", "speed_max"},
    ModelType.SPEECH2TEXT: _STREAMS | {"enable_word_timestamps"},
    ModelType.VISION: _STREAMS | {"shape", "layout"},
}
"""Which options a type of model has a use for."""

SENT_TO_ALL = frozenset(
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
        "normalize",
        "pooling",
        "truncate",
        "num_streams",
        "ov_cache_dir",
    }
)
"""What Intel's service declares for every conversion, so that clients may send it with models of any type."""


def _refuse_foreign(model_type: ModelType, said: Mapping[str, object]) -> None:
    for name in sorted(said.keys() - FIELDS.get(model_type, frozenset()) - SENT_TO_ALL):
        types = " or ".join(f"'{other}'" for other, fields in FIELDS.items() if name in fields)
        raise InvalidSpec(f"'{name}' is for models of type {types}, not '{model_type}'")


def _narrowed(model_type: ModelType, said: Mapping[str, object]) -> dict[str, object]:
    fields = FIELDS.get(model_type, frozenset())
    return {name: value for name, value in said.items() if name in fields and value is not None}


def _completed(model_type: ModelType, said: dict[str, object]) -> dict[str, object]:
    if model_type is ModelType.VLM:
        said.setdefault("pipeline_type", "VLM")
    return said


def _check_generation(device: str, said: Mapping[str, object]) -> None:
    if "max_prompt_len" in said and device != "NPU":
        raise InvalidSpec("'max_prompt_len' is for device 'NPU' only")
    parsers = {said.get("reasoning_parser"), said.get("tool_parser")}
    if "gptoss" in parsers and len(parsers) > 1:
        raise InvalidSpec("'gptoss' must be both the 'reasoning_parser' and the 'tool_parser'")
    if "draft_models_path" in said:
        _check_draft(device, said)
    if device.startswith("HETERO") and said.get("pipeline_type", "LM") not in {"LM", "VLM"}:
        raise InvalidSpec(
            "On several devices 'pipeline_type' must be 'LM' or 'VLM': batches cannot be spread over them"
        )


def _check_draft(device: str, said: Mapping[str, object]) -> None:
    """A server uses drafts in its continuous batches only, and guesses by one means."""
    if device.startswith(("HETERO", "NPU")):
        raise InvalidSpec(
            f"'draft_source_model' is not for device '{device[:40]}': there are no continuous batches there"
        )
    if said.get("pipeline_type", "LM_CB") not in {"LM_CB", "AUTO"}:
        raise InvalidSpec("'draft_source_model' wants 'pipeline_type' 'LM_CB' or 'AUTO': drafts work in batches only")
    if said.get("prompt_lookup_decoding"):
        raise InvalidSpec("'draft_source_model' and 'prompt_lookup_decoding' exclude each other: both guess ahead")


def _check_pictures(model_type: ModelType | None, device: str, said: Mapping[str, object]) -> None:
    """The server refuses the whole graph where one of these does not hold."""
    sizes = str(said.get("resolution", "")).split()
    if len(set(sizes)) < len(sizes):
        raise InvalidSpec("'resolution' names a size twice")
    if model_type is ModelType.IMAGE_GENERATION and "NPU" in device and len(sizes) != 1:
        raise InvalidSpec("NPU needs one fixed 'resolution', such as '512x512', for models of type 'image_generation'")
    for name in ("num_images_per_prompt", "guidance_scale"):
        if name in said and len(sizes) != 1:
            raise InvalidSpec(f"'{name}' is compiled into the model, and needs one fixed 'resolution' beside it")
    if sizes and "max_resolution" in said:
        raise InvalidSpec("'resolution' and 'max_resolution' exclude each other")
    if len(sizes) == 1 and "max_num_images_per_prompt" in said:
        raise InvalidSpec("One fixed 'resolution' and 'max_num_images_per_prompt' exclude each other")
    usual = str(said.get("default_resolution", ""))
    if usual and sizes and usual not in sizes:
        raise InvalidSpec("'default_resolution' is none of the sizes in 'resolution'")
    largest = str(said.get("max_resolution", LARGEST_IMAGE))
    if usual and any(side > most for side, most in zip(_sides(usual), _sides(largest), strict=True)):
        raise InvalidSpec(f"'default_resolution' is larger than 'max_resolution', {largest}")


def _sides(size: str) -> list[int]:
    return [int(side) for side in size.split("x")]


def _check_steps(said: Mapping[str, object]) -> None:
    _check_order(said, "default_num_inference_steps", USUAL_STEPS, "max_num_inference_steps", MOST_STEPS)


def _check_speed(said: Mapping[str, object]) -> None:
    _check_order(said, "speed_min", SLOWEST_SPEECH, "speed_max", FASTEST_SPEECH)


def _check_order(said: Mapping[str, object], less: str, usual: float, more: str, most: float) -> None:
    small, large = said.get(less, usual), said.get(more, most)
    if not isinstance(small, int | float) or not isinstance(large, int | float) or small <= large:
        return
    advice = "".join(f". Set '{name}' too: that is the server's default" for name in (less, more) if name not in said)
    raise InvalidSpec(f"'{less}', {small}, must not be more than '{more}', {large}{advice}")
