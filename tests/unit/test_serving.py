"""The files of the model server, read back the way the server reads them."""

import json
import re

import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from common.catalog.openvino import ServingOptions
from common.errors import PublicationRefused, UnsupportedModel
from common.vocabulary import ModelType
from worker.serving import graph, register

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": FIELD.TYPE_STRING,
    "bool": FIELD.TYPE_BOOL,
    "uint64": FIELD.TYPE_UINT64,
}

# The part of the server's own descriptions that a graph of ours may use: type, then message -> its fields.
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
        "models_path": "string",
        "plugin_config": "string",
        "enable_prefix_caching": "bool",
        "cache_size": "uint64",
        "max_num_batched_tokens": "uint64",
        "dynamic_split_fuse": "bool",
        "max_num_seqs": "uint64",
        "device": "string",
        "pipeline_type": "enum:PipelineType:LM,LM_CB,VLM,VLM_CB,AUTO",
        "reasoning_parser": "string",
        "tool_parser": "string",
        "enable_tool_guided_generation": "bool",
    },
    "EmbeddingsCalculatorOVOptions": {
        "models_path": "string",
        "plugin_config": "string",
        "normalize_embeddings": "bool",
        "pooling": "enum:Pooling:CLS,LAST,MEAN",
        "truncate": "bool",
        "target_device": "string",
    },
    "RerankCalculatorOVOptions": {"models_path": "string", "plugin_config": "string", "target_device": "string"},
}


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
            many = kind.endswith("*")
            added = message.field.add(
                name=field, number=number, label=FIELD.LABEL_REPEATED if many else FIELD.LABEL_OPTIONAL
            )
            _set_type(message, added, kind.rstrip("*"))
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


def parsed(text: str) -> Message:
    """The graph, read strictly: an unknown field or a wrong type is an error."""
    return text_format.Parse(text, CLASSES["mediapipe.CalculatorGraphConfig"](), descriptor_pool=POOL)


def told(text: str) -> dict[str, object]:
    """What the calculator is told, by field, with the plugin's configuration read too."""
    options = parsed(text).node[0].node_options[0]
    message = CLASSES[options.type_url.rpartition("/")[2]].FromString(options.value)
    values = {}
    for field, value in message.ListFields():
        values[field.name] = field.enum_type.values_by_number[value].name if field.enum_type else value
    return values | {"plugin_config": json.loads(values["plugin_config"])}


def test_a_language_model_has_its_defaults():
    text = graph(ModelType.LLM, "CPU", ServingOptions())
    assert text.startswith("# OVMS_GRAPH_QUEUE_MAX_SIZE: AUTO\n")
    assert told(text) == {
        "models_path": "./",
        "plugin_config": {},
        "enable_prefix_caching": True,
        "cache_size": 0,
        "max_num_seqs": 256,
        "device": "CPU",
    }
    node = parsed(text).node[0]
    assert node.calculator == "HttpLLMCalculator"
    assert list(node.input_stream) == ["LOOPBACK:loopback", "HTTP_REQUEST_PAYLOAD:input"]
    assert list(node.output_stream) == ["LOOPBACK:loopback", "HTTP_RESPONSE_PAYLOAD:output"]
    assert list(node.input_side_packet) == ["LLM_NODE_RESOURCES:llm"]
    assert node.input_stream_info[0].tag_index == "LOOPBACK:0"
    assert node.input_stream_info[0].back_edge
    handler = node.input_stream_handler
    sync = POOL.FindExtensionByName("mediapipe.SyncSetInputStreamHandlerOptions.ext")
    assert handler.input_stream_handler == "SyncSetInputStreamHandler"
    assert handler.options.Extensions[sync].sync_set[0].tag_index == ["LOOPBACK:0"]


@pytest.mark.parametrize("size", [0, 4, 10, 123])
def test_scripts_find_the_size_of_the_cache(size):
    text = graph(ModelType.LLM, "GPU", ServingOptions(cache_size=size))
    assert re.search(rf"^ *cache_size:\s*{size},?$", text, re.MULTILINE)
    patched = re.sub(rf"cache_size:\s*{size}\b", "cache_size: 7", text)
    assert told(patched)["cache_size"] == 7


def test_everything_that_a_language_model_may_be_told():
    options = ServingOptions(
        cache_size=4,
        kv_cache_precision="u8",
        enable_prefix_caching=False,
        dynamic_split_fuse=False,
        max_num_batched_tokens=512,
        max_num_seqs=8,
        prompt_lookup_decoding=True,
        pipeline_type="LM_CB",
        reasoning_parser="qwen3",
        tool_parser="hermes3",
        enable_tool_guided_generation=True,
        ov_cache_dir="/var/cache/ov",
    )
    assert told(graph(ModelType.LLM, "GPU", options)) == {
        "models_path": "./",
        "plugin_config": {"KV_CACHE_PRECISION": "u8", "CACHE_DIR": "/var/cache/ov", "prompt_lookup": True},
        "enable_prefix_caching": False,
        "cache_size": 4,
        "max_num_batched_tokens": 512,
        "dynamic_split_fuse": False,
        "max_num_seqs": 8,
        "device": "GPU",
        "pipeline_type": "LM_CB",
        "reasoning_parser": "qwen3",
        "tool_parser": "hermes3",
        "enable_tool_guided_generation": True,
    }


def test_npu_is_told_about_prompts():
    npu = told(graph(ModelType.LLM, "NPU", ServingOptions(max_prompt_len=2048)))
    assert npu["device"] == "NPU"
    assert npu["plugin_config"] == {
        "DEVICE_PROPERTIES": {"NPU": {"MAX_PROMPT_LEN": 2048, "NPUW_LLM_ENABLE_PREFIX_CACHING": True}}
    }
    off = told(graph(ModelType.LLM, "NPU", ServingOptions(enable_prefix_caching=False)))
    assert off["plugin_config"] == {"DEVICE_PROPERTIES": {"NPU": {"NPUW_LLM_ENABLE_PREFIX_CACHING": False}}}


@pytest.mark.parametrize("model_type", [ModelType.LLM, ModelType.EMBEDDINGS, ModelType.RERANK])
def test_several_devices_share_a_model_as_a_pipeline(model_type):
    options = told(graph(model_type, "HETERO:GPU,CPU", ServingOptions()))
    assert options["plugin_config"]["MODEL_DISTRIBUTION_POLICY"] == "PIPELINE_PARALLEL"
    assert "HETERO:GPU,CPU" in {options.get("device"), options.get("target_device")}


def test_a_pipeline_fits_the_model_and_the_device():
    assert told(graph(ModelType.VLM, "CPU", ServingOptions()))["pipeline_type"] == "VLM"
    assert told(graph(ModelType.VLM, "CPU", ServingOptions(pipeline_type="VLM_CB")))["pipeline_type"] == "VLM_CB"
    assert told(graph(ModelType.LLM, "HETERO:GPU,CPU", ServingOptions()))["pipeline_type"] == "LM"
    assert "pipeline_type" not in told(graph(ModelType.LLM, "GPU", ServingOptions()))


def test_embeddings_have_their_defaults():
    text = graph(ModelType.EMBEDDINGS, "CPU", ServingOptions())
    assert told(text) == {
        "models_path": "./",
        "plugin_config": {"NUM_STREAMS": "1"},
        "normalize_embeddings": True,
        "pooling": "CLS",
        "truncate": False,
        "target_device": "CPU",
    }
    node = parsed(text).node[0]
    assert (node.calculator, list(node.input_stream)) == ("EmbeddingsCalculatorOV", ["REQUEST_PAYLOAD:input"])
    assert list(node.input_side_packet) == ["EMBEDDINGS_NODE_RESOURCES:embeddings_servable"]
    assert not node.input_stream_info


def test_embeddings_do_as_they_are_told():
    options = ServingOptions(normalize=False, pooling="MEAN", truncate=True, num_streams=2, ov_cache_dir="/c")
    values = told(graph(ModelType.EMBEDDINGS, "GPU.1", options))
    assert (values["normalize_embeddings"], values["pooling"], values["truncate"]) == (False, "MEAN", True)
    assert values["plugin_config"] == {"NUM_STREAMS": "2", "CACHE_DIR": "/c"}


def test_a_reranker_has_a_graph():
    text = graph(ModelType.RERANK, "GPU", ServingOptions(num_streams=3))
    assert told(text) == {"models_path": "./", "plugin_config": {"NUM_STREAMS": "3"}, "target_device": "GPU"}
    assert parsed(text).node[0].calculator == "RerankCalculatorOV"


def test_other_types_have_no_graph():
    with pytest.raises(UnsupportedModel):
        graph(ModelType.VISION, "CPU", ServingOptions())


@given(st.text(min_size=1, max_size=60), st.sampled_from([ModelType.LLM, ModelType.EMBEDDINGS, ModelType.RERANK]))
def test_no_value_can_break_out_of_its_quotes(folder, model_type):
    try:
        folder.encode()
    except UnicodeEncodeError:
        return
    options = msgspec.structs.replace(ServingOptions(), ov_cache_dir=folder)
    assert told(graph(model_type, "CPU", options))["plugin_config"]["CACHE_DIR"] == folder


@given(st.text(min_size=1, max_size=30).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_no_device_can_break_out_of_its_quotes(device):
    assert told(graph(ModelType.RERANK, device, ServingOptions()))["target_device"] == device


def entry(name: str, base_path: str | None = None) -> dict[str, object]:
    return {"config": {"name": name, "base_path": base_path or name}}


def test_the_first_model_makes_the_list(tmp_path):
    file = tmp_path / "config_all.json"
    register(file, "Org/Model", "Org/Model")
    assert json.loads(file.read_text()) == {"model_config_list": [entry("Org/Model")]}
    assert [path.name for path in tmp_path.iterdir()] == ["config_all.json"]


def test_a_model_is_listed_once(tmp_path):
    file = tmp_path / "config_all.json"
    for name in ("a/one", "a/two", "a/one"):
        register(file, name, name)
    register(file, "a/two", "elsewhere")
    assert json.loads(file.read_text()) == {"model_config_list": [entry("a/one"), entry("a/two", "elsewhere")]}


def test_what_others_wrote_is_kept(tmp_path):
    file = tmp_path / "config_all.json"
    other = {"config": {"name": "b", "base_path": "b", "target_device": "GPU"}, "comment": 1}
    file.write_text(json.dumps({"monitoring": {"metrics": {"enable": True}}, "model_config_list": [other, "odd"]}))
    register(file, "a", "a")
    register(file, "b", "moved")
    assert json.loads(file.read_text()) == {
        "monitoring": {"metrics": {"enable": True}},
        "model_config_list": [
            {"config": {"name": "b", "base_path": "moved", "target_device": "GPU"}, "comment": 1},
            "odd",
            entry("a"),
        ],
    }


def test_the_older_list_of_graphs_moves(tmp_path):
    file = tmp_path / "config_all.json"
    old = [{"name": "old", "base_path": "old", "graph_path": "graph.pbtxt"}, {"name": "other", "base_path": "o"}]
    file.write_text(json.dumps({"mediapipe_config_list": old, "model_config_list": [entry("other_model", "x")]}))
    register(file, "new", "new")
    assert json.loads(file.read_text()) == {
        "model_config_list": [
            entry("other_model", "o"),
            {"config": {"name": "old_model", "base_path": "old", "graph_path": "graph.pbtxt"}},
            entry("new"),
        ]
    }


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"model_config_list": {}}', '{"mediapipe_config_list": 1}', "\x00"]
)
def test_a_file_that_is_no_list_is_left_alone(tmp_path, content):
    file = tmp_path / "config_all.json"
    file.write_text(content)
    with pytest.raises(PublicationRefused, match=r"config_all\.json"):
        register(file, "a", "a")
    assert file.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["config_all.json"]
