"""How a client's config is sorted into what decides the bytes and what the model server is told."""

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.compat.decoding import Unprocessable
from api.compat.submission import read_submission
from common.catalog.openvino import OPENVINO, OpenVINOOptions, ServingOptions, normalise
from common.catalog.openvino.heads import TASKS as USUAL_TASKS
from common.catalog.openvino.options import complete, dataset_path
from common.catalog.openvino.rules import TASKS
from common.errors import InvalidSpec
from common.planning import flatten
from common.spec import Source, Target
from common.vocabulary import Format, ModelType, Precision

INT4 = {
    "sym": False,
    "ratio": 1.0,
    "group_size": 128,
    "group_size_fallback": "adjust",
    "backup_precision": "int8_asym",
}
NPU = INT4 | {"sym": True, "group_size": -1}
CHANNELS = {"ratio": 1.0, "group_size": -1, "group_size_fallback": "adjust", "backup_precision": "int8_asym"}
TEXTS = "path:texts/faq.txt"


def sort(
    config: dict[str, object],
    model_type: ModelType | None = ModelType.LLM,
    precision: Precision | None = None,
    device: str = "CPU",
) -> tuple[Precision, dict[str, object], dict[str, object]]:
    told = {} if precision is None else {"precision": precision.value}
    return normalise(model_type, device, {**told, **config})


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


@pytest.mark.parametrize(
    "flags",
    [
        "-m org/model",
        "--model org/model",
        "--sym; touch /tmp/x",
        "--sym $(touch /tmp/x)",
        "--weight-format fp16",
        "--quant-mode int8",
        "--dataset wikitext2:seq_len=8",
        "--dataset /etc/passwd",
        "--dataset path:/etc/passwd",
        "--framework tf",
        "--model-kwargs {",
        "--engine fast",
        "--sym false",
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


def test_every_option_of_the_tool_may_be_a_flag():
    flags = "--task text-generation --trust-remote-code --framework pt --cache_dir /tmp --pad-token-id 3 --weight-format int4"
    assert sort({"extra_quantization_params": flags, "dataset": TEXTS, "gptq": True}) == (
        Precision.INT4,
        INT4
        | {"task": "text-generation", "trust_remote_code": True, "pad_token_id": 3, "dataset": TEXTS, "gptq": True},
        {},
    )


def test_flags_must_not_contradict_the_options():
    with pytest.raises(InvalidSpec, match="contradicts 'ratio'"):
        recipe({"ratio": 0.5, "extra_quantization_params": "--ratio 0.6"})
    assert recipe({"ratio": 0.5, "extra_quantization_params": "--ratio 0.5"})["ratio"] == 0.5


def test_equal_wishes_give_equal_recipes():
    assert recipe({"awq": False, "all_layers": False, "ratio": 1, "sym": "false"}) == recipe({})
    assert recipe({"trust_remote_code": False, "disable_stateful": "false", "task": "auto"}) == recipe({})
    assert recipe({"framework": "pt", "cache_dir": "/tmp", "num_samples": 8}) == recipe({})
    assert recipe({"task": "causal-lm-with-past"}) == recipe({"task": "text-generation-with-past"})


def test_a_key_may_be_spelled_as_the_tool_spells_it():
    named = {"group_size": 64, "backup_precision": "int8_sym"}
    assert recipe({"group-size": 64, "--backup-precision": "int8_sym"}) == recipe(named)
    assert recipe({"openvino_config": {"--group-size": "64", "backup-precision": "int8_sym"}}) == recipe(named)
    assert recipe({"group-size": "64", "group_size": 64, "--group-size": 64.0})["group_size"] == 64
    assert serving({"cache-size": "3"}) == {"cache_size": 3}


@pytest.mark.parametrize(
    "config",
    [
        {"sym": True, "--sym": False},
        {"group-size": 64, "group_size": 32},
        {"sym": False, "extra_quantization_params": "--sym"},
        {"cache_size": 1, "cache-size": 2},
        {"vocoder": "org/a", "model_kwargs": {"vocoder": "org/b"}},
        {"task": "auto", "--task": "text-generation"},
    ],
)
def test_two_spellings_must_not_contradict_each_other(config):
    with pytest.raises(InvalidSpec, match="contradicts"):
        sort(config, model_type=None)


@pytest.mark.parametrize("said", [True, "true", "True", "1", 1])
def test_yes_may_be_said_in_several_ways(said):
    assert recipe({"disable_stateful": said, "awq": said}) == INT4 | {"disable_stateful": True, "awq": True}


@pytest.mark.parametrize("said", ["yes", "", "on", 2, 1.5, [], {}])
def test_what_is_neither_yes_nor_no_is_refused(said):
    with pytest.raises(InvalidSpec, match="'awq'"):
        recipe({"awq": said})


def test_the_precision_has_three_names():
    for key in ("precision", "weight_format", "weight-format", "--weight-format"):
        assert sort({key: "int4"}) == (Precision.INT4, INT4, {})
    assert sort({"precision": "int4", "weight-format": "INT4", "weight_format": " int4 "})[0] is Precision.INT4
    for other in (
        {"weight_format": "int8"},
        {"weight-format": "nf4"},
        {"extra_quantization_params": "--weight-format fp16"},
    ):
        with pytest.raises(InvalidSpec, match="contradict"):
            sort({"precision": "int4", **other})


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision.NF4, CHANNELS | {"group_size": 128}),
        (Precision.CB4, CHANNELS),
        (Precision.MXFP4, {"ratio": 1.0, "group_size": 32}),
    ],
)
def test_the_other_formats_have_recipes_of_their_own(precision, expected):
    assert sort({"weight_format": precision.value}) == (precision, expected, {})
    # There is no other symmetry for them, so to ask for it changes nothing.
    assert sort({"weight_format": precision.value, "sym": True}) == (precision, expected, {})


def test_a_quant_mode_decides_the_precision():
    full = {"sym": False, "dataset": TEXTS, "quant_mode": "int8"}
    assert sort({"quant_mode": "int8", "dataset": TEXTS}) == (Precision.INT8, full, {})
    assert sort({"quant_mode": "int8", "precision": "int8", "dataset": TEXTS}) == (Precision.INT8, full, {})
    assert sort({"quant_mode": "f8e4m3", "dataset": TEXTS, "sym": True, "smooth_quant_alpha": "0.5"}) == (
        Precision.F8E4M3,
        {"dataset": TEXTS, "smooth_quant_alpha": 0.5, "quant_mode": "f8e4m3"},
        {},
    )
    mixed = {"sym": False, "ratio": 1.0, "group_size": 128, "group_size_fallback": "adjust"}
    assert sort({"quant_mode": "int4_f8e5m2", "dataset": TEXTS, "awq": True}) == (
        Precision.INT4_F8E5M2,
        mixed | {"awq": True, "dataset": TEXTS, "quant_mode": "int4_f8e5m2"},
        {},
    )
    with pytest.raises(InvalidSpec, match="contradict"):
        sort({"quant_mode": "int8", "precision": "int4", "dataset": TEXTS})


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"quant_mode": "int8"}, "'quant_mode' needs calibration data"),
        ({"quant_mode": "int4_f8e4m3"}, "'quant_mode' needs calibration data"),
        ({"quant_mode": "int8", "dataset": TEXTS, "ratio": 0.8}, "'ratio' does not go with quant_mode 'int8'"),
        ({"quant_mode": "int8", "dataset": TEXTS, "quantization_statistics_path": "a"}, "does not go with quant_mode"),
        ({"quant_mode": "f8e5m2", "dataset": TEXTS, "gptq": True}, "'gptq' does not go with quant_mode 'f8e5m2'"),
        ({"quant_mode": "int8", "dataset": TEXTS, "smooth_quant_alpha": 0}, "'smooth_quant_alpha' must be greater"),
        ({"quant_mode": "int8", "dataset": TEXTS, "smooth_quant_alpha": -0.5}, "'smooth_quant_alpha' must be greater"),
        ({"quant_mode": "int8", "dataset": TEXTS, "smooth_quant_alpha": 1.5}, "'smooth_quant_alpha': Expected float"),
        ({"smooth_quant_alpha": 0.5}, "it needs a 'quant_mode'"),
        ({"weight_format": "mxfp4", "awq": True}, "'awq' does not go with precision 'mxfp4'"),
        ({"weight_format": "mxfp4", "scale_estimation": True, "dataset": TEXTS}, "'scale_estimation' does not go with"),
        ({"weight_format": "mxfp4", "gptq": True, "dataset": TEXTS}, "'gptq' does not go with"),
        ({"weight_format": "mxfp4", "lora_correction": True, "dataset": TEXTS}, "'lora_correction' does not go with"),
        ({"weight_format": "mxfp4", "group_size": 128}, "always 32"),
        ({"weight_format": "mxfp4", "group_size_fallback": "adjust"}, "'error' or 'ignore'"),
        ({"weight_format": "int4", "ratio": 0}, "'ratio': Expected float > 0"),
        ({"framework": "tf"}, "'framework'"),
        ({"variant": "../fp16"}, "'variant'"),
        ({"vocoder": "org/../x"}, "'vocoder'"),
        ({"vocoder": "/etc"}, "'vocoder'"),
        ({"engine": "best"}, "'engine'"),
        ({"profile": "../x"}, "'profile'"),
        ({"pad_token_id": -1}, "'pad_token_id'"),
        ({"verify": {"max_divergence": 0}}, "'verify.max_divergence'"),
        ({"verify": {"max_divergence": 0.1, "samples": 0}}, "'verify.samples'"),
        ({"verify": True}, "'verify'"),
        ({"model_kwargs": "{"}, "'model_kwargs' is no JSON"),
        ({"model_kwargs": "[" * 100_000}, "'model_kwargs' is no JSON"),
        ({"model_kwargs": {"cache_dir": "/etc"}}, "'model_kwargs'"),
        ({"task": "fill-mask"}, "'task' 'fill-mask'"),
        ({"task": "feature-extraction"}, "'task' 'feature-extraction' does not go with type 'llm'"),
        ({"model": "org/other"}, "'model' is not for a request"),
        ({"output": "/tmp"}, "'output' is not for a request"),
        ({"--model": "org/other"}, "'--model' is not for a request"),
        ({"dataset_sha256": "0" * 64}, "'dataset_sha256' is not for a request"),
    ],
)
def test_each_refusal_names_the_option(config, text):
    with pytest.raises(InvalidSpec) as refused:
        sort(config)
    assert text in str(refused.value)


def test_a_vocoder_may_stand_among_the_arguments_of_the_model():
    wanted = {"sym": False, "vocoder": "org/voice"}
    for config in (
        {"vocoder": "org/voice"},
        {"model_kwargs": {"vocoder": "org/voice"}},
        {"model_kwargs": '{"vocoder": "org/voice"}'},
        {"vocoder": "org/voice", "extra_quantization_params": """--model-kwargs '{"vocoder": "org/voice"}'"""},
    ):
        assert sort(config, ModelType.TEXT2SPEECH)[1] == wanted
    with pytest.raises(InvalidSpec, match="'text2speech' only"):
        sort({"vocoder": "org/voice"})


def test_what_is_ours_is_kept():
    config = {"engine": "strict", "profile": "older", "verify": {"max_divergence": "0.1"}, "variant": "fp16"}
    kept = {"engine": "strict", "profile": "older", "verify": {"max_divergence": 0.1, "samples": 8}, "variant": "fp16"}
    assert recipe(config, Precision.FP16) == kept
    assert msgspec.to_builtins(OPENVINO.bind(kept)) == kept


# Calibration data


@pytest.mark.parametrize("path", ["texts/faq.txt", "./texts/faq.txt", "texts/faq.txt/"])
def test_a_path_leads_below_the_models_directory(path):
    options = OPENVINO.bind(recipe({"gptq": True, "dataset": f"path:{path}"}))
    assert options.dataset == TEXTS
    assert dataset_path(options) == "texts/faq.txt"
    assert dataset_path(OPENVINO.bind({"dataset": "auto"})) is None


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/etc", "../x", "a/../b", "a//b", "a\\b", "a\nb", "a\0b", ".modelferry/blobs", "x" * 300],
)
@pytest.mark.parametrize("key", ["dataset", "quantization_statistics_path"])
def test_no_path_leads_elsewhere(key, path):
    value = f"path:{path}" if key == "dataset" else path
    with pytest.raises(InvalidSpec, match=f"'{key}' must be a path relative to MODELS_DIR"):
        recipe({"gptq": True, "dataset": TEXTS, key: value})


@pytest.mark.parametrize("name", ["wikitext2", "c4", "gsm8k", "laion/filtered-wit", "librispeech"])
def test_a_data_set_with_a_name_is_looked_for_where_the_operator_puts_it(name):
    wanted = recipe({"gptq": True, "dataset": f"path:datasets/{name}"})
    assert recipe({"gptq": True, "dataset": name}) == wanted
    assert recipe({"extra_quantization_params": f"--gptq --dataset {name}"}) == wanted
    with pytest.raises(InvalidSpec, match="must not tell a length"):
        sort({"dataset": f"{name}:seq_len=128"})


@pytest.mark.parametrize("value", ["texts/faq.txt", "own", "", "PATH:x", 5, {"path": "x"}])
def test_other_data_is_refused(value):
    with pytest.raises(InvalidSpec, match="'dataset'"):
        sort({"dataset": value})


def test_data_that_changes_nothing_is_left_out():
    unused = {"dataset": "auto", "num_samples": 4, "quantization_statistics_path": "statistics"}
    for precision in (Precision.INT4, Precision.INT8, Precision.FP16):
        assert recipe(unused, precision) == recipe({}, precision)
    assert recipe(unused | {"ratio": 0.8}) == INT4 | unused | {"ratio": 0.8}
    assert recipe({"ratio": 0.8, "num_samples": 4, "quantization_statistics_path": "a"}) == INT4 | {"ratio": 0.8}


# What depends on the type


def test_what_depends_on_the_type_waits_for_it():
    recipe = sort({"max_doc_length": 512, "precision": "int4", "awq": True, "dataset": "auto"}, model_type=None)[1]
    assert recipe == INT4 | {"max_doc_length": 512, "awq": True, "dataset": "auto"}
    assert complete(ModelType.LLM, False, recipe) == INT4 | {"awq": True, "dataset": "auto"}
    with pytest.raises(InvalidSpec, match="'llm' only"):
        complete(ModelType.VLM, False, recipe)
    with pytest.raises(InvalidSpec, match="NPU target device is only supported"):
        complete(ModelType.VISION, True, INT4)
    assert complete(ModelType.RERANK, False, {"sym": False, "ratio": None}) == {"sym": False, "max_doc_length": 16000}


def test_mixed_modes_are_not_for_pictures():
    config = {"quant_mode": "int4_f8e4m3", "dataset": TEXTS}
    with pytest.raises(InvalidSpec, match="'int4_f8e4m3' is not for type 'image_generation'"):
        sort(config, ModelType.IMAGE_GENERATION)
    assert sort({"quant_mode": "int8", "dataset": TEXTS}, ModelType.IMAGE_GENERATION)[0] is Precision.INT8


def test_the_usual_tasks_are_the_ones_that_models_are_found_to_have():
    assert {kind: tasks[0] for kind, tasks in TASKS.items()} == USUAL_TASKS


def test_the_contract_has_four_precisions_and_the_tool_has_more():
    assert decoded({"precision": "fp16"}) == {"precision": "fp16"}
    assert decoded({"weight-format": "nf4", "weight_format": "nf4"}) == {"weight-format": "nf4", "weight_format": "nf4"}
    for wrong in ({"precision": "nf4"}, {"openvino_config": {"precision": "nf4"}}, {"weight-format": "int4_f8e4m3"}):
        with pytest.raises(Unprocessable, match="Input should be 'int4'"):
            decoded(wrong)


def decoded(config):
    model = {"name": "org/model", "hub": "huggingface", "is_ovms": True, "config": config}
    body = json.dumps({"models": [model]}).encode()
    (wish,) = read_submission([("download_path", "")], body, "application/json", ()).wishes
    return wish.config


VALUES = {
    "task": st.sampled_from(["auto", "text-generation", "text-to-audio", "default", "image-classification", "x"]),
    "framework": st.sampled_from(["pt", "tf"]),
    "weight_format": st.sampled_from(["fp32", "fp16", "int8", "int4", "mxfp4", "nf4", "cb4"]),
    "quant_mode": st.sampled_from(["int8", "f8e4m3", "f8e5m2", "cb4_f8e4m3", "int4_f8e4m3", "int4_f8e5m2"]),
    "ratio": st.sampled_from([0.5, 1, "0.8"]),
    "group_size": st.sampled_from([-1, 32, 64, "128"]),
    "dataset": st.sampled_from(["auto", "auto:seq_len=8", TEXTS, "path:../x", "wikitext2"]),
    "quantization_statistics_path": st.sampled_from(["statistics", "/tmp"]),
    "model_kwargs": st.sampled_from([{}, {"vocoder": "org/a"}, '{"output_attentions": true}']),
    "vocoder": st.sampled_from(["org/a", "org/b"]),
    "verify": st.just({"max_divergence": 0.5}),
    "num_samples": st.integers(1, 9),
    "max_doc_length": st.integers(1, 9),
    "cache_size": st.integers(0, 9),
    "pooling": st.just("CLS"),
    "extra_quantization_params": st.sampled_from(["--sym", "--awq --dataset auto", "--weight-format int4", ""]),
}
SWITCHES = ("sym", "all_layers", "awq", "scale_estimation", "gptq", "lora_correction", "trust_remote_code")
CONFIGS = st.fixed_dictionaries({}, optional=VALUES | dict.fromkeys(SWITCHES, st.booleans()))
TYPES = st.sampled_from(list(ModelType))
DEVICES = st.sampled_from(["CPU", "NPU", "HETERO:GPU,CPU"])


@settings(max_examples=300)
@given(CONFIGS, TYPES, DEVICES)
def test_a_type_may_be_told_now_or_later(config, model_type, device):
    assert told(config, model_type, device) == told_later(config, model_type, device)


def told(config, model_type, device):
    try:
        return normalise(model_type, device, config)[:2]
    except InvalidSpec as error:
        return str(error)


def told_later(config, model_type, device):
    try:
        precision, recipe, _ = normalise(None, device, config)
        return precision, complete(model_type, device == "NPU", recipe)
    except InvalidSpec as error:
        return str(error)


@settings(max_examples=300)
@given(CONFIGS, TYPES, DEVICES)
def test_a_recipe_stays_as_it_is(config, model_type, device):
    try:
        precision, recipe, _ = normalise(model_type, device, config)
    except InvalidSpec:
        return
    assert complete(model_type, device == "NPU", recipe) == recipe
    assert msgspec.to_builtins(OPENVINO.bind(recipe)) == recipe
    assert normalise(model_type, device, {"precision": precision.value, **recipe})[:2] == (precision, recipe)


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
    with pytest.raises(InvalidSpec, match="it needs 'int4', 'int8'"):
        recipe({"sym": True}, Precision.FP16)


@pytest.mark.parametrize(
    "config",
    [
        {"gptq": True},
        {"scale_estimation": True},
        {"lora_correction": True},
        {"sensitivity_metric": "max_activation_variance"},
        {"gptq": True, "lora_correction": True, "dataset": "auto"},
        {"dataset": "wikitext"},
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
    assert serving({"cache_size": 4, "pipeline_type": "LM", "num_streams": 2}, model_type) == {"num_streams": 2}


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
        {"draft_source_model": ""},
        {"draft_source_model": "../small"},
        {"draft_source_model": "org/../small"},
        {"draft_source_model": "org/small/part"},
        {"draft_source_model": "org/small\n"},
        {"draft_source_model": "org/small", "draft_model_name": "../small"},
        {"draft_source_model": "org/small", "draft_model_name": ".hidden"},
        {"draft_source_model": "org/small", "prompt_lookup_decoding": True},
        {"draft_source_model": "org/small", "pipeline_type": "LM"},
        {"draft_source_model": "org/small", "quant_mode": "int8", "dataset": "auto"},
        {"draft_source_model": "org/small", "disable_convert_tokenizer": True},
        {"draft_source_model": "org/small", "draft_models_path": "elsewhere"},
        {"draft_models_path": "elsewhere"},
        {"draft_eagle3_mode": True},
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


DRAFT = {"draft_source_model": "org/small"}


def test_a_draft_is_part_of_the_recipe_and_known_to_the_server():
    _, plain, _ = sort({})
    for config in (DRAFT, {**DRAFT, "draft_model_name": "org/small"}, {"openvino_config": DRAFT}):
        _, recipe, told = sort(config)
        assert recipe == {**plain, **DRAFT}
        assert told == {"draft_models_path": "./org-small"}
    _, recipe, told = sort({**DRAFT, "draft_model_name": "ahead/of"})
    assert recipe == {**plain, **DRAFT, "draft_model_name": "ahead-of"}
    assert told == {"draft_models_path": "./ahead-of"}


def test_a_draft_of_eagle_is_known_to_the_server_too():
    _, recipe, told = sort({**DRAFT, "draft_eagle3_mode": "true"})
    assert recipe["draft_eagle3_mode"] is True
    assert told == {"draft_models_path": "./org-small", "draft_eagle3_mode": True}
    assert sort({**DRAFT, "draft_eagle3_mode": False}) == sort(DRAFT)


@pytest.mark.parametrize("device", ["NPU", "HETERO:GPU,CPU"])
def test_a_draft_is_for_a_device_that_works_in_batches(device):
    with pytest.raises(InvalidSpec, match="no continuous batches"):
        normalise(ModelType.LLM, device, DRAFT)


@pytest.mark.parametrize("model_type", set(ModelType) - {ModelType.LLM})
def test_a_draft_is_for_language_models(model_type):
    with pytest.raises(InvalidSpec):
        normalise(model_type, "CPU", DRAFT)


def test_a_model_with_a_draft_is_made_by_itself_and_of_its_source():
    target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.INT8, device="CPU")
    _, recipe, _ = sort(DRAFT)
    _, plain, _ = sort({})
    source = Source(hub="huggingface", name="org/big")
    assert OPENVINO.together is not None
    assert OPENVINO.base is not None
    assert OPENVINO.ready_made is not None
    assert (OPENVINO.together(target, plain), OPENVINO.together(target, recipe)) == (True, False)
    assert OPENVINO.base(target, recipe) is None
    assert OPENVINO.ready_made(source, target, plain) == "OpenVINO/big-int8-ov"
    assert OPENVINO.ready_made(source, target, recipe) is None


def test_the_longest_prompt_is_for_npu():
    assert serving({"max_prompt_len": "2048"}, device="NPU") == {"max_prompt_len": 2048}


def test_a_vlm_has_its_own_pipeline_unless_told_otherwise():
    assert serving({}, ModelType.VLM) == {"pipeline_type": "VLM"}
    assert serving({"pipeline_type": "VLM_CB"}, ModelType.VLM) == {"pipeline_type": "VLM_CB"}


@given(
    st.dictionaries(
        st.sampled_from(
            [*OpenVINOOptions.__struct_fields__, *ServingOptions.__struct_fields__, "precision", "device", "x"]
        ),
        st.none()
        | st.booleans()
        | st.integers(-3, 300)
        | st.floats()
        | st.text(max_size=12)
        | st.sampled_from(["--sym", "{}", "int8", "auto", "path:a"])
        | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
    st.none() | TYPES,
    DEVICES,
)
def test_whatever_is_sent_is_sorted_or_refused(config, model_type, device):
    try:
        _, options, told = normalise(model_type, device, config)
    except InvalidSpec:
        return
    assert OPENVINO.bind(options).extra_quantization_params is None
    OPENVINO.bind_serving(told)
    assert None not in [*options.values(), *told.values()]


def test_the_descriptor_is_light():
    code = "import sys, common.catalog.openvino; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert OPENVINO.precisions == set(Precision)
    assert not {"torch", "openvino", "optimum", "transformers", "nncf", "numpy"} & set(imported)
