"""What hubs offer: POST /models/list, answered by a real worker, and what GET /plugins says of it."""

import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.questions import Answers, Hubs, ListingWish
from api.tickets import TicketSender
from common.broker import Broker
from common.catalog.registry import Catalog
from common.errors import ServiceUnavailable
from common.seals import Credentials, Seal
from common.store.database import Database
from common.store.jobs import JobStore
from tests.answering import answered, plugins_installed
from tests.databases import sqlite_url
from tests.fakes.plugins.folder_hub import TOKEN
from tests.web import NOBODY, Web


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with answered(tmp_path_factory.mktemp("listing")) as running:
        yield running


def listed(service: Web, hub: str = "folder", prefix: str = "", **body: Any) -> httpx.Response:
    return service.post(f"{prefix}/models/list", json={"hub": hub, **body})


def page(service: Web, **body: Any) -> dict[str, Any]:
    answer = listed(service, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def secret(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# Answers


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_case_43_a_list_comes_in_pages_without_nulls(service: Web, prefix: str) -> None:
    first = listed(service, prefix=prefix, limit=2).json()
    assert first == {
        "hub": "folder",
        "items": [{"name": "model-0", "metadata": {"n": 0}}, {"name": "model-1", "metadata": {"n": 1}}],
        "count": 2,
        "limit": 2,
        "offset": 0,
        "has_more": True,
        "total": 5,
        "next_offset": 2,
    }
    last = page(service, limit=2, offset=4)
    assert [item["name"] for item in last["items"]] == ["model-4"]
    assert (last["count"], last["has_more"], "next_offset" in last) == (1, False, False)
    beyond = page(service, offset=99)
    assert (beyond["items"], beyond["count"], beyond["has_more"]) == ([], 0, False)


def test_filters_stand_in_an_object_or_beside_it_and_those_win(service: Web) -> None:
    assert page(service, filters={"search": "3"})["count"] == 1
    assert page(service, search="4")["items"][0]["name"] == "model-4"
    assert page(service, filters={"search": "3"}, search="4")["items"][0]["name"] == "model-4"
    assert page(service, filters={"search": "3"}, search=None)["items"][0]["name"] == "model-3"
    assert page(service, filters=None, more_of_this=None)["count"] == 5
    assert page(service, filters={"search": None})["count"] == 5


def test_the_hub_may_be_written_in_any_case(service: Web) -> None:
    assert listed(service, hub="Folder").json()["hub"] == "folder"


def test_nothing_is_left_of_a_question(service: Web) -> None:
    page(service)
    assert service.get("/jobs").json() == {"jobs": []}
    assert service.get("/jobs?limit=10").json()["total"] == 0
    database = Database(f"sqlite:///{service.models_dir / '.modelferry' / 'state' / 'modelferry.db'}")
    with database.read() as connection:
        for table in ("jobs", "stages", "job_events", "secrets"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0, table
    database.dispose()


def test_equal_questions_at_one_time_are_all_answered(service: Web) -> None:
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda n: listed(service, limit=1 + n % 2), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6


# Refusals


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"hub": "folder", "limit": 0}, "limit"),
        ({"hub": "folder", "limit": 201}, "limit"),
        ({"hub": "folder", "offset": -1}, "offset"),
        ({}, "hub"),
        ({"hub": None}, "hub"),
        ({"hub": "folder", "filters": [1]}, "filters"),
        ({"hub": "folder", "override_credentials": {"FOLDER_TOKEN": "%"}}, "override_credentials"),
    ],
)
def test_case_41_what_has_another_shape_is_422(service: Web, body: dict[str, Any], place: str) -> None:
    answer = service.post("/models/list", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", place]


def test_case_42_an_unknown_hub_is_told_the_active_ones(tmp_path: Path) -> None:
    with answered(tmp_path, enabled_plugins="folder,huggingface") as service:
        for hub in ("nowhere", "geti"):
            answer = listed(service, hub=hub)
            assert answer.status_code == 400
            assert answer.json()["detail"] == (
                f"Hub '{hub}' was not activated during container startup. Active hubs: folder, huggingface."
            )
        # That it cannot is true of a hub whether it is active or not, and comes first.
        assert listed(service, hub="ollama").status_code == 501


@pytest.mark.parametrize("hub", ["ollama", "hls", "omz", "remote-url", "openvino"])
def test_case_42_a_hub_without_a_list(service: Web, hub: str) -> None:
    answer = listed(service, hub=hub)
    assert (answer.status_code, answer.json()) == (501, {"detail": f"Hub '{hub}' does not support listing models"})


def test_case_42_a_filter_that_the_hub_does_not_know(service: Web) -> None:
    answer = listed(service, filters={"colour": 1}, author="x")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "Unsupported filter(s): author, colour. Allowed filter(s): search."


def test_the_filters_are_judged_before_the_credentials(service: Web) -> None:
    brought = {"X": secret("x")}
    assert "Unsupported filter" in listed(service, colour=1, override_credentials=brought).json()["detail"]
    assert "Unknown override key 'X'" in listed(service, override_credentials=brought).json()["detail"]


def test_case_42_a_token_that_the_hub_refuses(service: Web) -> None:
    answer = listed(service, override_credentials={"FOLDER_TOKEN": secret("another-token")})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Folder credentials are missing or invalid."})
    assert page(service, override_credentials={"FOLDER_TOKEN": secret(TOKEN)})["count"] == 5


def test_case_42_a_hub_in_trouble(service: Web) -> None:
    answer = listed(service, search="trouble")
    assert answer.status_code == 502
    told = answer.json()
    assert told["detail"] == "Failed to list models from hub 'folder'"
    assert (told["reason"], told["reason_code"]) == ("The folder has been taken away", "hub_unavailable")
    assert told["hint"]


def test_a_question_that_a_hub_puts_off_is_not_asked_again_and_the_hub_is_left_alone(tmp_path: Path) -> None:
    with answered(tmp_path, enabled_plugins="folder") as service:
        answer = listed(service, search="busy")
        assert (answer.status_code, answer.json()["reason_code"]) == (502, "rate_limited")
        (hub,) = service.get("/limits").json()["hubs"]
        assert (hub["name"], hub["reason"]) == ("folder", "Not now")


@pytest.mark.parametrize("search", ["endless", "wrong"])
def test_an_answer_of_any_size_or_kind_is_not_passed_on(service: Web, search: str) -> None:
    answer = listed(service, search=search)
    assert answer.status_code == 502
    assert answer.json()["reason_code"] == "source_unsafe"
    assert len(answer.content) < 1000


def test_a_value_that_the_hub_cannot_use_is_the_callers_fault(service: Web) -> None:
    answer = listed(service, search="strange")
    assert (answer.status_code, answer.json()) == (400, {"detail": "Nothing can be strange"})


# Nobody there


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Hubs]:
    """The use case without a worker."""
    with plugins_installed(), sqlite_url(tmp_path) as url:
        database = Database(url)
        answers = Answers(store=JobStore(database), tickets=TicketSender(Broker(NOBODY)))
        catalog = Catalog.installed("folder")
        yield Hubs(catalog=catalog, answers=answers, seal=Seal(None, tmp_path), list_s=0.3, check_s=0.3)
        database.dispose()


A_WISH = ListingWish(hub="folder", filters={}, limit=1, offset=0, credentials={})


def test_a_question_that_nobody_answers_ends(alone: Hubs) -> None:
    with pytest.raises(ServiceUnavailable, match="No download worker has answered in time"):
        alone.list(A_WISH, "")
    assert alone.answers.store.page(limit=10).records == []


def test_credentials_that_nobody_checks_are_not_called_wrong(alone: Hubs) -> None:
    with pytest.raises(ServiceUnavailable, match="No download worker has answered in time"):
        alone.check([(alone.catalog.hub("folder"), Credentials())], "")


def test_no_more_wait_than_may(alone: Hubs) -> None:
    begun = threading.Barrier(9)

    def ask(_: int) -> str:
        begun.wait()
        try:
            alone.list(A_WISH, "")
        except ServiceUnavailable as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(9) as threads:
        told = list(threads.map(ask, range(9)))
    assert sum("As many questions wait" in one for one in told) == 1


# Plugins


def test_case_40_the_plugins_tell_what_can_be_listed_and_brought_along(service: Web) -> None:
    told = service.get("/plugins").json()
    groups = told["available_plugins"]
    entries = [*groups["downloader"], *groups["converter"]]
    assert (len(entries), sum(entry["available"] for entry in entries)) == (
        told["total_count"],
        told["available_count"],
    )
    for entry in entries:
        assert {"name", "type", "description", "capabilities", "available", "unavailable_reason"} <= entry.keys()
    hubs = {entry["name"]: entry for entry in groups["downloader"]}
    assert {"pipeline-zoo-models", "omz", "remote-url"} <= hubs.keys()
    assert hubs["folder"]["capabilities"] == {
        "supports_parallel_downloads": True,
        "supports_listing": True,
        "listing_filter_fields": ["search"],
    }
    assert hubs["folder"]["config_keys"][1] == {
        "name": "FOLDER_ROOTS",
        "description": "Where to look.",
        "sensitive": False,
        "required": False,
        "group": None,
    }
    token = next(key for key in hubs["huggingface"]["config_keys"] if key["name"] == "HF_TOKEN")
    assert token["sensitive"] is True
    geti = {key["name"]: key for key in hubs["geti"]["config_keys"]}
    assert geti["GETI_HOST"]["group"] == geti["GETI_TOKEN"]["group"] == "geti"
    assert hubs["ollama"]["capabilities"]["supports_listing"] is False


def test_a_converter_that_only_finishes_is_not_shown(service: Web) -> None:
    with plugins_installed():
        catalog = Catalog.installed("all")
    finishing = {name for name, plugin in catalog.converters.items() if plugin.finishes}
    shown = {entry["name"] for entry in service.get("/plugins").json()["available_plugins"]["converter"]}
    assert shown == catalog.converters.keys() - finishing
