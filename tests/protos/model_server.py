"""The part of the model server's own message definitions that a graph of ours may use, and how it reads one.

Names, types and what is required are facts of the server; the numbers of the fields do not matter to text.
"""

import json
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": FIELD.TYPE_STRING,
    "bool": FIELD.TYPE_BOOL,
    "uint32": FIELD.TYPE_UINT32,
    "uint64": FIELD.TYPE_UINT64,
    "int64": FIELD.TYPE_INT64,
    "float": FIELD.TYPE_FLOAT,
}
LABELS = {"*": FIELD.LABEL_REPEATED, "!": FIELD.LABEL_REQUIRED}

# Message -> its fields, each with its type; `*` is repeated, `!` required.
MESSAGES = {
    "InputStreamInfo": {"tag_index": "string", "back_edge": "bool"},
    "MediaPipeOptions": {},
    "InputStreamHandlerConfig": {"input_stream_handler": "string", "options": ".mediapipe.MediaPipeOptions"},
    "SyncSet": {"tag_index": "string*"},
    "SyncSetInputStreamHandlerOptions": {"sync_set": ".mediapipe.SyncSet*"},
    "Node": {
        "name": "string",
        "calculator": "string",
        "input_stream": "string*",
        "output_stream": "string*",
        "input_side_packet": "string*",
        "input_stream_info": ".mediapipe.InputStreamInfo*",
        "node_options": ".google.protobuf.Any*",
        "input_stream_handler": ".mediapipe.InputStreamHandlerConfig",
    },
    "CalculatorGraphConfig": {"input_stream": "string*", "output_stream": "string*", "node": ".mediapipe.Node*"},
    "LLMCalculatorOptions": {
        "models_path": "string!",
        "max_num_batched_tokens": "uint64",
        "cache_size": "uint64",
        "max_num_seqs": "uint64",
        "dynamic_split_fuse": "bool",
        "device": "string",
        "plugin_config": "string",
        "best_of_limit": "uint32",
        "max_tokens_limit": "uint32",
        "enable_prefix_caching": "bool",
        "draft_models_path": "string",
        "draft_device": "string",
        "draft_eagle3_mode": "bool",
        "pipeline_type": "enum:PipelineType:LM,VLM,LM_CB,VLM_CB,AUTO",
        "tool_parser": "string",
        "reasoning_parser": "string",
        "enable_tool_guided_generation": "bool",
        "chat_template_mode": "enum:ChatTemplateMode:MINJA,JINJA",
    },
    "EmbeddingsCalculatorOVOptions": {
        "models_path": "string!",
        "normalize_embeddings": "bool",
        "truncate": "bool",
        "target_device": "string",
        "plugin_config": "string",
        "pooling": "enum:Pooling:CLS,LAST,MEAN",
    },
    "RerankCalculatorOVOptions": {
        "models_path": "string!",
        "max_allowed_chunks": "uint64",
        "target_device": "string",
        "plugin_config": "string",
    },
    "ImageGenCalculatorOptions": {
        "models_path": "string!",
        "device": "string",
        "plugin_config": "string",
        "max_resolution": "string",
        "default_resolution": "string",
        "max_num_images_per_prompt": "uint64",
        "default_num_inference_steps": "uint64",
        "max_num_inference_steps": "uint64",
        "resolution": "string",
        "num_images_per_prompt": "int64",
        "guidance_scale": "float",
    },
    "T2sCalculatorOptions": {
        "models_path": "string!",
        "target_device": "string",
        "plugin_config": "string",
        "speed_min": "float",
        "speed_max": "float",
    },
    "S2tCalculatorOptions": {
        "models_path": "string!",
        "target_device": "string",
        "plugin_config": "string",
        "enable_word_timestamps": "bool",
    },
}


def parsed(text: str) -> Any:
    """The graph, read strictly: an unknown field, a wrong type, or a required field that is missing is an error."""
    graph = text_format.Parse(text, CLASSES["mediapipe.CalculatorGraphConfig"](), descriptor_pool=POOL)
    for node in graph.node:
        _options(node)
    return graph


def told(text: str) -> dict[str, Any]:
    """What the one calculator of a graph is told, by field, with the plugin's configuration read too."""
    (node,) = parsed(text).node
    values = {}
    for field, value in _options(node).ListFields():
        values[field.name] = field.enum_type.values_by_number[value].name if field.enum_type else value
    return values | {"plugin_config": json.loads(values["plugin_config"])}


def _options(node: Any) -> Message:
    (options,) = node.node_options
    # The server looks for the options under the name of the calculator.
    name = options.type_url.rpartition("/")[2]
    assert name == f"mediapipe.{node.calculator.removeprefix('Http')}Options"
    message = CLASSES[name].FromString(options.value)
    assert message.IsInitialized()
    return message


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    any_file = descriptor_pb2.FileDescriptorProto(name="any.proto", package="google.protobuf", syntax="proto3")
    any_message = any_file.message_type.add(name="Any")
    any_message.field.add(name="type_url", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    any_message.field.add(name="value", number=2, type=FIELD.TYPE_BYTES, label=FIELD.LABEL_OPTIONAL)
    pool.Add(any_file)
    file = descriptor_pb2.FileDescriptorProto(name="graph.proto", package="mediapipe", dependency=["any.proto"])
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            added = message.field.add(name=field, number=number, label=LABELS.get(kind[-1], FIELD.LABEL_OPTIONAL))
            _set_type(message, added, kind.rstrip("*!"))
        if name == "MediaPipeOptions":
            message.extension_range.add(start=100, end=200)
        if name == "SyncSetInputStreamHandlerOptions":
            message.extension.add(
                name="ext",
                number=101,
                extendee=".mediapipe.MediaPipeOptions",
                type=FIELD.TYPE_MESSAGE,
                type_name=".mediapipe.SyncSetInputStreamHandlerOptions",
                label=FIELD.LABEL_OPTIONAL,
            )
    pool.Add(file)
    return pool


def _set_type(message: descriptor_pb2.DescriptorProto, field: FIELD, kind: str) -> None:
    if kind.startswith("enum:"):
        _, enum, values = kind.split(":")
        described = message.enum_type.add(name=enum)
        for number, value in enumerate(values.split(",")):
            described.value.add(name=value, number=number)
        field.type, field.type_name = FIELD.TYPE_ENUM, f".mediapipe.{message.name}.{enum}"
    elif kind.startswith("."):
        field.type, field.type_name = FIELD.TYPE_MESSAGE, kind
    else:
        field.type = SCALARS[kind]


POOL = _pool()
CLASSES = message_factory.GetMessageClassesForFiles(["graph.proto"], POOL)
