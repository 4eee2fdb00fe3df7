"""From wishes to stages: what is refused, where it goes, and what shares work."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalog.registry import Catalog
from common.errors import InvalidSpec, PluginUnavailable
from common.planning import StagePlan, Wish, device_slug, plan, stages, work_key
from common.spec import Target
from common.vocabulary import ModelType, Operation, Pool, StageKind

ALL = Catalog.installed("all")


def a_wish(**changes: object) -> Wish:
    values: dict[str, object] = {"name": "org/model", "hub": "huggingface", "root": "", **changes}
    return Wish(**values)  # type: ignore[arg-type]


def a_conversion_wish(**changes: object) -> Wish:
    return a_wish(**{"convert": True, "model_type": ModelType.LLM, "hub": "openvino", **changes})


def target_of(wish: Wish) -> Target:
    target = plan(wish, ALL).target
    assert target
    return target


def keys(wish: Wish) -> list[str]:
    return [work_key(stage.kind, stage.work, "in") for stage in stages(plan(wish, ALL))]


def test_a_download_is_fetched_and_published() -> None:
    spec = plan(a_wish(root="a/b"), ALL)
    assert (spec.operation, spec.destination.folder) == (Operation.DOWNLOAD, "huggingface/org_model")
    assert [(stage.kind, stage.pool) for stage in stages(spec)] == [
        (StageKind.FETCH, Pool.DOWNLOAD),
        (StageKind.PUBLISH, Pool.DOWNLOAD),
    ]


def test_a_conversion_is_judged_fetched_converted_and_published() -> None:
    spec = plan(a_conversion_wish(), ALL)
    assert [(stage.kind, stage.pool) for stage in stages(spec)] == [
        (StageKind.PLAN, Pool.DOWNLOAD),
        (StageKind.FETCH, Pool.DOWNLOAD),
        (StageKind.CONVERT, Pool.CONVERT),
        (StageKind.PUBLISH, Pool.CONVERT),
    ]
    assert spec.destination.folder == "openvino_models/cpu/int8/org/model"


def test_case_56_the_defaults_are_int8_on_cpu() -> None:
    target = target_of(a_conversion_wish())
    assert (target.precision, target.device) == ("int8", "CPU")


def test_case_57_npu_means_int4_but_hetero_does_not() -> None:
    npu = plan(a_conversion_wish(config={"precision": "int8", "device": "NPU"}), ALL)
    assert npu.target
    assert npu.target.precision == "int4"
    assert npu.destination.folder == "openvino_models/npu/int4/org/model"
    mixed = plan(a_conversion_wish(config={"precision": "int8", "device": "HETERO:NPU,CPU"}), ALL)
    assert mixed.destination.folder == "openvino_models/hetero_npu_cpu/int8/org/model"
    with pytest.raises(InvalidSpec, match="NPU target device is only supported for 'llm' and 'vlm' model types"):
        plan(a_conversion_wish(model_type=ModelType.EMBEDDINGS, config={"device": "NPU"}), ALL)


def test_the_nested_block_of_older_documents_counts_below_the_flat_keys() -> None:
    nested = {"precision": "fp16", "device": "gpu", "cache_size": 3}
    spec = plan(a_conversion_wish(config={"openvino_config": nested, "cache_size": "5"}), ALL)
    assert spec.destination.folder == "openvino_models/gpu/fp16/org/model"
    assert spec.serving_options["cache_size"] == 5
    for wrong in ({"device": "../x"}, {"device": "TPU"}, {"precision": "bf16"}):
        with pytest.raises(InvalidSpec, match="Invalid"):
            plan(a_conversion_wish(config={"openvino_config": wrong}), ALL)


def test_case_21_a_huggingface_model_is_converted_in_the_same_job() -> None:
    assert keys(a_conversion_wish(hub="huggingface"))[1:3] == keys(a_conversion_wish(hub="openvino"))[1:3]


def test_a_download_and_a_conversion_of_one_source_share_the_fetch() -> None:
    assert keys(a_wish())[0] == keys(a_conversion_wish())[1]


def test_serving_options_do_not_ask_for_another_conversion() -> None:
    small, large = (keys(a_conversion_wish(config={"cache_size": size})) for size in (1, 2))
    assert small[:3] == large[:3]
    assert small[3] != large[3]


@pytest.mark.parametrize(
    "changes",
    [{"name": "org/other"}, {"revision": "v2"}, {"config": {"include": ["*.json"]}}],
)
def test_another_source_is_other_work(changes: dict[str, object]) -> None:
    assert keys(a_wish(**changes))[0] != keys(a_wish())[0]


def test_another_precision_is_another_conversion_of_the_same_fetch() -> None:
    four, eight = (keys(a_conversion_wish(config={"precision": precision})) for precision in ("int4", "int8"))
    assert four[1] == eight[1]
    assert four[2] != eight[2]


def test_a_plan_is_a_job_of_its_own_or_the_beginning_of_one() -> None:
    spec = plan(a_conversion_wish(), ALL)
    (alone,) = stages(msgspec.structs.replace(spec, operation=Operation.PLAN))
    assert alone == stages(spec)[0], "so that they share it"
    (of_a_download,) = stages(msgspec.structs.replace(plan(a_wish(), ALL), operation=Operation.PLAN))
    assert of_a_download.kind is StageKind.PLAN


def test_what_a_plan_has_found_is_fetched() -> None:
    spec = plan(a_conversion_wish(), ALL)
    pulled, beside = (
        stages(spec, {"pulled_from": "OpenVINO/it"})[1],
        stages(spec, {"companions": {"vocoder": "a/b"}})[1],
    )
    assert pulled.work["source"] == {"hub": "huggingface", "name": "OpenVINO/it", "revision": None}
    options = pulled.work["options"]
    assert isinstance(options, dict)
    assert options["require_ir"] is True
    assert beside.work["companions"] == {"vocoder": "a/b"}
    assert stages(spec, {"revision": "x"}) == stages(spec)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "OpenVINO/model-int8-ov"),
        ({"config": {"precision": "int4"}}, "OpenVINO/model-int4-ov"),
        ({"config": {"precision": "int4", "device": "NPU"}}, "OpenVINO/model-int4-cw-ov"),
        ({"config": {"precision": "fp32"}}, None),
        ({"config": {"sym": True}}, None),
        ({"config": {"cache_size": 3}}, "OpenVINO/model-int8-ov"),
        ({"revision": "main"}, None),
        ({"name": "OpenVINO/model-int8-ov"}, None),
        ({"name": "gpt2"}, None),
    ],
)
def test_only_the_very_same_thing_may_be_taken_ready_made(changes: dict[str, object], expected: str | None) -> None:
    assert plan(a_conversion_wish(**changes), ALL).ready_made == expected


def test_the_same_work_on_another_input_has_another_key() -> None:
    stage: StagePlan = stages(plan(a_conversion_wish(), ALL))[1]
    assert work_key(stage.kind, stage.work, "source-1") != work_key(stage.kind, stage.work, "source-2")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../b", "a//b", "", "x;touch pwned;echo", "a\0b", "-rf", "a/b/c", ".hidden", "a\\b", "é"],
)
def test_a_hostile_model_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="Invalid model name"):
        plan(a_wish(name=name), ALL)


@pytest.mark.parametrize("revision", ["../x", "-x", "", "a b", "x\n", "refs/", "a\0"])
def test_a_hostile_revision_is_refused(revision: str) -> None:
    with pytest.raises(InvalidSpec, match="Invalid revision"):
        plan(a_wish(revision=revision), ALL)


@given(st.text(max_size=60))
def test_no_name_that_is_accepted_can_climb(name: str) -> None:
    try:
        spec = plan(a_conversion_wish(name=name), ALL)
    except InvalidSpec:
        return
    parts = spec.destination.folder.split("/")
    assert all(part not in {"", ".", ".."} and part.isprintable() and "\\" not in part for part in parts)


def test_a_conversion_needs_a_type_that_can_be_converted() -> None:
    assert target_of(a_conversion_wish(model_type=None)).model_type is None, "the model's own files tell"
    with pytest.raises(InvalidSpec, match="Invalid model_type"):
        plan(a_conversion_wish(model_type=ModelType.RPPG), ALL)


def test_case_18_only_enabled_hubs_are_offered() -> None:
    some = Catalog.installed("huggingface")
    with pytest.raises(PluginUnavailable, match=r"Plugin 'openvino' is not available: .* Active hubs: huggingface\."):
        plan(a_wish(hub="openvino"), some)
    with pytest.raises(PluginUnavailable, match="No plugin registered for hub 'nowhere'"):
        plan(a_wish(hub="nowhere"), some)


def test_case_20_a_conversion_needs_the_converter() -> None:
    with pytest.raises(PluginUnavailable, match=r"^OpenVINO conversion requested but plugin is not available"):
        plan(a_conversion_wish(hub="huggingface"), Catalog.installed("huggingface"))


def test_a_typo_in_the_enabled_plugins_is_not_silently_less() -> None:
    with pytest.raises(PluginUnavailable, match="hugginface"):
        Catalog.installed("hugginface,openvino")


def test_case_14_unknown_config_keys_reach_the_plugin() -> None:
    spec = plan(a_wish(config={"made_up": 7, "precision": "int8"}), ALL)
    assert spec.hub_options["extra"] == {"made_up": 7, "precision": "int8"}


@pytest.mark.parametrize(
    ("device", "slug"),
    [("CPU", "cpu"), ("HETERO:GPU,CPU", "hetero_gpu_cpu"), ("HETERO:NPU,GPU.1,CPU", "hetero_npu_gpu.1_cpu")],
)
def test_a_device_becomes_a_path_segment(device: str, slug: str) -> None:
    assert device_slug(device) == slug
