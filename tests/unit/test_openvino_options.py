"""How a client's config is sorted into what decides the bytes and what the model server is told."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalog.openvino import OPENVINO, OpenVINOOptions, ServingOptions, flatten, normalise
from common.errors import InvalidSpec
from common.vocabulary import ModelType, Precision

INT4 = {
    "sym": False,
    "ratio": 1.0,
    "group_size": 128,
    "group_size_fallback": "adjust",
    "backup_precision": "int8_asym",
}
NPU = INT4 | {"sym": True, "group_size": -1}


def sort(
    config: dict[str, object],
    model_type: ModelType = ModelType.LLM,
    precision: Precision = Precision.INT8,
    device: str = "CPU",
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    return normalise(model_type, precision, device, config)


def recipe(config: dict[str, object], precision: Precision = Precision.INT4, **more) -> dict[str, object]:
    return sort(config, precision=precision, **more)[1]


def serving(config: dict[str, object], model_type: ModelType = ModelType.LLM, device: str = "CPU") -> dict[str, object]:
    return sort(config, model_type=model_type, device=device)[2]


def test_nothing_asked_is_the_precisions_own_recipe():
    assert sort({}) == (Precision.INT8, {"sym": False}, {})
    assert recipe({}) == INT4
    assert recipe({}, Precision.FP16) == {}
    assert recipe({}, Precision.FP32) == {}


def test_a_string_of_digits_is_a_number():
    assert serving({"cache_size": "10", "max_num_seqs": "8"}) == {"cache_size": 10, "max_num_seqs": 8}
    assert recipe({"ratio": "0.8", "group_size": "64"}) == INT4 | {"ratio": 0.8, "group_size": 64}


def test_none_is_no_value():
    assert sort({"cache_size": None, "sym": None, "openvino_config": None, "nonsense": None}) == sort({})


def test_the_flags_of_the_tool_stand_for_the_same_options():
    flags = "--sym --ratio 0.8 --group-size=64 --backup-precision int8_sym --awq"
    named = {"sym": True, "ratio": 0.8, "group_size": 64, "backup_precision": "int8_sym", "awq": True}
    assert recipe({"extra_quantization_params": flags}) == recipe(named)
    assert recipe({"extra_quantization_params": "--group-size -1"})["group_size"] == -1
    assert recipe({"extra_quantization_params": ""}) == recipe({})


def test_flags_may_be_given_to_the_options_themselves():
    options = OPENVINO.bind({"extra_quantization_params": "--sym", "group_size": 32})
    assert options.resolved() == OpenVINOOptions(sym=True, group_size=32)


@pytest.mark.parametrize(
    "flags",
    [
        "--trust-remote-code",
        "--sym; touch /tmp/x",
        "--sym $(touch /tmp/x)",
        "--weight-format fp16",
        "--quant-mode int8",
        "--dataset wikitext2",
        "--dataset /etc/passwd",
        "--group-size",
        "--group-size many",
        "--ratio 2",
        "--sensitivity-metric luck",
        "--quantization-statistics-path /tmp",
        "--extra-quantization-params --sym",
        "--max-doc-length 3",
        "'unclosed",
        "int4",
    ],
)
def test_other_flags_are_refused(flags):
    with pytest.raises(InvalidSpec):
        recipe({"extra_quantization_params": flags})


def test_flags_must_not_contradict_the_options():
    with pytest.raises(InvalidSpec, match="contradicts 'ratio'"):
        recipe({"ratio": 0.5, "extra_quantization_params": "--ratio 0.6"})
    assert recipe({"ratio": 0.5, "extra_quantization_params": "--ratio 0.5"})["ratio"] == 0.5


def test_equal_wishes_give_equal_recipes():
    assert recipe({"awq": False, "all_layers": False, "ratio": 1, "sym": "false"}) == recipe({})


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16, Precision.FP32])
def test_what_changes_nothing_goes_with_any_precision(precision):
    harmless = {"ratio": 1.0, "group_size": -1, "awq": False, "extra_quantization_params": "--group-size -1"}
    assert recipe(harmless, precision) == recipe({}, precision)


@pytest.mark.parametrize(
    "config",
    [
        {"ratio": 0.8},
        {"group_size": 64},
        {"all_layers": True},
        {"awq": True},
        {"scale_estimation": True},
        {"gptq": True},
        {"lora_correction": True},
        {"backup_precision": "int8_sym"},
        {"sensitivity_metric": "weight_quantization_error"},
        {"extra_quantization_params": "--ratio 0.8"},
    ],
)
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16, Precision.FP32])
def test_what_needs_four_bits_is_refused_for_others(config, precision):
    with pytest.raises(InvalidSpec, match="it needs 'int4'"):
        recipe(config, precision)


def test_symmetry_is_for_integers():
    assert recipe({"sym": True}, Precision.INT8) == {"sym": True}
    with pytest.raises(InvalidSpec, match="'int4' or 'int8'"):
        recipe({"sym": True}, Precision.FP16)


@pytest.mark.parametrize(
    "config",
    [
        {"gptq": True},
        {"scale_estimation": True},
        {"lora_correction": True},
        {"sensitivity_metric": "max_activation_variance"},
        {"gptq": True, "lora_correction": True, "dataset": "auto"},
        {"dataset": "wikitext2"},
        {"group_size": 0},
        {"group_size": -2},
        {"ratio": 1.5},
        {"backup_precision": "int2"},
    ],
)
def test_four_bit_options_that_cannot_work_are_refused(config):
    with pytest.raises(InvalidSpec):
        recipe(config)


def test_calibration_texts_are_for_language_models():
    assert recipe({"gptq": True, "dataset": "auto"})["dataset"] == "auto"
    with pytest.raises(InvalidSpec, match="'llm' only"):
        recipe({"awq": True, "dataset": "auto"}, model_type=ModelType.EMBEDDINGS)


def test_npu_means_symmetric_int4_channels():
    assert sort({}, device="NPU") == (Precision.INT4, NPU, {})
    assert sort({}, ModelType.VLM, device="NPU")[0] is Precision.INT4
    assert sort({"group_size": 128}, device="NPU")[1] == NPU | {"group_size": 128}
    assert sort({"extra_quantization_params": "--backup-precision int8_sym"}, device="NPU")[1] == NPU | {
        "backup_precision": "int8_sym"
    }


@pytest.mark.parametrize("model_type", [ModelType.EMBEDDINGS, ModelType.RERANK])
def test_npu_is_for_language_models(model_type):
    with pytest.raises(InvalidSpec) as refused:
        sort({}, model_type, device="NPU")
    assert str(refused.value) == "NPU target device is only supported for 'llm' and 'vlm' model types."


@pytest.mark.parametrize("model_type", [ModelType.LLM, ModelType.EMBEDDINGS])
def test_hetero_with_an_npu_is_not_npu(model_type):
    assert sort({}, model_type, device="HETERO:NPU,CPU")[:2] == (Precision.INT8, {"sym": False})


def test_a_reranker_knows_how_long_documents_may_be():
    assert recipe({}, Precision.INT8, model_type=ModelType.RERANK) == {"sym": False, "max_doc_length": 16000}
    assert recipe({"max_doc_length": "512"}, Precision.FP16, model_type=ModelType.RERANK) == {"max_doc_length": 512}
    assert recipe({"max_doc_length": 512}, Precision.INT8) == {"sym": False}


@pytest.mark.parametrize("model_type", [ModelType.EMBEDDINGS, ModelType.RERANK])
def test_a_cache_means_nothing_to_whole_texts(model_type):
    assert serving({"cache_size": 4, "tool_parser": "hermes3", "num_streams": 2}, model_type) == {"num_streams": 2}


def test_booleans_mean_what_they_say():
    said = {"normalize": False, "truncate": True, "pooling": "MEAN"}
    assert serving(said, ModelType.EMBEDDINGS) == said
    assert serving({"dynamic_split_fuse": True, "enable_prefix_caching": False}) == {
        "dynamic_split_fuse": True,
        "enable_prefix_caching": False,
    }


def test_keys_for_other_hubs_are_passed_over():
    others = {
        "overwrite_models": True,
        "quantize": "coco128",
        "model_group_id": "1",
        "optimized_model_id": "2",
        "export_type": "base",
        "model_only": True,
        "version": 1,
        "precision": "int8",
        "device": "CPU",
        "target_device": "CPU",
        "weight-format": "int8",
        "source_model": "a/b",
        "type": "llm",
        "model_type": "llm",
        "post_processing": {"a": 1},
    }
    assert sort(others) == sort({})


def test_the_nested_block_lies_underneath():
    config = {"cache_size": 4, "openvino_config": {"cache_size": 8, "max_num_seqs": "16", "ratio": None}}
    assert serving(config) == {"cache_size": 4, "max_num_seqs": 16}
    assert flatten(config) == {"cache_size": 4, "max_num_seqs": "16"}
    assert sort({"openvino_config": {"precision": "int4"}})[0] is Precision.INT4
    assert sort({"precision": "int8", "openvino_config": {"precision": "int4"}})[0] is Precision.INT8


@pytest.mark.parametrize("nested", ["int4", 4, ["int4"]])
def test_the_nested_block_is_an_object(nested):
    with pytest.raises(InvalidSpec, match="must be an object"):
        sort({"openvino_config": nested})


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("poling", "pooling"),
        ("cachesize", "cache_size"),
        ("groupsize", "group_size"),
        ("overwrite_model", "overwrite_models"),
    ],
)
def test_a_misspelt_key_is_named_with_its_neighbour(key, near):
    with pytest.raises(InvalidSpec, match=f"'{key}'.*Did you mean '{near}'"):
        sort({key: 1})
    with pytest.raises(InvalidSpec, match=f"'{key}'"):
        sort({"openvino_config": {key: 1}})


@pytest.mark.parametrize("key", ["--model_repository_path", "config_file_path", "trust_remote_code", "x" * 5000])
def test_no_key_becomes_a_flag(key):
    with pytest.raises(InvalidSpec) as refused:
        sort({key: "/etc"})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "config",
    [
        {"cache_size": -1},
        {"cache_size": ""},
        {"cache_size": 1.5},
        {"kv_cache_precision": "u1"},
        {"pipeline_type": "BEST"},
        {"max_num_seqs": 0},
        {"tool_parser": 'x"\n}'},
        {"ov_cache_dir": ""},
        {"draft_source_model": "org/small"},
        {"draft_model_name": "small"},
        {"max_prompt_len": 1024},
        {"tool_parser": "gptoss"},
        {"tool_parser": "gptoss", "reasoning_parser": "qwen3"},
        {"precision": "bf16"},
    ],
)
def test_unusable_values_are_refused(config):
    with pytest.raises(InvalidSpec):
        sort(config)


def test_the_longest_prompt_is_for_npu():
    assert serving({"max_prompt_len": "2048"}, device="NPU") == {"max_prompt_len": 2048}


def test_a_vlm_has_its_own_pipeline_unless_told_otherwise():
    assert serving({}, ModelType.VLM) == {"pipeline_type": "VLM"}
    assert serving({"pipeline_type": "VLM_CB"}, ModelType.VLM) == {"pipeline_type": "VLM_CB"}


@given(
    st.dictionaries(
        st.sampled_from([*OpenVINOOptions.__struct_fields__, *ServingOptions.__struct_fields__, "device", "x"]),
        st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=12) | st.just("--sym"),
    ),
    st.sampled_from(list(ModelType)),
    st.sampled_from(list(Precision)),
    st.sampled_from(["CPU", "NPU", "HETERO:GPU,CPU"]),
)
def test_whatever_is_sent_is_sorted_or_refused(config, model_type, precision, device):
    try:
        precision, options, told = normalise(model_type, precision, device, config)
    except InvalidSpec:
        return
    assert OPENVINO.bind(options).resolved().extra_quantization_params is None
    OPENVINO.bind_serving(told)
    assert None not in {*options.values(), *told.values()}


def test_the_descriptor_is_light():
    code = "import sys, common.catalog.openvino; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert OPENVINO.precisions == set(Precision)
    assert not {"torch", "openvino", "optimum", "transformers", "nncf", "numpy"} & set(imported)
