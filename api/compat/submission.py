"""The body of a submission: pydantic models of the contract's request, and the wishes they stand for."""

import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from importlib.metadata import entry_points
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.compat.credentials import Overrides
from api.compat.decoding import Reader
from api.compat.lenient import Flag, Positive, Whole
from api.compat.targets import VoiceTarget, aimed
from common.catalog.registry import HUBS as HUB_PLUGINS
from common.planning import Wish
from common.vocabulary import ModelType, Precision, Priority

HUBS = (
    "huggingface",
    "ultralytics",
    "pipeline-zoo-models",
    "ollama",
    "openvino",
    "geti",
    "hls",
    "remote-url",
    "omz",
)
"""The hubs that the contract names, installed here or not. Naming an installed hub beside them is fine too."""

_UNIT = r"(?:CPU|GPU|NPU)"
_DEVICE = re.compile(rf"{_UNIT}|HETERO:{_UNIT}(?:\.[0-9]+)?(?:,{_UNIT}(?:\.[0-9]+)?)*", re.ASCII)
_LONGEST_DEVICE = 100
_SHOWN = 80


def _hub(value: object, info: ValidationInfo) -> str:
    known: Collection[str] = (info.context or {}).get("hubs", HUBS)
    name = value.lower() if isinstance(value, str) else None
    if name is None or name not in known:
        raise PydanticCustomError("enum", "Input should be {expected}", {"expected": _alternatives(known)})
    return name


def _alternatives(names: Iterable[str]) -> str:
    *others, last = [f"'{name}'" for name in names]
    return f"{', '.join(others)} or {last}" if others else last


def _model_type(value: object) -> object:
    return ModelType.RERANK if value == "reranker" else value


def _device(value: str) -> str:
    device = value.strip().upper()
    if len(device) > _LONGEST_DEVICE or not _DEVICE.fullmatch(device):
        raise ValueError(f"Invalid device '{value[:_SHOWN]}'. Use CPU, GPU, NPU, or HETERO:<dev>[,<dev>...]")
    return device


class WirePrecision(StrEnum):
    """The precisions that the contract knows; `weight_format` and `quant_mode` name all others."""

    INT4 = Precision.INT4
    INT8 = Precision.INT8
    FP16 = Precision.FP16
    FP32 = Precision.FP32


class WeightFormat(StrEnum):
    """What `weight-format` may name."""

    INT4 = Precision.INT4
    INT8 = Precision.INT8
    FP16 = Precision.FP16
    FP32 = Precision.FP32
    MXFP4 = Precision.MXFP4
    NF4 = Precision.NF4
    CB4 = Precision.CB4


_INSTALLED = (point.name for point in entry_points(group=HUB_PLUGINS))
Hub = Annotated[
    str,
    BeforeValidator(_hub),
    WithJsonSchema(
        {"type": "string", "enum": list(dict.fromkeys([*HUBS, *_INSTALLED])), "description": "In any case."}
    ),
]
Kind = Annotated[
    ModelType,
    BeforeValidator(_model_type),
    WithJsonSchema({"type": "string", "enum": [*ModelType, "reranker"]}),
]
Device = Annotated[
    str,
    AfterValidator(_device),
    Field(description="CPU, GPU, NPU, or HETERO:<dev>[,<dev>...]; in any case.", examples=["CPU", "HETERO:GPU,CPU"]),
]


class OpenVinoConfig(BaseModel):
    """Options of a conversion, as a block of their own."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    precision: WirePrecision | None = None
    device: Device | None = None
    ov_cache_dir: str | None = None
    overwrite_models: Flag | None = None
    extra_quantization_params: str | None = None
    cache_size: Positive | None = None
    pipeline_type: str | None = None
    kv_cache_precision: str | None = None
    enable_prefix_caching: Flag | None = None
    dynamic_split_fuse: Flag | None = None
    max_num_batched_tokens: Whole | None = None
    max_num_seqs: Whole | None = None
    draft_source_model: str | None = None
    max_prompt_len: Whole | None = None
    prompt_lookup_decoding: Flag | None = None
    normalize: Flag | None = None
    pooling: str | None = None
    truncate: Flag | None = None
    num_streams: Positive | None = None
    max_doc_length: Positive | None = None


class Config(BaseModel):
    """Options for the hub and the converter. A key that is not listed here is handed on to them."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    precision: WirePrecision | None = None
    device: Device | None = None
    cache_size: Annotated[Positive | None, Field(description="In GB; a string of digits will do.")] = None
    quantize: str | None = None
    model_group_id: str | None = None
    optimized_model_id: str | None = None
    export_type: str | None = None
    model_only: Flag | None = None
    openvino_config: OpenVinoConfig | None = None
    post_processing: dict[str, Any] | None = None
    weight_format: Annotated[
        WeightFormat | None, Field(alias="weight-format", description="Another name of precision, with more formats.")
    ] = None
    target_device: Annotated[Device | None, Field(description="Another name of device.")] = None

    def wanted(self) -> dict[str, object]:
        """The options that were given, as plain JSON values under the names of the contract."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ModelRequest(BaseModel):
    """One model that is wanted."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Annotated[str, Field(min_length=1, description="As the hub writes it.", examples=["Qwen/Qwen3-0.6B"])]
    hub: Hub
    type: Annotated[
        Kind | None, Field(description="What the model is for. Where it is left out, the model's own files tell.")
    ] = None
    is_ovms: Annotated[Flag, Field(description="Convert to OpenVINO, ready for OpenVINO Model Server.")] = False
    revision: Annotated[str | None, Field(description="Branch, tag or commit; the hub's default if none.")] = None
    priority: Annotated[Priority, Field(description="Which jobs go first.")] = Priority.NORMAL
    config: Config | None = None
    override_credentials: Overrides = None
    validate_credentials: Annotated[
        Flag, Field(description="Ask the hub about the credentials first, and make no job where it does not know them.")
    ] = False
    target: Annotated[
        VoiceTarget | None, Field(description="The application to convert for; it decides the model and the folder.")
    ] = None

    def wish(self) -> Wish:
        """What is wanted, in our own words. Raises InvalidSpec for what is not offered."""
        wish = Wish(
            name=self.name,
            hub=self.hub,
            root="",
            model_type=self.type,
            convert=self.is_ovms,
            revision=self.revision,
            priority=self.priority,
            config={} if self.config is None else self.config.wanted(),
            credentials=self.override_credentials or {},
            checked=self.validate_credentials,
        )
        return wish if self.target is None else aimed(wish, self.target)


class ModelDownloadRequest(BaseModel):
    """The models that are wanted."""

    model_config = ConfigDict(hide_input_in_errors=True)

    models: list[ModelRequest]
    parallel_downloads: Annotated[
        Flag | None, Field(description="Has no effect: as many models are worked on at once as there are free workers.")
    ] = False


class SubmitQuery(BaseModel):
    """The query of a submission."""

    download_path: Annotated[
        str, Field(description="Where to publish, below MODELS_DIR; empty for MODELS_DIR itself.", examples=["llm"])
    ]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that has the documented shape. Where its wishes go is still the path that the client gave."""

    download_path: str
    wishes: tuple[Wish, ...]


def read_submission(
    query: Iterable[tuple[str, str]], body: bytes, content_type: str | None, installed_hubs: Iterable[str]
) -> Submission:
    """Raises Unprocessable with every fault of query and body, UnreadableBody, or InvalidSpec."""
    reader = Reader({"hubs": dict.fromkeys([*HUBS, *installed_hubs])})
    asked = reader.query(SubmitQuery, query)
    wanted = reader.body(ModelDownloadRequest, body, content_type)
    if asked is None or wanted is None:
        raise reader.refusal()
    return Submission(download_path=asked.download_path, wishes=tuple(model.wish() for model in wanted.models))
