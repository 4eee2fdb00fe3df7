"""What people do with models, gates, limits and webhooks in a real browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Visitor, visiting
from tests.dashboard_service import SMALL, DashboardService


@pytest.fixture
def visitor(dashboard: DashboardService, browser: Browser) -> Iterator[Visitor]:
    with visiting(browser, dashboard.origin) as visitor:
        yield visitor


@pytest.fixture
def plain(dashboard: DashboardService, browser: Browser) -> Iterator[Visitor]:
    """Somebody whose browser runs no scripts."""
    with visiting(browser, dashboard.origin, scripts=False) as visitor:
        yield visitor


def test_a_model_is_found_and_deleted(dashboard: DashboardService, visitor: Visitor) -> None:
    dashboard.fetched(SMALL, "to-be-deleted")
    page = visitor.open("/ui/models")
    page.get_by_label("Name").fill("MINILM")
    expect(page.locator("#models tbody tr")).to_have_count(len(listed(dashboard, "minilm")))
    page.locator("#models tr", has_text="to-be-deleted").get_by_role("link", name=SMALL).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(SMALL)
    page.get_by_role("link", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete this model?")
    page.get_by_role("button", name=f"Delete {SMALL}").click()
    visitor.lands_on("/ui/models?done=removed")
    expect(page.get_by_text("The model has been removed")).to_be_visible()
    assert not [path for path in listed(dashboard) if "to-be-deleted" in path]


def test_somebody_changes_their_mind(dashboard: DashboardService, visitor: Visitor) -> None:
    dashboard.fetched(SMALL, "kept")
    (model,) = [one for one in models(dashboard) if "/kept/" in one["path"]]
    page = visitor.open(f"/ui/models/{model['id']}/delete")
    page.get_by_role("link", name="Keep it").click()
    visitor.lands_on(f"/ui/models/{model['id']}")
    assert Path(model["path"]).exists()


def test_a_model_is_verified_and_found_spoilt(dashboard: DashboardService, visitor: Visitor) -> None:
    dashboard.hub.add_repo("demo/verified", {"config.json": b"{}", "model.safetensors": b"v" * 300_000})
    dashboard.fetched("demo/verified")
    page = visitor.open(f"/ui/models/{dashboard.model_id('demo/verified')}")
    expect(page.locator("#standing")).to_contain_text("not verified")
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#standing")).to_contain_text("every digest holds")
    visitor.page.reload()
    expect(page.locator("#standing")).to_contain_text("Every file was read")

    weights = Path(
        next(one["path"] for one in models(dashboard) if one["name"] == "demo/verified"), "model.safetensors"
    )
    weights.write_bytes(b"x" * 300_000)
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#standing .badge")).to_have_text("spoilt")
    expect(page.get_by_text("model.safetensors has another content than was published")).to_be_visible()
    visitor.open("/ui/models?name=verified")
    expect(page.locator("tbody .badge")).to_have_text("spoilt")


def test_digests_and_snippets_are_there_to_be_copied(dashboard: DashboardService, visitor: Visitor) -> None:
    dashboard.fetched(SMALL)
    (model,) = [one for one in models(dashboard) if one["path"].endswith("models/huggingface/demo_minilm-l6")]
    whole = dashboard.service.get(f"/models/{model['id']}").json()
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=dashboard.origin)
    page = visitor.open(f"/ui/models/{model['id']}")
    first = whole["file_list"][0]
    page.get_by_role("button", name=f"Copy the SHA-256 of {first['path']}", exact=True).click()
    expect(page.locator("#told")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == first["sha256"]
    expect(page.locator("code", has_text=model["host_path"]).first).to_be_visible()


def test_a_model_is_verified_and_deleted_without_scripts(dashboard: DashboardService, plain: Visitor) -> None:
    dashboard.hub.add_repo("demo/plain", {"config.json": b"{}", "model.safetensors": b"p" * 1000})
    dashboard.fetched("demo/plain")
    page = plain.open("/ui/models?name=plain")
    page.get_by_role("link", name="demo/plain").first.click()
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#standing .badge")).to_have_text("verified")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete demo/plain").click()
    plain.lands_on("/ui/models?done=removed")
    assert not listed(dashboard, "demo/plain")


def test_a_gate_opens_before_ones_eyes(dashboard: DashboardService, visitor: Visitor) -> None:
    slow = dashboard.slow_model("gate", mib=4)
    page = visitor.open("/ui/gates")
    page.get_by_label("Name").fill("Not A Name")
    page.get_by_label("Models").fill("no json")
    # The browser itself refuses such a name; who gets around that is told by the service.
    page.locator("form[action='/ui/gates']").evaluate("form => { form.noValidate = true; }")
    page.get_by_role("button", name="Make the gate").click()
    expect(page.get_by_role("alert")).to_be_visible()
    visitor.assert_quiet("status of 422")

    page.get_by_label("Name").fill("opens")
    page.get_by_label("Models").fill(f'[{{"name": "{slow}", "hub": "huggingface"}}]')
    page.get_by_label("Folder").fill("gate")
    page.get_by_role("button", name="Make the gate").click()
    visitor.lands_on("/ui/gates/opens")
    state = page.locator("#gate .standing-line .badge")
    expect(state).to_have_text("closed")
    page.wait_for_function("() => document.querySelector('#gate .rows progress')?.value > 5")
    expect(state).to_have_text("open", timeout=30_000)
    expect(page.locator("#gate .rows .badge")).to_have_text("published")

    page.locator("summary", has_text="Delete").click()
    page.get_by_role("button", name="Delete opens").click()
    visitor.lands_on("/ui/gates?done=removed")
    assert dashboard.service.get("/gates/opens").status_code == 404


def test_a_limit_is_set_changed_and_removed(dashboard: DashboardService, visitor: Visitor) -> None:
    page = visitor.open("/ui/limits")
    page.get_by_label("For").select_option("A tenant")
    page.get_by_label("Name").fill("team-b")
    page.get_by_label("At once").fill("many")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.get_by_role("alert")).to_contain_text("At once")
    expect(page.get_by_label("Name")).to_have_value("team-b")
    visitor.assert_quiet("status of 422")
    page.get_by_label("At once").fill("3")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.locator("tr", has_text="team-b")).to_contain_text("3")
    assert {"scope": "tenant", "name": "team-b", "max_running": 3, "bytes_per_s": None} in limits(dashboard)

    page.get_by_role("link", name="Change the limit of tenant team-b").click()
    page.get_by_label("At once").fill("5")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.locator("tr", has_text="team-b")).to_contain_text("5")
    page.get_by_role("button", name="Remove the limit of tenant team-b").click()
    expect(page.locator("tr", has_text="team-b")).to_have_count(0)
    assert not limits(dashboard)


def test_a_webhook_hears_a_test_message(dashboard: DashboardService, visitor: Visitor) -> None:
    with a_listener() as (url, heard):
        page = visitor.open("/ui/webhooks")
        page.get_by_label("Address").fill(url)
        page.get_by_label("canceled").uncheck()
        page.get_by_role("button", name="Add the webhook").click()
        secret = page.locator("#secret").inner_text()
        assert secret.startswith("whsec_")
        page.get_by_role("link", name="I have it").click()
        assert secret not in page.content()
        page.get_by_role("button", name="Send a test").click()
        expect(page.locator("#deliveries tbody .badge")).to_have_text("delivered", timeout=20_000)
        assert len(heard) == 1
        page.get_by_role("button", name="Send test").click()
        expect(page.locator("#deliveries tbody tr")).to_have_count(1)
        wait_until(visitor, lambda: len(heard) == 2)
        page.get_by_role("button", name="Switch off").click()
        expect(page.get_by_text("nothing is sent to it")).to_be_visible()
        page.locator("summary", has_text="Delete").click()
        page.get_by_role("button", name="Delete the webhook").click()
        visitor.lands_on("/ui/webhooks?done=removed")
    assert dashboard.service.get("/webhooks").json()["webhooks"] == []


@contextmanager
def a_listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address on loopback that takes messages, and those that have come."""
    heard: list[bytes] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_until(visitor: Visitor, fulfilled: object) -> None:
    for _ in range(100):
        if fulfilled():  # type: ignore[operator]
            return
        visitor.page.wait_for_timeout(100)
    raise AssertionError("not within 10 s")


def models(dashboard: DashboardService, name: str = "") -> list[dict[str, str]]:
    found: list[dict[str, str]] = dashboard.service.get("/models", name=name).json()["models"]
    return found


def listed(dashboard: DashboardService, name: str = "") -> list[str]:
    return [model["path"] for model in models(dashboard, name)]


def limits(dashboard: DashboardService) -> list[dict[str, object]]:
    found: list[dict[str, object]] = dashboard.service.get("/limits").json()["limits"]
    return found
