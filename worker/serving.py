"""The files of OpenVINO Model Server: a model's graph.pbtxt, and the list of the models beside it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from common.artefacts.durable import write_atomically
from common.catalog.openvino import ServingOptions
from common.errors import PublicationRefused, UnsupportedModel
from common.vocabulary import ModelType

GRAPH_NAME = "graph.pbtxt"
INDEX_NAME = "config_all.json"

MODELS = "model_config_list"
_LEGACY = "mediapipe_config_list"
_QUEUE_SIZE = "# OVMS_GRAPH_QUEUE_MAX_SIZE: AUTO"


class Word(str):
    """A bare word of the text format: the name of an enum's value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the text format: its fields in order. A field may come more than once."""

    fields: "tuple[tuple[str, Value], ...]"


Value: TypeAlias = bool | int | str | Word | Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The one calculator of a graph, and what it is told."""

    name: str
    calculator: str
    options_type: str
    resources: str
    payload: str
    """What the streams of the request and the response begin with."""
    loops: bool
    """Whether the calculator feeds itself, as one that writes token by token does."""
    options: Message


def graph(model_type: ModelType, device: str, options: ServingOptions) -> str:
    """The text of graph.pbtxt. Raises UnsupportedModel for a type that has no graph here."""
    node = _node(model_type, device, options)
    request, response = f"{node.payload}REQUEST_PAYLOAD:input", f"{node.payload}RESPONSE_PAYLOAD:output"
    whole = Message(
        (
            ("input_stream", request),
            ("output_stream", response),
            ("node", _wiring(node, request, response)),
        )
    )
    return "\n".join([_QUEUE_SIZE, *_lines(whole, "", ""), ""])


def register(config_file: Path, name: str, base_path: str) -> None:
    """Enter a model into the server's list, or move its entry. The caller holds the lock of the list.

    Everything else in the file is kept; entries of the older list of graphs are moved to the list of models.
    Raises PublicationRefused, and leaves the file alone, where it is not a list of models.
    """
    config = _read(config_file)
    models = _entries(config, config_file, MODELS)
    for old in _entries(config, config_file, _LEGACY):
        if isinstance(old, dict) and isinstance(old.get("name"), str):
            _upsert(models, old | {"name": f"{old['name']}_model"})
    config.pop(_LEGACY, None)
    _upsert(models, {"name": name, "base_path": base_path})
    config[MODELS] = models
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(config_file, text.encode())


def _node(model_type: ModelType, device: str, options: ServingOptions) -> Node:
    match model_type:
        case ModelType.LLM | ModelType.VLM:
            return Node(
                name="LLMExecutor",
                calculator="HttpLLMCalculator",
                options_type="LLMCalculatorOptions",
                resources="LLM_NODE_RESOURCES:llm",
                payload="HTTP_",
                loops=True,
                options=_generation(model_type, device, options),
            )
        case ModelType.EMBEDDINGS:
            return Node(
                name="EmbeddingsExecutor",
                calculator="EmbeddingsCalculatorOV",
                options_type="EmbeddingsCalculatorOVOptions",
                resources="EMBEDDINGS_NODE_RESOURCES:embeddings_servable",
                payload="",
                loops=False,
                options=_embeddings(device, options),
            )
        case ModelType.RERANK:
            return Node(
                name="RerankExecutor",
                calculator="RerankCalculatorOV",
                options_type="RerankCalculatorOVOptions",
                resources="RERANK_NODE_RESOURCES:rerank_servable",
                payload="",
                loops=False,
                options=_rerank(device, options),
            )
        case _:
            raise UnsupportedModel(f"There is no serving graph for models of type '{model_type}'")


def _generation(model_type: ModelType, device: str, options: ServingOptions) -> Message:
    caching = options.enable_prefix_caching is not False
    plugin: dict[str, object] = {}
    if options.kv_cache_precision is not None:
        plugin["KV_CACHE_PRECISION"] = options.kv_cache_precision
    if options.ov_cache_dir is not None:
        plugin["CACHE_DIR"] = options.ov_cache_dir
    if options.prompt_lookup_decoding:
        plugin["prompt_lookup"] = True
    if _is_split(device):
        plugin["MODEL_DISTRIBUTION_POLICY"] = "PIPELINE_PARALLEL"
    if device == "NPU":
        length = {} if options.max_prompt_len is None else {"MAX_PROMPT_LEN": options.max_prompt_len}
        plugin["DEVICE_PROPERTIES"] = {"NPU": {**length, "NPUW_LLM_ENABLE_PREFIX_CACHING": caching}}
    return _some(
        ("models_path", "./"),
        ("plugin_config", _json(plugin)),
        ("enable_prefix_caching", caching),
        ("cache_size", options.cache_size or 0),
        ("max_num_batched_tokens", options.max_num_batched_tokens),
        ("dynamic_split_fuse", options.dynamic_split_fuse),
        ("max_num_seqs", options.max_num_seqs or 256),
        ("device", device),
        ("pipeline_type", _pipeline(model_type, device, options)),
        ("reasoning_parser", options.reasoning_parser),
        ("tool_parser", options.tool_parser),
        ("enable_tool_guided_generation", options.enable_tool_guided_generation),
    )


def _pipeline(model_type: ModelType, device: str, options: ServingOptions) -> Word | None:
    """The pipeline that was asked for; else one that the device can run, else None: the server's choice."""
    if options.pipeline_type is not None:
        return Word(options.pipeline_type)
    if model_type is ModelType.VLM:
        return Word("VLM")
    # Continuous batching cannot be spread over several devices.
    return Word("LM") if _is_split(device) else None


def _embeddings(device: str, options: ServingOptions) -> Message:
    return _some(
        ("models_path", "./"),
        ("plugin_config", _json(_streams(device, options))),
        ("normalize_embeddings", options.normalize is not False),
        ("pooling", Word(options.pooling or "CLS")),
        ("truncate", options.truncate or False),
        ("target_device", device),
    )


def _rerank(device: str, options: ServingOptions) -> Message:
    return _some(
        ("models_path", "./"),
        ("plugin_config", _json(_streams(device, options))),
        ("target_device", device),
    )


def _streams(device: str, options: ServingOptions) -> dict[str, object]:
    plugin: dict[str, object] = {"NUM_STREAMS": str(options.num_streams or 1)}
    if options.ov_cache_dir is not None:
        plugin["CACHE_DIR"] = options.ov_cache_dir
    if _is_split(device):
        plugin["MODEL_DISTRIBUTION_POLICY"] = "PIPELINE_PARALLEL"
    return plugin


def _wiring(node: Node, request: str, response: str) -> Message:
    loop_in: tuple[tuple[str, Value], ...] = ()
    handler: tuple[tuple[str, Value], ...] = ()
    if node.loops:
        loop = (("tag_index", "LOOPBACK:0"),)
        loop_in = (("input_stream_info", Message((*loop, ("back_edge", True)))),)
        sync = Message((("[mediapipe.SyncSetInputStreamHandlerOptions.ext]", Message((("sync_set", Message(loop)),))),))
        handled = Message((("input_stream_handler", "SyncSetInputStreamHandler"), ("options", sync)))
        handler = (("input_stream_handler", handled),)
    loopback = ("LOOPBACK:loopback",) if node.loops else ()
    any_type = f"[type.googleapis.com / mediapipe.{node.options_type}]"
    return Message(
        (
            ("name", node.name),
            ("calculator", node.calculator),
            *(("input_stream", stream) for stream in (*loopback, request)),
            ("input_side_packet", node.resources),
            *(("output_stream", stream) for stream in (*loopback, response)),
            *loop_in,
            ("node_options", Message(((any_type, node.options),))),
            *handler,
        )
    )


def _some(*fields: tuple[str, Value | None]) -> Message:
    return Message(tuple((name, value) for name, value in fields if value is not None))


def _lines(message: Message, indent: str, separator: str) -> list[str]:
    lines: list[str] = []
    for name, value in message.fields:
        if isinstance(value, Message):
            # The server's own graphs put commas between options, and scripts that edit graphs expect them.
            inner = "," if name.startswith("[type.googleapis.com") else ""
            lines += [f"{indent}{name}: {{", *_lines(value, f"{indent}  ", inner), f"{indent}}}"]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}{separator}")
    return lines


def _scalar(value: bool | int | str | Word) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Word):
        return str(value)
    # JSON reads best between single quotes; in both kinds of quotes the same characters are escaped.
    quote = "'" if '"' in value and "'" not in value else '"'
    escaped = re.sub(rf"[\\{quote}]", lambda match: f"\\{match[0]}", value)
    return quote + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):03o}", escaped) + quote


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_split(device: str) -> bool:
    return device.startswith("HETERO")


def _read(config_file: Path) -> dict[str, object]:
    try:
        config = json.loads(config_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise PublicationRefused(f"{config_file.name} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise PublicationRefused(f"{config_file.name} is not a JSON object")
    return cast("dict[str, object]", config)


def _entries(config: dict[str, object], config_file: Path, key: str) -> list[object]:
    entries = config.get(key, [])
    if not isinstance(entries, list):
        raise PublicationRefused(f"'{key}' in {config_file.name} is not a list")
    return entries


def _upsert(models: list[object], wanted: dict[str, object]) -> None:
    for entry in models:
        found = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(found, dict) and found.get("name") == wanted["name"]:
            found.update(wanted)
            return
    models.append({"config": wanted})
