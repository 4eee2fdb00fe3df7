"""The options are described where clients and people look for them, in the words of the code."""

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # comes without types

from api.views import plugin_page
from common.catalog.openvino import OPENVINO, OpenVINOOptions, ServingOptions
from common.catalog.registry import Catalog
from common.catalog.schema import config_schema
from scripts.option_docs import PAGE, page

SCHEMA = config_schema(OPENVINO)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.option_docs"


def test_every_option_is_described():
    expected = {*OpenVINOOptions.__struct_fields__, *ServingOptions.__struct_fields__} - {
        "dataset_sha256",
        "draft_models_path",
    }
    assert SCHEMA["properties"].keys() == expected
    for name, described in SCHEMA["properties"].items():
        assert described["description"].endswith("."), name
        assert described["x-part"] in {"conversion", "serving"}
        assert "type" in described or "enum" in described
        assert f"| `{name}` |" in page()


def test_the_schema_says_what_is_accepted():
    Draft202012Validator.check_schema(SCHEMA)
    validator = Draft202012Validator(SCHEMA)
    assert validator.is_valid(
        {
            "weight_format": "int4",
            "group_size": -1,
            "awq": True,
            "dataset": "path:texts/faq.txt",
            "verify": {"max_divergence": 0.1},
            "cache_size": 4,
        }
    )
    for wrong in (
        {"ratio": 2},
        {"dataset": "../wikitext2"},
        {"quant_mode": "int4"},
        {"verify": {"samples": 3}},
        {"awq": 3},
    ):
        assert not validator.is_valid(wrong), wrong


def test_null_is_no_value_of_an_option():
    for name, described in SCHEMA["properties"].items():
        assert None not in described.get("enum", []), name
        assert described.get("default", 0) is not None, name
        assert "null" not in str(described.get("type")), name


def test_the_list_of_plugins_carries_the_schema_of_each_converter():
    groups = plugin_page(Catalog.installed("all").entries()).available_plugins
    assert [plugin.options for plugin in groups.converter] == [SCHEMA]
    assert not any(plugin.options for plugin in groups.downloader)
