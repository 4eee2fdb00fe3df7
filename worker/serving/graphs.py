"""graph.pbtxt: which of the model server's calculators serves a model, and what it is told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.catalog.openvino.serving import ServingOptions
from common.errors import UnsupportedModel
from common.vocabulary import ModelType
from worker.serving.text_format import Message, Value, Word, lines, message

GRAPH_NAME = "graph.pbtxt"

_QUEUE_SIZE = "# OVMS_GRAPH_QUEUE_MAX_SIZE: AUTO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calculator:
    """The one node of a graph."""

    name: str
    calculator: str
    resources: str
    """The side packet with the loaded model; the server knows it by this very name."""
    options: Callable[[ModelType, str, ServingOptions], Message]
    payload: str = "HTTP_"
    """What the streams of the request and the response begin with."""
    loops: bool = False
    """Whether the calculator feeds itself, as one that answers bit by bit does."""


def graph(model_type: ModelType, device: str, options: ServingOptions) -> str:
    """The text of graph.pbtxt. Raises UnsupportedModel for a type that has no graph here."""
    node = _CALCULATORS.get(model_type)
    if node is None:
        raise UnsupportedModel(f"There is no serving graph for models of type '{model_type}'")
    request, response = f"{node.payload}REQUEST_PAYLOAD:input", f"{node.payload}RESPONSE_PAYLOAD:output"
    told = node.options(model_type, device, options)
    whole = message(
        ("input_stream", request),
        ("output_stream", response),
        ("node", _wiring(node, request, response, told)),
    )
    return "\n".join([_QUEUE_SIZE, *lines(whole), ""])


def _wiring(node: Calculator, request: str, response: str, told: Message) -> Message:
    loop_in: tuple[tuple[str, Value], ...] = ()
    handler: tuple[tuple[str, Value], ...] = ()
    if node.loops:
        loop = ("tag_index", "LOOPBACK:0")
        loop_in = (("input_stream_info", message(loop, ("back_edge", True))),)
        sync = message(("[mediapipe.SyncSetInputStreamHandlerOptions.ext]", message(("sync_set", message(loop)))))
        handled = message(("input_stream_handler", "SyncSetInputStreamHandler"), ("options", sync))
        handler = (("input_stream_handler", handled),)
    loopback = ("LOOPBACK:loopback",) if node.loops else ()
    any_type = f"[type.googleapis.com / mediapipe.{node.calculator.removeprefix('Http')}Options]"
    return message(
        ("name", node.name),
        ("calculator", node.calculator),
        *(("input_stream", stream) for stream in (*loopback, request)),
        ("input_side_packet", node.resources),
        *(("output_stream", stream) for stream in (*loopback, response)),
        *loop_in,
        ("node_options", message((any_type, told))),
        *handler,
    )


def _generation(model_type: ModelType, device: str, options: ServingOptions) -> Message:
    caching = options.enable_prefix_caching is not False
    plugin: dict[str, object] = {}
    if options.kv_cache_precision is not None:
        plugin["KV_CACHE_PRECISION"] = options.kv_cache_precision
    if options.prompt_lookup_decoding:
        plugin["prompt_lookup"] = True
    if device == "NPU":
        length = {} if options.max_prompt_len is None else {"MAX_PROMPT_LEN": options.max_prompt_len}
        plugin["DEVICE_PROPERTIES"] = {"NPU": {**length, "NPUW_LLM_ENABLE_PREFIX_CACHING": caching}}
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, plugin)),
        ("enable_prefix_caching", caching),
        ("cache_size", options.cache_size or 0),
        ("max_num_batched_tokens", options.max_num_batched_tokens),
        ("dynamic_split_fuse", options.dynamic_split_fuse),
        ("max_num_seqs", options.max_num_seqs or (1 if options.draft_eagle3_mode else 256)),
        ("device", device),
        ("pipeline_type", _pipeline(model_type, device, options)),
        ("reasoning_parser", options.reasoning_parser),
        ("tool_parser", options.tool_parser),
        ("enable_tool_guided_generation", options.enable_tool_guided_generation),
        ("draft_models_path", options.draft_models_path),
        ("draft_device", device if options.draft_models_path is not None else None),
        ("draft_eagle3_mode", options.draft_eagle3_mode),
        ("best_of_limit", options.best_of_limit),
        ("max_tokens_limit", options.max_tokens_limit),
        ("chat_template_mode", _word(options.chat_template_mode)),
    )


def _pipeline(model_type: ModelType, device: str, options: ServingOptions) -> Word | None:
    """The pipeline that was asked for; else one that the device can run, else None: the server's choice."""
    if options.pipeline_type is not None:
        return Word(options.pipeline_type)
    if model_type is ModelType.VLM:
        return Word("VLM")
    # Continuous batching cannot be spread over several devices.
    return Word("LM") if _is_split(device) else None


def _embeddings(_: ModelType, device: str, options: ServingOptions) -> Message:
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, _streams(options))),
        ("normalize_embeddings", options.normalize is not False),
        ("pooling", Word(options.pooling or "CLS")),
        ("truncate", options.truncate or False),
        ("target_device", device),
    )


def _rerank(_: ModelType, device: str, options: ServingOptions) -> Message:
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, _streams(options))),
        ("max_allowed_chunks", options.max_allowed_chunks),
        ("target_device", device),
    )


def _pictures(_: ModelType, device: str, options: ServingOptions) -> Message:
    # The several models of a picture's pipeline share the streams, so the server's own number is taken.
    streams = {} if options.num_streams is None else _streams(options)
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, streams)),
        ("device", device),
        ("resolution", options.resolution),
        ("num_images_per_prompt", options.num_images_per_prompt),
        ("guidance_scale", options.guidance_scale),
        ("max_resolution", options.max_resolution),
        ("default_resolution", options.default_resolution),
        ("max_num_images_per_prompt", options.max_num_images_per_prompt),
        ("default_num_inference_steps", options.default_num_inference_steps),
        ("max_num_inference_steps", options.max_num_inference_steps),
    )


def _speech(_: ModelType, device: str, options: ServingOptions) -> Message:
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, _streams(options))),
        ("target_device", device),
        ("speed_min", options.speed_min),
        ("speed_max", options.speed_max),
    )


def _transcription(_: ModelType, device: str, options: ServingOptions) -> Message:
    return message(
        ("models_path", "./"),
        ("plugin_config", _plugin(device, options, _streams(options))),
        ("target_device", device),
        ("enable_word_timestamps", options.enable_word_timestamps or False),
    )


def _streams(options: ServingOptions) -> dict[str, object]:
    return {"NUM_STREAMS": str(options.num_streams or 1)}


def _plugin(device: str, options: ServingOptions, own: Mapping[str, object]) -> str:
    """What OpenVINO's device plugin is told, as JSON: the calculator's own part, and what goes for every model."""
    plugin = dict(own)
    if options.ov_cache_dir is not None:
        plugin["CACHE_DIR"] = options.ov_cache_dir
    if _is_split(device):
        plugin["MODEL_DISTRIBUTION_POLICY"] = "PIPELINE_PARALLEL"
    return json.dumps(plugin, ensure_ascii=False)


def _is_split(device: str) -> bool:
    return device.startswith("HETERO")


def _word(value: str | None) -> Word | None:
    return None if value is None else Word(value)


_GENERATOR = Calculator(
    name="LLMExecutor",
    calculator="HttpLLMCalculator",
    resources="LLM_NODE_RESOURCES:llm",
    options=_generation,
    loops=True,
)
_CALCULATORS: Mapping[ModelType, Calculator] = {
    ModelType.LLM: _GENERATOR,
    ModelType.VLM: _GENERATOR,
    ModelType.EMBEDDINGS: Calculator(
        name="EmbeddingsExecutor",
        calculator="EmbeddingsCalculatorOV",
        resources="EMBEDDINGS_NODE_RESOURCES:embeddings_servable",
        options=_embeddings,
        payload="",
    ),
    ModelType.RERANK: Calculator(
        name="RerankExecutor",
        calculator="RerankCalculatorOV",
        resources="RERANK_NODE_RESOURCES:rerank_servable",
        options=_rerank,
        payload="",
    ),
    ModelType.IMAGE_GENERATION: Calculator(
        name="ImageGenExecutor",
        calculator="ImageGenCalculator",
        resources="IMAGE_GEN_NODE_RESOURCES:pipes",
        options=_pictures,
    ),
    ModelType.TEXT2SPEECH: Calculator(
        name="T2sExecutor",
        calculator="T2sCalculator",
        resources="TTS_NODE_RESOURCES:t2s_servable",
        options=_speech,
    ),
    ModelType.SPEECH2TEXT: Calculator(
        name="S2tExecutor",
        calculator="S2tCalculator",
        resources="STT_NODE_RESOURCES:s2t_servable",
        options=_transcription,
        loops=True,
    ),
}
GRAPH_TYPES = frozenset(_CALCULATORS)
"""The types of model that are served by a graph."""
