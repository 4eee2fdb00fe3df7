"""The dashboard's pages of models, gates, plugins, workers, webhooks and limits, as any client gets them."""

import json
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from api.dashboard.limits import LimitForm
from api.dashboard.models import shares
from api.dashboard.plugins import offer
from api.wire import CapabilityView, PluginView
from api.wire.local import LocalModelView
from common.artefacts.publish import publish
from tests.dashboard_service import publish_converted
from tests.stored_models import FOLDER, a_plan, a_store, a_stored_artefact, content_of
from tests.web import Web, web

HOSTILE = '<script>alert("x")</script>\'"&'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web"), flower_url="http://127.0.0.1:5555/") as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Web]:
    """One that no other test changes."""
    with web(tmp_path) as running:
        yield running


def show(service: Web, folder: str = FOLDER, version: int = 1) -> str:
    """Publish a model. Its id."""
    store = a_store(service.models_dir)
    plan = a_plan(a_stored_artefact(store, content_of(version), revision=f"c{version}"), folder)
    place = publish(store, plan, fence=lambda: None).path
    return next(model["id"] for model in service.get("/models").json()["models"] if model["path"] == str(place))


def text_of(answer: httpx.Response) -> str:
    """What a person reads."""
    assert answer.headers["content-type"].startswith("text/html")
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def form(service: Web, path: str, **fields: str) -> httpx.Response:
    return service.post(path, data=fields)


PAGES = ("/ui/models", "/ui/gates", "/ui/plugins", "/ui/workers", "/ui/webhooks", "/ui/limits")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_and_holds_nothing_that_its_policy_forbids(path: str, service: Web) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    found = Parts()
    found.feed(answer.text)
    assert found.forbidden == []
    assert len(found.ids) == len(set(found.ids)), "an id stands once"
    assert service.get(f"/api/v1{path}").status_code == 404, "pages have no second address"


@pytest.mark.parametrize("path", PAGES)
def test_pages_stay_out_of_the_document(path: str, service: Web) -> None:
    assert path not in service.get("/openapi.json").json()["paths"]


class TestModels:
    def test_models_are_listed_filtered_and_paged(self, own: Web) -> None:
        for number in range(3):
            show(own, f"huggingface/org_model-{number}", number)
        publish_converted(own.models_dir)
        page = text_of(own.get("/ui/models"))
        assert "in 4 models" in page
        assert "demo/phi-mini" in page
        assert "huggingface/org_model-2" in page
        assert "demo/phi-mini" not in text_of(own.get("/ui/models?hub=huggingface"))
        assert "org/model" not in text_of(own.get("/ui/models?name=PHI&precision=int4"))
        assert "No model is like that" in text_of(own.get("/ui/models?name=nobody"))
        last = text_of(own.get("/ui/models?offset=3"))
        assert "4 to 4 of 4" in last
        assert "Previous" in last
        assert "Next" not in last

    def test_a_script_gets_the_part_alone(self, service: Web) -> None:
        part = service.get("/ui/models", headers={"HX-Request": "true"})
        assert "<html" not in part.text

    def test_a_filter_that_cannot_be_is_refused_on_a_page(self, service: Web) -> None:
        answer = service.get("/ui/models?offset=minus-one")
        assert answer.status_code == 422
        assert "<h1>" in answer.text

    def test_nothing_yet(self, own: Web) -> None:
        assert "There are no models yet" in text_of(own.get("/ui/models"))

    def test_a_model_tells_everything(self, own: Web) -> None:
        publish_converted(own.models_dir)
        (model,) = own.get("/models").json()["models"]
        page = text_of(own.get(f"/ui/models/{model['id']}"))
        whole = own.get(f"/models/{model['id']}").json()
        for said in (whole["revision"], whole["artefact"], "asked for as main", "apache-2.0", "0.9931", "one inference ran",
                     "nncf 3.4.0", "group_size 128", "cache_size 4", whole["host_path"]):  # fmt: skip
            assert said in page, said
        for file in whole["file_list"]:
            assert file["path"] in page
            assert file["sha256"] in page
        assert f"openvino_genai.LLMPipeline('{whole['host_path']}', 'GPU')" in page
        assert f"--config_path {own.models_dir}/openvino_models/gpu/int4/config_all.json" in page

    def test_the_same_content_elsewhere_is_linked(self, own: Web) -> None:
        first, second = show(own), show(own, "twin")
        assert f'href="/ui/models/{second}"' in own.get(f"/ui/models/{first}").text

    def test_a_spoilt_model_says_so(self, own: Web) -> None:
        model_id = show(own)
        (own.models_dir / FOLDER / "model.bin").unlink()
        page = text_of(own.get(f"/ui/models/{model_id}"))
        assert "spoilt" in page
        assert "model.bin" in page
        assert "delete the model and fetch it again" in page

    def test_one_put_there_by_hand_cannot_be_deleted(self, own: Web) -> None:
        (own.models_dir / "mine").mkdir()
        (own.models_dir / "mine" / "weights.gguf").write_bytes(b"1")
        (model,) = own.get("/models").json()["models"]
        page = own.get(f"/ui/models/{model['id']}")
        assert "put there by hand" in text_of(page)
        assert "/delete" not in page.text
        answer = form(own, f"/ui/models/{model['id']}/delete")
        assert answer.status_code == 409
        assert "was not published by Modelferry" in text_of(answer)

    def test_verifying_shows_what_came_of_it(self, own: Web) -> None:
        model_id = show(own)
        answer = form(own, f"/ui/models/{model_id}/verify")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/models/{model_id}")
        assert "every digest holds" in text_of(own.get(f"/ui/models/{model_id}"))
        part = own.post(f"/ui/models/{model_id}/verify", headers={"HX-Request": "true"})
        assert part.status_code == 200
        assert "Read 5 files" in text_of(part)

    def test_deleting_asks_first(self, own: Web) -> None:
        model_id = show(own)
        assert "Delete this model?" in text_of(own.get(f"/ui/models/{model_id}/delete"))
        assert own.get(f"/models/{model_id}").status_code == 200
        answer = form(own, f"/ui/models/{model_id}/delete")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/models?done=removed")
        assert "has been removed" in text_of(own.get("/ui/models?done=removed"))
        assert own.get(f"/models/{model_id}").status_code == 404

    def test_files_that_were_kept_are_named(self, own: Web) -> None:
        model_id = show(own)
        (own.models_dir / FOLDER / "notes.txt").write_text("mine")
        answer = form(own, f"/ui/models/{model_id}/delete")
        assert answer.status_code == 200
        assert "notes.txt" in text_of(answer)

    def test_one_that_a_job_publishes_to_stays_and_says_why(self, own: Web) -> None:
        (job_id,) = own.submitted({"name": "org/model", "hub": "huggingface"}, download_path=".")
        model_id = show(own)
        answer = form(own, f"/ui/models/{model_id}/delete")
        assert answer.status_code == 409
        assert f"Job {job_id} has not ended" in text_of(answer)
        assert own.get(f"/models/{model_id}").status_code == 200

    def test_names_are_text_and_nothing_else(self, own: Web) -> None:
        folder = own.models_dir / "<b>mine"
        folder.mkdir()
        (folder / "a.gguf").write_bytes(b"1")
        for path in ("/ui/models", f"/ui/models?name={HOSTILE}"):
            answer = own.get(path)
            assert "<b>mine" not in answer.text
            assert "<script>alert" not in answer.text

    def test_shares_add_up(self) -> None:
        found = shares(
            [a_model(f"m{number}", size) for number, size in enumerate([400, 0, 300, 100, 50, 50, 40, 30, 30])]
        )
        assert [(share.name, share.bytes) for share in found][-1] == ("3 others", 60)
        assert sum(share.bytes for share in found) == 1000
        assert found[0].percent == 40
        assert [share.begin for share in found][:3] == [0, 40, 70]
        assert shares([]) == shares([a_model("empty", 0)]) == []


class TestGates:
    BODY = json.dumps([{"name": "org/model", "hub": "huggingface"}])

    def test_a_gate_is_made_seen_and_deleted(self, own: Web) -> None:
        assert "There are no gates yet" in text_of(own.get("/ui/gates"))
        answer = form(own, "/ui/gates", name="llm", models=self.BODY, download_path="x")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/gates/llm")
        assert own.get("/gates/llm").json()["models"][0]["path"] == str(own.models_dir / "x/huggingface/org_model")
        page = text_of(own.get("/ui/gates/llm"))
        assert "closed" in page
        assert "org/model" in page
        assert "modelferry gate wait llm" in page
        assert "service_completed_successfully" in page
        assert "initContainers" in page
        assert "0 of 1 there" in text_of(own.get("/ui/gates"))
        part = own.get("/ui/gates/llm", headers={"HX-Request": "true"})
        assert "<html" not in part.text
        assert form(own, "/ui/gates/llm/delete").headers["location"] == "/ui/gates?done=removed"
        assert own.get("/ui/gates/llm").status_code == 404

    def test_it_is_open_when_its_models_are_there(self, own: Web) -> None:
        show(own)
        form(own, "/ui/gates", name="llm", models=self.BODY)
        assert "1 of 1 there" in text_of(own.get("/ui/gates"))
        assert "The model is there." in text_of(own.get("/ui/gates/llm"))

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"name": "Not good", "models": BODY}, "A gate's name is"),
            ({"name": "a", "models": "no json"}, "JSON decode error"),
            ({"name": "a", "models": "[]"}, "models"),
            ({"name": "a", "models": '[{"name": "x", "hub": "nowhere"}]'}, "hub"),
            ({"name": "a", "models": BODY, "download_path": "../out"}, "MODELS_DIR"),
            ({}, "models"),
        ],
        ids=["name", "json", "empty", "hub", "path", "nothing"],
    )  # fmt: skip
    def test_what_is_wrong_is_said_beside_the_form(self, fields: dict[str, str], said: str, service: Web) -> None:
        answer = form(service, "/ui/gates", **fields)
        assert answer.status_code == 422
        page = text_of(answer)
        assert said in page
        assert fields.get("models", "") in unescape(answer.text), "what was typed is still there"
        assert service.get("/gates").json()["gates"] == []

    def test_a_whole_request_may_be_pasted(self, own: Web) -> None:
        body = json.dumps({"models": json.loads(self.BODY), "download_path": "y"})
        assert form(own, "/ui/gates", name="llm", models=body, download_path="x").status_code == 303
        assert "/y/" in own.get("/gates/llm").json()["models"][0]["path"]


class TestPlugins:
    def test_every_plugin_is_told_with_its_options(self, service: Web) -> None:
        page = text_of(service.get("/ui/plugins"))
        told = service.get("/plugins").json()["available_plugins"]
        for plugin in [*told["downloader"], *told["converter"]]:
            assert plugin["name"] in page
            assert plugin["available"] or plugin["unavailable_reason"] in page
            for key in plugin["config_keys"]:
                assert key["name"] in page
            for option in plugin.get("options", {}).get("properties", {}):
                assert option in page
        assert "secret" in page

    def test_a_schema_is_told_in_words(self) -> None:
        schema: dict[str, object] = {
            "type": "object",
            "properties": {
                "ratio": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.8, "x-part": "conversion"},
                "mode": {"enum": ["a", "b"], "x-part": "serving", "description": "Which."},
                "many": {"type": "array", "items": {"type": "integer", "maximum": 2**31 - 1}, "x-part": "conversion"},
                "either": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-part": "conversion"},
                "inner": {"type": "object", "properties": {"deep": {"type": "boolean", "default": True}}, "required": ["deep"],
                          "x-part": "conversion"},
            },
        }  # fmt: skip
        told = {option.name: option for option in offer(a_plugin(schema)).options}
        assert {name: option.kind for name, option in told.items()} == {
            "ratio": "number ≥ 0 ≤ 1",
            "mode": "a, b",
            "many": "list of integer",
            "either": "integer or string",
            "inner": "object",
            "inner.deep": "boolean",
        }
        assert (told["ratio"].default, told["inner.deep"].default, told["mode"].default) == ("0.8", "true", "")
        assert told["inner.deep"].required
        assert told["mode"].part == "serving"


class TestWorkers:
    def test_none_is_said(self, service: Web) -> None:
        page = service.get("/ui/workers")
        assert "No download worker has shown a sign of life" in text_of(page)
        assert 'href="http://127.0.0.1:5555/"' in page.text


class TestWebhooks:
    def test_a_webhook_is_added_and_its_secret_shown_once(self, own: Web) -> None:
        assert "Nobody is told yet" in text_of(own.get("/ui/webhooks"))
        answer = own.post("/ui/webhooks", data={"url": "https://hooks.example/a?token=t", "event": ["job.failed"]})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        secret = re.search(r"whsec_[A-Za-z0-9+/=]+", answer.text)
        assert secret
        (webhook,) = own.get("/webhooks").json()["webhooks"]
        assert webhook["events"] == ["job.failed"]
        one = f"/ui/webhooks/{webhook['id']}"
        for path in ("/ui/webhooks", one):
            page = own.get(path)
            assert secret[0] not in page.text
            assert "token=t" not in page.text
            assert "hooks.example/a" in page.text
        assert form(own, f"{one}/test").status_code == 303
        page = text_of(own.get(one))
        assert "waiting" in page
        (delivery,) = own.get(f"/webhooks/{webhook['id']}/deliveries").json()["deliveries"]
        assert form(own, f"{one}/deliveries/{delivery['id']}").headers["location"] == one
        renewed = form(own, f"{one}/rotate")
        assert "whsec_" in renewed.text
        assert secret[0] not in renewed.text
        assert form(own, f"{one}/enabled", enabled="false").status_code == 303
        assert "nothing is sent to it" in text_of(own.get(one))
        assert form(own, f"{one}/test").status_code == 409
        assert form(own, f"{one}/delete").headers["location"] == "/ui/webhooks?done=removed"
        assert own.get(one).status_code == 404

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"url": "http://hooks.example/", "event": "job.failed"}, "https"),
            ({"url": "https://hooks.example/"}, "Events"),
            ({"url": "", "event": "job.failed"}, "Address"),
            ({"url": "https://hooks.example/", "event": "job.failed", "tenant": "a b"}, "Tenant"),
        ],
        ids=["http", "no event", "no address", "tenant"],
    )
    def test_what_is_wrong_is_said_beside_the_form(self, fields: dict[str, str], said: str, service: Web) -> None:
        answer = form(service, "/ui/webhooks", **fields)
        assert answer.status_code == 422
        assert said in text_of(answer)
        assert service.get("/webhooks").json()["webhooks"] == []


class TestLimits:
    @pytest.mark.parametrize(
        ("fields", "limit"),
        [
            ({"scope": "hub", "name": "huggingface", "max_running": "2", "speed": "1.5"}, ("hub", "huggingface", 2, 1_500_000)),
            ({"scope": "service", "name": "x", "speed": "20", "unit": "KB/s"}, ("service", "*", None, 20_000)),
            ({"scope": "pool", "name": "convert", "max_running": "1"}, ("pool", "convert", 1, None)),
            ({"scope": "tenant", "name": " team-a ", "max_running": "7"}, ("tenant", "team-a", 7, None)),
        ],
        ids=["hub", "service", "pool", "tenant"],
    )  # fmt: skip
    def test_a_limit_is_set_and_removed(
        self, fields: dict[str, str], limit: tuple[str, str, int | None, int | None], service: Web
    ) -> None:
        scope, name, running, speed = limit
        assert form(service, "/ui/limits", **fields).headers["location"] == "/ui/limits?done=set"
        found = {"scope": scope, "name": name, "max_running": running, "bytes_per_s": speed}
        assert service.get("/limits").json()["limits"] == [found]
        page = service.get("/ui/limits")
        change = unescape(re.search(r'href="(/ui/limits\?scope[^"#]*)', page.text)[1])  # type: ignore[index]
        again = service.get(change)
        assert f'value="{name}"' in again.text
        assert form(service, "/ui/limits/remove", scope=scope, name=name).status_code == 303
        assert service.get("/limits").json()["limits"] == []
        assert form(service, "/ui/limits/remove", scope=scope, name=name).status_code == 404

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"scope": "hub", "name": "nowhere", "max_running": "2"}, "No limit of a hub is named"),
            ({"scope": "hub", "name": "huggingface"}, "Say how many"),
            ({"scope": "hub", "name": "huggingface", "max_running": "0"}, "At once"),
            ({"scope": "hub", "name": "huggingface", "max_running": "9" * 30}, "At once"),
            ({"scope": "hub", "name": "huggingface", "speed": "nan"}, "Speed"),
            ({"scope": "hub", "name": "huggingface", "speed": "fast"}, "Speed"),
            ({"scope": "hub", "name": "huggingface", "speed": "1e300"}, "Speed"),
            ({"scope": "service", "name": "*", "max_running": "3"}, "no max_running"),
            ({"scope": "galaxy", "name": "x", "max_running": "3"}, "no limits of such a scope"),
        ],
        ids=["name", "nothing", "zero", "huge", "nan", "word", "endless", "service", "scope"],
    )
    def test_what_is_wrong_is_said_beside_the_form(self, fields: dict[str, str], said: str, service: Web) -> None:
        answer = form(service, "/ui/limits", **fields)
        assert answer.status_code == 422
        page = text_of(answer)
        assert said in page
        assert f'value="{fields["name"]}"' in answer.text
        assert service.get("/limits").json()["limits"] == []

    def test_a_body_that_is_no_form_is_no_more_than_an_empty_one(self, service: Web) -> None:
        answer = service.post("/ui/limits", content=b"\xff\xfe=%00&scope=%ff", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 422

    def test_a_form_of_thousands_of_fields_is_refused(self, service: Web) -> None:
        for path in ("/ui/limits", "/ui/limits/remove", "/ui/webhooks", "/ui/gates"):
            assert service.post(path, content=b"a=b&" * 5000).status_code == 400, path

    def test_the_form_begins_empty(self) -> None:
        assert LimitForm() == LimitForm(scope="hub", name="", max_running="", speed="", unit="MB/s")


class Parts(HTMLParser):
    """What a page holds that its policy would not let work."""

    def __init__(self) -> None:
        super().__init__()
        self.forbidden: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if "style" in given or tag == "style" or (tag == "script" and not given.get("src")):
            self.forbidden.append(f"<{tag} {given}>")
        self.forbidden += [f"{name}={value}" for name, value in attrs if re.match(r"on|hx-on|hx-vals", name)]
        self.forbidden += [
            f"{name}={value}" for name, value in attrs
            if name in {"src", "href", "action"} and value and re.match(r"javascript:|data:|//", value)
        ]  # fmt: skip


def a_model(name: str, size: int) -> LocalModelView:
    return LocalModelView(
        id=f"m-{name}", name=name, managed=True, hub="huggingface", revision=None, precision=None, device=None,
        model_type=None, format=None, licence=None, bytes=size, files=1, path="/m", host_path="/m", published_at=None,
        state="good", verified_at=None,
    )  # fmt: skip


def a_plugin(options: dict[str, object]) -> PluginView:
    return PluginView(
        name="p", type="converter", description="", capabilities=CapabilityView(), config_keys=[], hub_config_keys=[],
        available=True, unavailable_reason=None, options=options,
    )  # fmt: skip
