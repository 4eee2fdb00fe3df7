"""The files of the model server, read back the way the server reads them."""

import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from google.protobuf import text_format
from google.protobuf.message import EncodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.catalog.openvino.serving import FIELDS, SENT_TO_ALL, ServingOptions, complete_serving, serving_for
from common.errors import InvalidSpec, OutputIncomplete, PublicationRefused, UnsupportedModel
from common.spec import Target
from common.vocabulary import Format, ModelType, Precision
from tests.protos.model_server import MESSAGES, POOL, parsed, told
from worker.serving import graph, is_served, register, register_model, unregister, unregister_model, write_serving
from worker.serving.text_format import Word, lines, message

GRAPH_TYPES = [model_type for model_type in FIELDS if model_type is not ModelType.VISION]
DEVICES = ["CPU", "GPU", "GPU.1", "NPU", "HETERO:GPU,CPU", "HETERO:NPU,GPU.1,CPU"]

HOSTILE = st.text(st.sampled_from("a1\"'\\{}[]:,#\n\r\t\x00\x7fé𝄞 \u2028"), max_size=12)


def bound(**said: object) -> ServingOptions:
    """Options as they come from a request."""
    return msgspec.convert(said, ServingOptions, strict=False)


def served(model_type: ModelType | None, device: str = "CPU", **said: object) -> dict[str, object]:
    return serving_for(model_type, device, bound(**said))


class TestGraphs:
    def test_a_language_model_has_its_defaults(self):
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

    @pytest.mark.parametrize("model_type", [ModelType.LLM, ModelType.VLM, ModelType.SPEECH2TEXT])
    def test_what_answers_bit_by_bit_feeds_itself(self, model_type):
        node = parsed(graph(model_type, "CPU", ServingOptions())).node[0]
        assert list(node.input_stream) == ["LOOPBACK:loopback", "HTTP_REQUEST_PAYLOAD:input"]
        assert list(node.output_stream) == ["LOOPBACK:loopback", "HTTP_RESPONSE_PAYLOAD:output"]
        assert node.input_stream_info[0].tag_index == "LOOPBACK:0"
        assert node.input_stream_info[0].back_edge
        handler = node.input_stream_handler
        sync = POOL.FindExtensionByName("mediapipe.SyncSetInputStreamHandlerOptions.ext")
        assert handler.input_stream_handler == "SyncSetInputStreamHandler"
        assert handler.options.Extensions[sync].sync_set[0].tag_index == ["LOOPBACK:0"]

    @pytest.mark.parametrize(
        ("model_type", "name", "calculator", "resources", "payload"),
        [
            (ModelType.LLM, "LLMExecutor", "HttpLLMCalculator", "LLM_NODE_RESOURCES:llm", "HTTP_"),
            (ModelType.VLM, "LLMExecutor", "HttpLLMCalculator", "LLM_NODE_RESOURCES:llm", "HTTP_"),
            (
                ModelType.EMBEDDINGS,
                "EmbeddingsExecutor",
                "EmbeddingsCalculatorOV",
                "EMBEDDINGS_NODE_RESOURCES:embeddings_servable",
                "",
            ),
            (ModelType.RERANK, "RerankExecutor", "RerankCalculatorOV", "RERANK_NODE_RESOURCES:rerank_servable", ""),
            (
                ModelType.IMAGE_GENERATION,
                "ImageGenExecutor",
                "ImageGenCalculator",
                "IMAGE_GEN_NODE_RESOURCES:pipes",
                "HTTP_",
            ),
            (ModelType.TEXT2SPEECH, "T2sExecutor", "T2sCalculator", "TTS_NODE_RESOURCES:t2s_servable", "HTTP_"),
            (ModelType.SPEECH2TEXT, "S2tExecutor", "S2tCalculator", "STT_NODE_RESOURCES:s2t_servable", "HTTP_"),
        ],
    )
    def test_each_type_has_its_calculator(self, model_type, name, calculator, resources, payload):
        whole = parsed(graph(model_type, "CPU", ServingOptions()))
        (node,) = whole.node
        assert (node.name, node.calculator, list(node.input_side_packet)) == (name, calculator, [resources])
        assert list(whole.input_stream) == [f"{payload}REQUEST_PAYLOAD:input"] == list(node.input_stream)[-1:]
        assert list(whole.output_stream) == [f"{payload}RESPONSE_PAYLOAD:output"] == list(node.output_stream)[-1:]
        assert bool(node.input_stream_info) is node.HasField("input_stream_handler") is (len(node.input_stream) == 2)

    @pytest.mark.parametrize("size", [0, 4, 10, 123])
    def test_scripts_find_the_size_of_the_cache(self, size):
        text = graph(ModelType.LLM, "GPU", ServingOptions(cache_size=size))
        assert re.search(rf"^ *cache_size: {size},$", text, re.MULTILINE)
        patched = re.sub(rf"cache_size:\s*{size}\b", "cache_size: 7", text)
        assert told(patched)["cache_size"] == 7

    def test_everything_that_a_language_model_may_be_told(self):
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
            best_of_limit=4,
            max_tokens_limit=2048,
            chat_template_mode="JINJA",
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
            "best_of_limit": 4,
            "max_tokens_limit": 2048,
            "chat_template_mode": "JINJA",
        }

    @pytest.mark.parametrize("device", ["CPU", "GPU.1"])
    def test_a_draft_is_below_the_model_and_on_its_device(self, device):
        options = told(graph(ModelType.LLM, device, ServingOptions(draft_models_path="./org-small")))
        assert (options["draft_models_path"], options["draft_device"]) == ("./org-small", device)
        eagle = told(graph(ModelType.LLM, device, ServingOptions(draft_models_path="./e", draft_eagle3_mode=True)))
        assert (eagle["draft_eagle3_mode"], eagle["max_num_seqs"], options["max_num_seqs"]) == (True, 1, 256)
        assert (
            not {"draft_models_path", "draft_device", "draft_eagle3_mode"}
            & told(graph(ModelType.LLM, device, ServingOptions())).keys()
        )

    def test_npu_is_told_about_prompts(self):
        npu = told(graph(ModelType.LLM, "NPU", ServingOptions(max_prompt_len=2048)))
        assert npu["device"] == "NPU"
        assert npu["plugin_config"] == {
            "DEVICE_PROPERTIES": {"NPU": {"MAX_PROMPT_LEN": 2048, "NPUW_LLM_ENABLE_PREFIX_CACHING": True}}
        }
        off = told(graph(ModelType.LLM, "NPU", ServingOptions(enable_prefix_caching=False)))
        assert off["plugin_config"] == {"DEVICE_PROPERTIES": {"NPU": {"NPUW_LLM_ENABLE_PREFIX_CACHING": False}}}

    @pytest.mark.parametrize("model_type", GRAPH_TYPES)
    @pytest.mark.parametrize("device", DEVICES)
    def test_several_devices_share_a_model_as_a_pipeline(self, model_type, device):
        options = told(graph(model_type, device, ServingOptions()))
        policy = "PIPELINE_PARALLEL" if device.startswith("HETERO") else None
        assert options["plugin_config"].get("MODEL_DISTRIBUTION_POLICY") == policy
        assert {options.get("device"), options.get("target_device")} == {device, None}

    def test_a_pipeline_fits_the_model_and_the_device(self):
        assert told(graph(ModelType.VLM, "CPU", ServingOptions()))["pipeline_type"] == "VLM"
        assert told(graph(ModelType.VLM, "CPU", ServingOptions(pipeline_type="VLM_CB")))["pipeline_type"] == "VLM_CB"
        assert told(graph(ModelType.LLM, "HETERO:GPU,CPU", ServingOptions()))["pipeline_type"] == "LM"
        assert "pipeline_type" not in told(graph(ModelType.LLM, "GPU", ServingOptions()))

    def test_embeddings_have_their_defaults(self):
        assert told(graph(ModelType.EMBEDDINGS, "CPU", ServingOptions())) == {
            "models_path": "./",
            "plugin_config": {"NUM_STREAMS": "1"},
            "normalize_embeddings": True,
            "pooling": "CLS",
            "truncate": False,
            "target_device": "CPU",
        }

    def test_embeddings_do_as_they_are_told(self):
        options = ServingOptions(normalize=False, pooling="MEAN", truncate=True, num_streams=2, ov_cache_dir="/c")
        values = told(graph(ModelType.EMBEDDINGS, "GPU.1", options))
        assert (values["normalize_embeddings"], values["pooling"], values["truncate"]) == (False, "MEAN", True)
        assert values["plugin_config"] == {"NUM_STREAMS": "2", "CACHE_DIR": "/c"}

    def test_a_reranker_has_a_graph(self):
        values = told(graph(ModelType.RERANK, "GPU", ServingOptions(num_streams=3, max_allowed_chunks=50)))
        assert values == {
            "models_path": "./",
            "plugin_config": {"NUM_STREAMS": "3"},
            "max_allowed_chunks": 50,
            "target_device": "GPU",
        }

    def test_pictures_of_any_size(self):
        assert told(graph(ModelType.IMAGE_GENERATION, "CPU", ServingOptions())) == {
            "models_path": "./",
            "plugin_config": {},
            "device": "CPU",
        }
        options = ServingOptions(
            num_streams=2,
            ov_cache_dir="/c",
            max_resolution="1024x768",
            default_resolution="512x512",
            max_num_images_per_prompt=4,
            default_num_inference_steps=20,
            max_num_inference_steps=60,
        )
        assert told(graph(ModelType.IMAGE_GENERATION, "GPU", options)) == {
            "models_path": "./",
            "plugin_config": {"NUM_STREAMS": "2", "CACHE_DIR": "/c"},
            "device": "GPU",
            "max_resolution": "1024x768",
            "default_resolution": "512x512",
            "max_num_images_per_prompt": 4,
            "default_num_inference_steps": 20,
            "max_num_inference_steps": 60,
        }

    def test_pictures_of_one_size_on_npu(self):
        options = ServingOptions(resolution="512x512", num_images_per_prompt=2, guidance_scale=7.5)
        assert told(graph(ModelType.IMAGE_GENERATION, "NPU", options)) == {
            "models_path": "./",
            "plugin_config": {},
            "device": "NPU",
            "resolution": "512x512",
            "num_images_per_prompt": 2,
            "guidance_scale": 7.5,
        }

    def test_speech_both_ways(self):
        spoken = told(graph(ModelType.TEXT2SPEECH, "CPU", ServingOptions(num_streams=2, speed_min=0.5, speed_max=2)))
        assert spoken == {
            "models_path": "./",
            "plugin_config": {"NUM_STREAMS": "2"},
            "target_device": "CPU",
            "speed_min": 0.5,
            "speed_max": 2.0,
        }
        heard = graph(ModelType.SPEECH2TEXT, "GPU", ServingOptions(enable_word_timestamps=True, ov_cache_dir="/c"))
        assert told(heard) == {
            "models_path": "./",
            "plugin_config": {"NUM_STREAMS": "1", "CACHE_DIR": "/c"},
            "target_device": "GPU",
            "enable_word_timestamps": True,
        }
        assert "enable_word_timestamps: false," in graph(ModelType.SPEECH2TEXT, "CPU", ServingOptions())

    def test_plain_models_have_no_graph(self):
        with pytest.raises(UnsupportedModel):
            graph(ModelType.VISION, "CPU", ServingOptions())

    @pytest.mark.parametrize("model_type", GRAPH_TYPES)
    def test_a_graph_that_is_not_as_the_server_has_it_is_found_out(self, model_type):
        text = graph(model_type, "CPU", ServingOptions())
        field = 'models_path: "./",'
        for wrong in ('model_path: "./",', "models_path: 1,", 'models_path: "./" "', ""):
            with pytest.raises((text_format.ParseError, EncodeError)):
                parsed(text.replace(field, wrong))
        with pytest.raises((text_format.ParseError, AssertionError)):
            parsed(text.replace("CalculatorOptions", "KalkulatorOptions").replace("OVOptions", "OWOptions"))

    def test_every_option_of_a_type_reaches_the_server(self):
        values = {
            "kv_cache_precision": "u8",
            "pipeline_type": "LM",
            "chat_template_mode": "MINJA",
            "reasoning_parser": "qwen3",
            "tool_parser": "llama3",
            "pooling": "LAST",
            "resolution": "64x64",
            "max_resolution": "64x65",
            "default_resolution": "64x64",
            "ov_cache_dir": "/cache",
            "normalize": False,
            "enable_prefix_caching": False,
            "draft_models_path": "./org-small",
        }
        for model_type in GRAPH_TYPES:
            device = "NPU" if model_type in {ModelType.LLM, ModelType.VLM} else "CPU"
            plain = graph(model_type, device, ServingOptions())
            for name in FIELDS[model_type]:
                # 7 is a number, a true and no default of anything.
                options = bound(**{name: values.get(name, True if "bool" in _type_of(name) else 7)})
                assert graph(model_type, device, options) != plain, f"'{name}' says nothing to '{model_type}'"

    @given(HOSTILE.filter(lambda text: text and text.isprintable()), st.sampled_from(GRAPH_TYPES))
    @example('/it\'s/"here"', ModelType.LLM)
    @example("'}', models_path: \"/etc\"", ModelType.TEXT2SPEECH)
    def test_no_folder_can_break_out_of_its_quotes(self, folder, model_type):
        values = told(graph(model_type, "CPU", bound(ov_cache_dir=folder)))
        assert (values["plugin_config"]["CACHE_DIR"], values["models_path"]) == (folder, "./")

    @given(st.data(), st.sampled_from(GRAPH_TYPES), st.sampled_from(DEVICES))
    @settings(deadline=None, max_examples=200)
    def test_whatever_is_accepted_can_be_read_by_the_server(self, data, model_type, device):
        said = data.draw(_config(model_type))
        try:
            serving = served(model_type, device, **said)
        except (InvalidSpec, msgspec.ValidationError):
            return
        values = told(graph(model_type, device, bound(**serving)))
        for name in serving.keys() & MESSAGES[_options_message(model_type)].keys():
            assert values[name] == (pytest.approx(serving[name]) if isinstance(serving[name], float) else serving[name])
        if "ov_cache_dir" in serving:
            assert values["plugin_config"]["CACHE_DIR"] == serving["ov_cache_dir"]


def _type_of(name: str) -> str:
    return str(ServingOptions.__annotations__[name])


def _options_message(model_type: ModelType) -> str:
    return parsed(graph(model_type, "CPU", ServingOptions())).node[0].node_options[0].type_url.rpartition(".")[2]


SCHEMA = msgspec.json.schema(ServingOptions)["$defs"]["ServingOptions"]["properties"]


def _config(model_type: ModelType) -> st.SearchStrategy[dict[str, object]]:
    """A few options of a type, most of them with good values."""
    names = st.lists(st.sampled_from(sorted(FIELDS[model_type])), unique=True, max_size=4)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: _values(name) for name in chosen}))


def _values(name: str) -> st.SearchStrategy[object]:
    declared = SCHEMA[name]
    branches = declared.get("anyOf", [declared])
    known = [value for branch in branches for value in (*branch.get("enum", []), *branch.get("examples", [])) if value]
    typed = {"boolean": st.booleans(), "integer": st.integers(1, 300), "number": st.floats(0.1, 9)}
    types = [branch.get("type") for branch in branches]
    otherwise = next((typed[one] for one in types if one in typed), st.text(st.sampled_from("/a'\"\\"), min_size=1))
    good = st.sampled_from(known) if known else otherwise
    return st.integers(0, 15).flatmap(lambda dice: good if dice else HOSTILE | st.integers(-1, 2**70))


class TestTextFormat:
    @given(HOSTILE | st.text().filter(lambda text: not re.search("[\ud800-\udfff]", text)))
    @example('it\'s a "trap" }')
    @example("\\")
    @example("\\' \\\"")
    def test_no_text_can_break_out_of_its_quotes(self, text):
        written = "\n".join(lines(message(("node", message(("name", text), ("calculator", "next"))))))
        (node,) = text_format.Parse(written, type(parsed(""))()).node
        assert (node.name, node.calculator) == (text, "next")

    @given(st.floats(allow_nan=False, allow_infinity=False, width=32))
    def test_numbers_are_read_as_they_are(self, number):
        text = graph(ModelType.TEXT2SPEECH, "CPU", ServingOptions(speed_max=number))
        assert told(text).get("speed_max", 0.0) == number

    def test_values_have_their_own_forms(self):
        fields = (("a", True), ("b", False), ("c", 1), ("d", 0.5), ("e", Word("X")), ("f", 'say "x"'), ("g", None))
        assert lines(message(*fields)) == ["a: true", "b: false", "c: 1", "d: 0.5", "e: X", "f: 'say \"x\"'"]


class TestOptions:
    def test_an_option_belongs_to_some_type(self):
        assert set().union(*FIELDS.values()) == set(ServingOptions.__struct_fields__)
        assert set(ServingOptions.__struct_fields__) >= SENT_TO_ALL
        assert {model_type for model_type in ModelType if is_served(model_type)} == FIELDS.keys()

    @pytest.mark.parametrize("model_type", FIELDS)
    def test_what_clients_send_with_all_models_is_passed_over_where_it_means_nothing(self, model_type):
        said = {
            "cache_size": "10",
            "kv_cache_precision": "u8",
            "enable_prefix_caching": "true",
            "max_num_seqs": 8,
            "normalize": True,
            "pooling": "MEAN",
            "truncate": False,
            "num_streams": "2",
            "ov_cache_dir": "/cache",
        }
        serving = served(model_type, **said)
        assert serving.keys() - {"pipeline_type"} == said.keys() & FIELDS[model_type]

    @pytest.mark.parametrize(
        ("model_type", "name", "value", "types"),
        [
            (ModelType.EMBEDDINGS, "tool_parser", "hermes3", "'llm' or 'vlm'"),
            (ModelType.RERANK, "resolution", "512x512", "'image_generation'"),
            (ModelType.LLM, "enable_word_timestamps", True, "'speech2text'"),
            (ModelType.SPEECH2TEXT, "speed_max", 2.0, "'text2speech'"),
            (ModelType.IMAGE_GENERATION, "shape", "auto", "'vision'"),
            (ModelType.VISION, "max_allowed_chunks", 5, "'rerank'"),
        ],
    )
    def test_any_other_option_of_another_type_is_refused(self, model_type, name, value, types):
        with pytest.raises(InvalidSpec, match=f"^'{name}' is for models of type {types}, not '{model_type}'$"):
            served(model_type, **{name: value})

    def test_while_the_type_is_not_known_everything_is_kept(self):
        said = {"cache_size": 4, "pooling": "MEAN", "resolution": "64x64", "speed_max": 2.0, "shape": "auto"}
        assert served(None, **said) == said

    @pytest.mark.parametrize(
        ("model_type", "kept"),
        [
            (ModelType.LLM, {"cache_size": 4}),
            (ModelType.VLM, {"cache_size": 4, "pipeline_type": "VLM"}),
            (ModelType.EMBEDDINGS, {"pooling": "MEAN"}),
            (ModelType.IMAGE_GENERATION, {"resolution": "64x64"}),
            (ModelType.VISION, {"shape": "auto"}),
            (ModelType.RPPG, {}),
        ],
    )
    def test_once_the_type_is_known_only_its_options_are_left(self, model_type, kept):
        said = {"cache_size": 4, "pooling": "MEAN", "resolution": "64x64", "shape": "auto"}
        assert complete_serving(model_type, said) == kept
        assert complete_serving(model_type, complete_serving(model_type, said)) == kept

    @given(st.data(), st.sampled_from(list(FIELDS)), st.sampled_from(DEVICES))
    @settings(deadline=None, max_examples=200)
    def test_early_or_late_the_same_type_gets_the_same_options(self, data, model_type, device):
        said = data.draw(_config(model_type))
        try:
            early, late = served(model_type, device, **said), served(None, device, **said)
        except (InvalidSpec, msgspec.ValidationError):
            return
        assert complete_serving(model_type, late) == early == complete_serving(model_type, early)

    def test_a_vlm_has_its_own_pipeline_unless_told_otherwise(self):
        assert served(ModelType.VLM) == {"pipeline_type": "VLM"}
        assert served(ModelType.VLM, pipeline_type="VLM_CB") == {"pipeline_type": "VLM_CB"}
        assert complete_serving(ModelType.VLM, {"pipeline_type": "VLM_CB"}) == {"pipeline_type": "VLM_CB"}

    @pytest.mark.parametrize("name", ["tool_parser", "reasoning_parser"])
    def test_a_parser_is_known_or_at_least_a_name(self, name):
        for parser in ("qwen3", "newer-than_this.list4"):
            assert served(ModelType.LLM, **{name: parser}) == {name: parser}
        for parser in ("", "Hermes3", 'x"\n}', "a b", "-x", "x" * 41, "ᵃ"):
            with pytest.raises(msgspec.ValidationError, match=f"'{name}' must be the name of a parser .*gptoss"):
                bound(**{name: parser})

    @pytest.mark.parametrize(
        ("device", "said", "about"),
        [
            ("CPU", {"max_prompt_len": 1024}, "max_prompt_len"),
            ("HETERO:NPU,CPU", {"max_prompt_len": 1024}, "max_prompt_len"),
            ("CPU", {"tool_parser": "gptoss"}, "gptoss"),
            ("CPU", {"tool_parser": "gptoss", "reasoning_parser": "qwen3"}, "gptoss"),
            ("HETERO:GPU,CPU", {"pipeline_type": "VLM_CB"}, "'LM' or 'VLM'"),
            ("HETERO:GPU,CPU", {"pipeline_type": "AUTO"}, "'LM' or 'VLM'"),
        ],
    )
    @pytest.mark.parametrize("model_type", [ModelType.LLM, ModelType.VLM, None])
    def test_a_generator_cannot_be_told_everything(self, model_type, device, said, about):
        with pytest.raises(InvalidSpec, match=about):
            served(model_type, device, **said)

    @pytest.mark.parametrize(
        ("device", "said", "about"),
        [
            ("NPU", {}, "NPU needs one fixed 'resolution'"),
            ("HETERO:NPU,CPU", {}, "NPU needs one fixed 'resolution'"),
            ("NPU", {"resolution": "64x64 32x32"}, "NPU needs one fixed 'resolution'"),
            ("CPU", {"resolution": "64x64 64x64"}, "twice"),
            ("CPU", {"num_images_per_prompt": 2}, "'num_images_per_prompt' is compiled"),
            ("CPU", {"guidance_scale": 2, "resolution": "64x64 32x32"}, "'guidance_scale' is compiled"),
            ("CPU", {"resolution": "64x64", "max_resolution": "64x64"}, "exclude"),
            ("CPU", {"resolution": "64x64", "max_num_images_per_prompt": 2}, "exclude"),
            ("CPU", {"resolution": "64x64", "default_resolution": "32x32"}, "none of the sizes"),
            ("CPU", {"max_resolution": "64x64", "default_resolution": "32x128"}, "larger than 'max_resolution', 64x64"),
            ("CPU", {"default_resolution": "4097x64"}, "larger than 'max_resolution', 4096x4096"),
            ("CPU", {"default_num_inference_steps": 101}, "Set 'max_num_inference_steps' too"),
            ("CPU", {"max_num_inference_steps": 49}, "Set 'default_num_inference_steps' too"),
            ("CPU", {"default_num_inference_steps": 9, "max_num_inference_steps": 8}, r"9, must not be more.*8$"),
        ],
    )
    def test_pictures_that_no_server_would_make_are_refused(self, device, said, about):
        with pytest.raises(InvalidSpec, match=about):
            served(ModelType.IMAGE_GENERATION, device, **said)

    @pytest.mark.parametrize(
        ("device", "said"),
        [
            ("NPU", {"resolution": "64x64", "num_images_per_prompt": 2, "guidance_scale": 7.0}),
            ("CPU", {"resolution": "64x64 32x32", "default_resolution": "32x32", "max_num_images_per_prompt": 2}),
            ("CPU", {"max_resolution": "8192x8192", "default_resolution": "8192x64"}),
            ("CPU", {"default_num_inference_steps": 100}),
            ("CPU", {"max_num_inference_steps": 50}),
        ],
    )
    def test_pictures_that_a_server_makes_are_not(self, device, said):
        assert served(ModelType.IMAGE_GENERATION, device, **said) == said

    def test_speech_is_not_slower_than_it_is_fast(self):
        assert served(ModelType.TEXT2SPEECH, speed_min="2", speed_max=2) == {"speed_min": 2.0, "speed_max": 2.0}
        with pytest.raises(InvalidSpec, match="Set 'speed_max' too"):
            served(ModelType.TEXT2SPEECH, speed_min=5)
        with pytest.raises(InvalidSpec, match=r"'speed_min', 2\.0, must not be more than 'speed_max', 1\.0$"):
            served(ModelType.TEXT2SPEECH, speed_min=2, speed_max=1)

    def test_npu_needs_to_know_the_shape_of_a_picture(self):
        assert served(ModelType.VISION, "NPU", shape="(1,3,224,224)") == {"shape": "(1,3,224,224)"}
        assert served(ModelType.VISION, "HETERO:NPU,CPU") == {}
        with pytest.raises(InvalidSpec, match="needs a fixed 'shape'"):
            served(ModelType.VISION, "NPU")

    @pytest.mark.parametrize(
        "said",
        [
            {"cache_size": -1},
            {"cache_size": ""},
            {"cache_size": 2**64},
            {"max_num_seqs": 0},
            {"max_num_seqs": 2**31},
            {"kv_cache_precision": "u1"},
            {"pipeline_type": "BEST"},
            {"pooling": "mean"},
            {"resolution": "512"},
            {"resolution": "512x0"},
            {"resolution": "512x512  64x64"},
            {"resolution": "512x512\n"},
            {"default_resolution": "512x512 64x64"},
            {"guidance_scale": float("nan")},
            {"guidance_scale": float("inf")},
            {"speed_min": 0},
            {"enable_word_timestamps": "maybe"},
            {"shape": "1,3,224,224"},
            {"shape": "(1,0)"},
            {"shape": "(1,3)\n"},
            {"layout": "NHWC\n"},
            {"shape": "{}"},
            {"layout": "nchw"},
            {"ov_cache_dir": ""},
            {"ov_cache_dir": "/a\nb"},
            {"ov_cache_dir": "\ud800"},
        ],
    )
    def test_ill_formed_values_are_refused(self, said):
        with pytest.raises(msgspec.ValidationError):
            bound(**said)

    @pytest.mark.parametrize("shape", ["auto", "(1,3,224,224)", "(-1,3,200:500,200:500)"])
    @pytest.mark.parametrize("layout", ["NHWC", "NHWC:NCHW", "N?HW", "N...:N..."])
    def test_shapes_and_layouts_are_the_servers_own(self, shape, layout):
        assert served(ModelType.VISION, shape=shape, layout=layout) == {"shape": shape, "layout": layout}


def entry(name: str, base_path: str | None = None, **more: object) -> dict[str, object]:
    return {"config": {"name": name, "base_path": base_path or name, **more}}


class TestIndex:
    def test_the_first_model_makes_the_list(self, tmp_path):
        file = tmp_path / "config_all.json"
        register(file, "Org/Model", "Org/Model")
        assert json.loads(file.read_text()) == {"model_config_list": [entry("Org/Model")]}
        assert [path.name for path in tmp_path.iterdir()] == ["config_all.json"]

    def test_a_model_is_listed_once(self, tmp_path):
        file = tmp_path / "config_all.json"
        for name in ("a/one", "a/two", "a/one"):
            register(file, name, name)
        register(file, "a/two", "elsewhere")
        assert json.loads(file.read_text()) == {"model_config_list": [entry("a/one"), entry("a/two", "elsewhere")]}

    def test_what_others_wrote_is_kept(self, tmp_path):
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

    def test_the_older_list_of_graphs_moves(self, tmp_path):
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
        "content",
        ["", "{", "[]", "null", '{"model_config_list": {}}', '{"mediapipe_config_list": 1}', "\x00", "[" * 10**5],
    )
    def test_a_file_that_is_no_list_is_left_alone(self, tmp_path, content):
        file = tmp_path / "config_all.json"
        file.write_text(content)
        with pytest.raises(PublicationRefused, match=r"config_all\.json"):
            register(file, "a", "a")
        if "mediapipe" not in content:
            with pytest.raises(PublicationRefused, match=r"config_all\.json"):
                unregister(file, "a", {"a"})
        assert file.read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["config_all.json"]

    def test_the_last_model_takes_the_list_along(self, tmp_path):
        file = tmp_path / "config_all.json"
        assert not unregister(file, "a", {"a"})
        for name in ("a", "b"):
            register(file, name, name)
        assert unregister(file, "a", {"a"})
        assert json.loads(file.read_text()) == {"model_config_list": [entry("b")]}
        assert not unregister(file, "a", {"a"})
        assert unregister(file, "b", {"b", "b/model"})
        assert list(tmp_path.iterdir()) == []

    def test_removal_takes_nothing_else(self, tmp_path):
        file = tmp_path / "config_all.json"
        others = [entry("a", "/another/place"), entry("ab", "a"), "a", {"config": "a"}, {"name": "a", "base_path": "a"}]
        file.write_text(json.dumps({"model_config_list": others}))
        before = file.read_bytes()
        assert not unregister(file, "a", {"a"})
        assert file.read_bytes() == before
        file.write_text(json.dumps({"monitoring": {}, "model_config_list": [entry("a")]}))
        assert unregister(file, "a", {"a"})
        assert json.loads(file.read_text()) == {"monitoring": {}, "model_config_list": []}

    def test_a_model_that_is_there_stays_listed(self, tmp_path):
        (tmp_path / "org" / "model").mkdir(parents=True)
        register_model(tmp_path, "org/model")
        assert not unregister_model(tmp_path, "org/model")
        assert json.loads((tmp_path / "config_all.json").read_text()) == {"model_config_list": [entry("org/model")]}
        (tmp_path / "org" / "model").rmdir()
        assert unregister_model(tmp_path, "org/model")
        assert not (tmp_path / "config_all.json").exists()


def a_target(model_type: ModelType | None, device: str = "CPU") -> Target:
    return Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.INT8, device=device)


def an_image_classifier(folder: Path, *networks: str) -> Path:
    folder.mkdir(parents=True)
    for network in networks or ("openvino_model",):
        (folder / f"{network}.xml").write_text(f"<net name='{network}'/>")
        (folder / f"{network}.bin").write_bytes(network.encode())
    (folder / "config.json").write_text('{"architectures": ["ViTForImageClassification"]}')
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestClassicRepository:
    def test_a_plain_model_has_a_folder_of_versions(self, tmp_path):
        folder = an_image_classifier(tmp_path / "org" / "vit")
        before = {path: (folder / path).read_bytes() for path in tree(folder)}
        for _ in range(2):
            write_serving(folder, "org/vit", a_target(ModelType.VISION), {})
        added = ["model/1/model.bin", "model/1/model.xml", "model/config.json"]
        assert tree(folder) == sorted([*before, *added])
        assert {path: (folder / path).read_bytes() for path in before} == before
        for suffix in (".xml", ".bin"):
            assert (folder / f"model/1/model{suffix}").samefile(folder / f"openvino_model{suffix}")
            assert (folder / f"openvino_model{suffix}").stat().st_nlink == 2
        config = json.loads((folder / "model" / "config.json").read_text())
        assert config == {"model_config_list": [entry("org/vit", ".", target_device="CPU")]}

    @pytest.mark.parametrize("device", DEVICES)
    def test_the_list_has_the_place_and_the_device(self, tmp_path, device):
        folder = an_image_classifier(tmp_path / "org" / "vit")
        said = {"shape": "(1,3,224,224)", "layout": "NHWC:NCHW", "num_streams": 2, "ov_cache_dir": "/cache"}
        write_serving(folder, "org/vit", a_target(ModelType.VISION, device), said)
        register_model(tmp_path, "org/vit")
        told_server = {
            "target_device": device,
            "shape": "(1,3,224,224)",
            "layout": "NHWC:NCHW",
            "plugin_config": {"NUM_STREAMS": "2", "CACHE_DIR": "/cache"},
        }
        listed = json.loads((tmp_path / "config_all.json").read_text())
        assert listed == {"model_config_list": [entry("org/vit", "org/vit/model", **told_server)]}
        assert (tmp_path / "org/vit/model/1/model.xml").is_file()
        alone = json.loads((folder / "model" / "config.json").read_text())
        assert alone == {"model_config_list": [entry("org/vit", ".", **told_server)]}

    def test_what_an_earlier_conversion_was_told_is_forgotten(self, tmp_path):
        folder = an_image_classifier(tmp_path / "vit")
        write_serving(folder, "vit", a_target(ModelType.VISION), {"shape": "auto", "num_streams": 2})
        register_model(tmp_path, "vit")
        file = tmp_path / "config_all.json"
        listed = json.loads(file.read_text())
        listed["model_config_list"][0]["config"]["nireq"] = 4
        file.write_text(json.dumps(listed))
        write_serving(folder, "vit", a_target(ModelType.VISION), {})
        register_model(tmp_path, "vit")
        assert json.loads(file.read_text()) == {
            "model_config_list": [entry("vit", "vit/model", target_device="CPU", nireq=4)]
        }

    def test_a_tokenizer_is_not_the_network(self, tmp_path):
        folder = an_image_classifier(tmp_path / "clip", "best", "openvino_tokenizer", "openvino_detokenizer")
        write_serving(folder, "clip", a_target(ModelType.VISION), {})
        assert (folder / "model/1/model.bin").read_bytes() == b"best"

    @pytest.mark.parametrize("networks", [("encoder", "decoder"), ("openvino_tokenizer",)])
    def test_what_is_not_one_network_is_no_plain_model(self, tmp_path, networks):
        folder = an_image_classifier(tmp_path / "pair", *networks)
        with pytest.raises(OutputIncomplete, match="one network"):
            write_serving(folder, "pair", a_target(ModelType.VISION), {})

    def test_a_network_without_weights_is_none(self, tmp_path):
        folder = an_image_classifier(tmp_path / "torn")
        (folder / "openvino_model.bin").unlink()
        with pytest.raises(OutputIncomplete):
            write_serving(folder, "torn", a_target(ModelType.VISION), {})

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"model_config_list": []}', '{"model_config_list": [{"config": 1}]}']
    )
    def test_a_repository_that_is_not_ours_is_not_listed(self, tmp_path, content):
        (tmp_path / "vit" / "model").mkdir(parents=True)
        (tmp_path / "vit" / "model" / "config.json").write_text(content)
        with pytest.raises(PublicationRefused, match="vit"):
            register_model(tmp_path, "vit")


class TestFiles:
    @pytest.mark.parametrize("model_type", GRAPH_TYPES)
    @pytest.mark.parametrize("device", DEVICES)
    def test_every_type_can_be_served_from_its_folder(self, tmp_path, model_type, device):
        for _ in range(2):
            write_serving(tmp_path, "org/model", a_target(model_type, device), {"cache_size": 4, "num_streams": 2})
        assert tree(tmp_path) == ["graph.pbtxt"]
        assert told((tmp_path / "graph.pbtxt").read_text())["models_path"] == "./"

    @pytest.mark.parametrize("model_type", [None, ModelType.RPPG, ModelType.POSE_3D, ModelType.AI_ECG])
    def test_what_no_model_server_serves_is_refused(self, tmp_path, model_type):
        with pytest.raises(UnsupportedModel):
            write_serving(tmp_path, "org/model", a_target(model_type), {})

    def test_options_of_other_types_do_no_harm(self, tmp_path):
        said = {"cache_size": None, "resolution": "64x64", "pooling": "LAST", "no such option": 1}
        write_serving(tmp_path, "org/model", a_target(ModelType.EMBEDDINGS), said)
        assert told((tmp_path / "graph.pbtxt").read_text())["pooling"] == "LAST"

    def test_a_graph_that_came_with_the_model_is_replaced_and_not_written_through(self, tmp_path):
        content = tmp_path / "content"
        content.write_text("precious")
        folder = an_image_classifier(tmp_path / "vit")
        for model_type, left in ((ModelType.LLM, True), (ModelType.VISION, False)):
            (folder / "graph.pbtxt").unlink(missing_ok=True)
            os.link(content, folder / "graph.pbtxt")
            write_serving(folder, "vit", a_target(model_type), {})
            assert (folder / "graph.pbtxt").exists() is left
            assert content.read_text() == "precious"

    @pytest.mark.parametrize(
        ("said", "pooling"),
        [
            ({"pooling_mode_mean_tokens": True}, "MEAN"),
            ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, "LAST"),
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "CLS"),
            ({"pooling_mode": "mean"}, "MEAN"),
            ({"pooling_mode": "weightedmean"}, "CLS"),
            ({"pooling_mode": ["mean"]}, "CLS"),
            ([], "CLS"),
        ],
    )
    def test_embeddings_are_pooled_as_the_model_says(self, tmp_path, said, pooling):
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(said))
        write_serving(tmp_path, "org/model", a_target(ModelType.EMBEDDINGS), {})
        assert told((tmp_path / "graph.pbtxt").read_text())["pooling"] == pooling
        write_serving(tmp_path, "org/model", a_target(ModelType.EMBEDDINGS), {"pooling": "LAST"})
        assert told((tmp_path / "graph.pbtxt").read_text())["pooling"] == "LAST"


class TestDocumentation:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")

    def test_every_type_is_shown_with_its_options(self):
        rows = self.page.partition("<!-- options: checked by")[2].partition("\n\n")[0].splitlines()[3:]
        shown = {}
        for row in rows:
            types, options = (re.findall(r"`(\w+)`", cell) for cell in row.strip("|").split("|"))
            shown |= {model_type: set(options) for model_type in types}
        assert shown == FIELDS
        told_of = re.search(r"has no use for it: ([^.]*)\.", self.page)
        assert told_of is not None
        assert set(re.findall(r"`(\w+)`", told_of[1])) == SENT_TO_ALL

    def test_the_graphs_on_the_page_are_what_is_written(self):
        shown = re.findall(r"<!-- graph: (\w+) (\S+) ({.*?}) -->\n```protobuf\n(.*?)```\n", self.page, re.DOTALL)
        for model_type, device, said, text in shown:
            serving = served(ModelType(model_type), device, **json.loads(said))
            assert graph(ModelType(model_type), device, bound(**serving)) == text
        assert {model_type for model_type, *_ in shown} == set(GRAPH_TYPES) - {ModelType.VLM}

    def test_the_list_on_the_page_is_what_is_written(self, tmp_path):
        for name, model_type in (("org/chat", ModelType.LLM), ("org/vit", ModelType.VISION)):
            folder = an_image_classifier(tmp_path / name)
            said = {"shape": "(1,3,224,224)", "num_streams": 2}
            write_serving(folder, name, a_target(model_type, "GPU"), said)
            register_model(tmp_path, name)
        shown = re.search(r"<!-- list -->\n```json\n(.*?)```", self.page, re.DOTALL)
        assert shown is not None
        assert (tmp_path / "config_all.json").read_text() == shown[1]
