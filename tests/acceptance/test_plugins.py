"""What may be asked for here: plugins, and the models of hubs."""

import base64
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import WITHOUT_CONVERSIONS, Wire, faults, refused
from tests.e2e.service import Service
from tests.fakes.faults import Fault, Status
from tests.fakes.git_lfs import FakeForge
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.traffic import Match

PLUGIN_KEYS = {"name", "type", "description", "capabilities", "available", "unavailable_reason"}
FIVE = [f"five/model-{number}" for number in range(5)]
ZOO = ("dbnet", "emotions", "yolov5s", "yolov8s", "zebra")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    files = {f"storage/{name}/{name}.json": b"{}" for name in ZOO}
    with FakeHuggingFace() as hub, FakeForge(files) as forge:
        for name in FIVE:
            hub.add_repo(name, {"config.json": b"{}", "model.safetensors": b"w" * 100})
        forge.quota = 1000
        with Service(
            tmp_path_factory.mktemp("plugins"),
            run=WITHOUT_CONVERSIONS,
            HF_ENDPOINT=hub.endpoint,
            PIPELINE_ZOO_URL=forge.url,
        ) as service:
            yield SimpleNamespace(hub=hub, service=service)


@pytest.fixture(scope="module")
def service(world: SimpleNamespace) -> Service:
    found: Service = world.service
    return found


def listed(wire: Wire, hub: str, **more: object) -> dict[str, Any]:
    answer = wire.post("/models/list", {"hub": hub, **more})
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


@case(40)
def test_plugins_are_told_by_kind_with_what_they_can(wire: Wire) -> None:
    page = wire.get("/plugins").json()
    groups = page["available_plugins"]
    assert set(groups) == {"downloader", "converter"}
    plugins = [plugin for group in groups.values() for plugin in group]
    assert (page["total_count"], page["available_count"]) == (len(plugins), sum(one["available"] for one in plugins))
    assert page["activation_instructions"]
    for kind, group in groups.items():
        for plugin in group:
            assert plugin.keys() >= PLUGIN_KEYS
            assert plugin["type"] == kind
            assert (plugin["unavailable_reason"] is None) == plugin["available"]
            assert isinstance(plugin["capabilities"]["supports_parallel_downloads"], bool)
    by_name = {plugin["name"]: plugin for plugin in groups["downloader"]}
    assert by_name.keys() >= {"huggingface", "ollama", "ultralytics", "geti", "hls"}
    assert by_name.keys() >= {"pipeline-zoo-models", "omz", "remote-url"}, "each of the external sources by itself"
    tokens = {key["name"]: key for key in by_name["huggingface"]["config_keys"]}
    assert tokens["HF_TOKEN"]["sensitive"] is True
    assert by_name["huggingface"]["capabilities"]["supports_listing"] is True
    assert by_name["ollama"]["capabilities"]["supports_listing"] is False


@case(41)
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"hub": "huggingface", "limit": 0}, ("greater_than_equal", ["body", "limit"])),
        ({"hub": "huggingface", "limit": 201}, ("less_than_equal", ["body", "limit"])),
        ({"hub": "huggingface", "offset": -1}, ("greater_than_equal", ["body", "offset"])),
        ({"limit": 1}, ("missing", ["body", "hub"])),
    ],
)
def test_a_listing_without_the_documented_shape(wire: Wire, body: dict[str, Any], fault: tuple[str, list[Any]]) -> None:
    assert faults(wire.post("/models/list", body)) == [fault]


@case(42)
def test_a_hub_that_is_not_there_cannot_be_listed(wire: Wire) -> None:
    detail = refused(wire.post("/models/list", {"hub": "nowhere"}), "'nowhere'", "Active hubs: ")
    assert "huggingface" in detail.partition("Active hubs: ")[2]


@case(42)
@pytest.mark.parametrize("hub", ["ollama", "hls", "omz", "remote-url"])
def test_a_hub_without_a_list_says_so(wire: Wire, hub: str) -> None:
    answer = wire.post("/models/list", {"hub": hub})
    assert (answer.status_code, answer.json()) == (501, {"detail": f"Hub '{hub}' does not support listing models"})


@case(42)
@pytest.mark.parametrize("body", [{"filters": {"colour": "blue"}}, {"colour": "blue"}])
def test_a_filter_that_the_hub_does_not_know_is_refused(wire: Wire, body: dict[str, Any]) -> None:
    detail = refused(wire.post("/models/list", {"hub": "huggingface", **body}))
    assert detail.startswith("Unsupported filter(s): colour. Allowed filter(s): author, ")


@case(42)
def test_a_hub_that_fails_is_a_bad_gateway(wire: Wire, world: SimpleNamespace) -> None:
    armed = world.hub.add_fault(Fault(kind=Status(500), match=Match("/api/models")))
    try:
        answer = wire.post("/models/list", {"hub": "huggingface"})
    finally:
        world.hub.remove_fault(armed)
    assert answer.status_code == 502
    assert answer.json()["detail"] == "Failed to list models from hub 'huggingface'"


@case(42)
def test_a_token_that_the_hub_does_not_know_is_unauthorised(wire: Wire) -> None:
    wrong = {"HF_TOKEN": base64.b64encode(b"nobody").decode()}
    answer = wire.post("/models/list", {"hub": "huggingface", "override_credentials": wrong})
    assert (answer.status_code, answer.json()) == (401, {"detail": "HuggingFace credentials are missing or invalid."})


@case(43)
@pytest.mark.parametrize(
    ("hub", "more", "names"),
    [
        ("huggingface", {"filters": {"author": "five"}}, FIVE),
        ("huggingface", {"author": "five", "search": None}, FIVE),
        ("pipeline-zoo-models", {}, list(ZOO)),
    ],
)
def test_a_list_comes_in_pages(wire: Wire, hub: str, more: dict[str, Any], names: list[str]) -> None:
    first = listed(wire, hub, limit=2, **more)
    assert (first["hub"], first["limit"], first["offset"], first["count"]) == (hub, 2, 0, 2)
    assert (first["has_more"], first["next_offset"]) == (True, 2)
    last = listed(wire, hub, limit=2, offset=4, **more)
    assert (last["count"], last["has_more"]) == (1, False)
    assert "next_offset" not in last
    middle = listed(wire, hub, limit=2, offset=2, **more)
    pages = (first, middle, last)
    assert sorted(item["name"] for page in pages for item in page["items"]) == sorted(names)
    assert not any("null" in json.dumps(page) for page in pages)
