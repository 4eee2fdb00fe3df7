"""What each profile can convert, and which one does it."""

from __future__ import annotations

import msgspec
import pytest

from common.catalog.openvino.capabilities import DEFAULT, route, tables, tasks_of
from common.catalog.openvino.nature import Nature
from common.errors import InvalidParameters, UnsupportedModel
from common.vocabulary import ModelType
from scripts.dump_capabilities import as_text, ask
from scripts.setup import PROFILES, ROOT, pinned, profile_pins
from worker.converters.openvino.profiles import versions_of

OLDER = "transformers-4.57"


def a_nature(architecture: str = "llama", task: str = "text-generation-with-past", **more: object) -> Nature:
    usual = Nature(
        model_type=ModelType.LLM,
        task=task,
        library="transformers",
        architecture=architecture,
        classes=(),
        form="transformers",
        brings_code=None,
        pickled=False,
        weights_bytes=1,
    )
    return msgspec.structs.replace(usual, **more)


QWEN2_VL = a_nature("qwen2_vl", "image-text-to-text", classes=("Qwen2VLForConditionalGeneration",))


def refusal(nature: Nature, asked: str | None = None, installed: tuple[str, ...] = ()) -> UnsupportedModel:
    with pytest.raises(UnsupportedModel) as refused:
        route(nature, asked, installed)
    return refused.value


def test_what_the_workers_own_environment_can_do_it_does() -> None:
    assert route(a_nature(), None, [OLDER]) == DEFAULT
    assert next(iter(tables())) == DEFAULT


def test_what_only_an_older_transformers_can_do_goes_there() -> None:
    assert route(QWEN2_VL, None, [OLDER]) == OLDER


def test_what_only_a_newer_transformers_can_do_stays_here() -> None:
    assert route(a_nature("gemma4", "image-text-to-text"), None, [OLDER]) == DEFAULT


def test_a_profile_that_could_do_it_but_is_not_installed_is_named() -> None:
    refused = refusal(QWEN2_VL)
    assert "takes transformers of at least 4.57 and at most 5.0; installed is 5.5.4" in str(refused)
    assert f"python3 scripts/setup.py --profile {OLDER}" in refused.advice
    assert "MODELFERRY_PROFILES" in refused.advice


def test_a_profile_that_was_asked_for_is_taken_or_refused() -> None:
    assert route(a_nature(), OLDER, [OLDER]) == OLDER
    refused = refusal(QWEN2_VL, DEFAULT, (OLDER,))
    assert f"Profile '{OLDER}' can" in refused.advice


def test_a_profile_that_is_not_there_cannot_be_asked_for() -> None:
    for name in (OLDER, "no-such"):
        with pytest.raises(InvalidParameters, match="there is: default"):
            route(a_nature(), name, [])


def test_a_profile_without_a_table_is_never_chosen() -> None:
    refusal(QWEN2_VL, None, ("made-up",))
    with pytest.raises(InvalidParameters):
        route(a_nature(), "made-up", ["made-up"])


@pytest.mark.parametrize(
    ("nature", "words"),
    [
        (a_nature("mystery"), "does not know models of type 'mystery'"),
        (a_nature("mystery", brings_code="auto_map"), "cannot convert models of type 'mystery'"),
        (
            a_nature("bert"),
            "cannot convert 'bert' models for text-generation-with-past; it can for: feature-extraction",
        ),
        (a_nature("phi3_v", "image-text-to-text"), "does not know models of type 'phi3_v'"),
        (a_nature("rt_detr", "object-detection"), "for detr, yolos, not 'rt_detr'"),
        (a_nature("detr", "object-detection", needs=("timm",)), "not installed: timm"),
        (a_nature("x", "zero-shot-image-classification", library="open_clip"), "library 'open_clip'"),
        (a_nature("KolorsPipeline", "text-to-image", library="diffusers"), "pipelines of class 'KolorsPipeline'"),
    ],
)
def test_what_no_profile_can_do_is_refused_with_the_reason(nature: Nature, words: str) -> None:
    refused = refusal(nature, None, PROFILES)
    assert words in str(refused)
    assert "Profile '" not in refused.advice


def test_our_own_exporter_takes_detectors() -> None:
    for architecture in ("detr", "yolos"):
        nature = a_nature(architecture, "object-detection")
        assert route(nature, None, [OLDER]) == DEFAULT
        assert f"Profile '{DEFAULT}' can" in refusal(nature, OLDER, (OLDER,)).advice


def test_other_words_for_a_task_are_understood() -> None:
    assert route(a_nature(task="causal-lm-with-past"), None, []) == DEFAULT


def test_a_class_that_one_transformers_lacks_is_looked_for_in_another() -> None:
    only_there = sorted(tables()[OLDER].classes - tables()[DEFAULT].classes)
    written = next(name for name in only_there if name.endswith("Tokenizer"))
    assert route(a_nature(classes=(written,)), None, [OLDER]) == OLDER
    assert f"has no class {written}" in str(refusal(a_nature(classes=(written,))))


def test_a_pipeline_of_newer_diffusers_is_known_to_be_newer() -> None:
    assert tasks_of("diffusers", "ZImagePipeline")
    assert "ZImagePipeline" not in tables()[OLDER].architectures["diffusers"]


def test_every_profile_that_is_shipped_has_a_table_of_the_releases_it_is_pinned_to() -> None:
    assert set(tables()) == {DEFAULT, *PROFILES}
    for profile in PROFILES:
        for line in profile_pins(profile).read_text().splitlines():
            name, _, version = line.partition("==")
            assert versions_of(profile)[name] == version
    here = versions_of(DEFAULT)
    assert all(here[name] == pinned(name) for name in here)


def test_the_table_is_what_the_installed_tools_say() -> None:
    table = ROOT / "common" / "catalog" / "openvino" / "capabilities" / f"{DEFAULT}.json"
    assert table.read_text() == as_text(ask(DEFAULT)) + "\n", "run: make capabilities"
