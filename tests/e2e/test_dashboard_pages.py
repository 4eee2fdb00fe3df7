"""Every page of the dashboard in a real browser: for everybody, on every screen, and without a word to others."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from api.client import Client
from tests.browser import NARROW, Visitor, visiting
from tests.dashboard_service import CONVERTED, LARGE, MEDIUM, MISSING, SMALL, DashboardService, wish
from tests.integration.test_api_socket import process
from tests.keyholders import ADMIN_KEY

PAGES = {
    "overview": "/",
    "new": "/ui/new",
    "jobs": "/ui/jobs",
    "job that runs": "/ui/jobs/{running}",
    "job that has failed": "/ui/jobs/{failed}",
    "job that is completed": "/ui/jobs/{completed}",
    "job that waits": "/ui/jobs/{queued}",
    "models": "/ui/models",
    "models that are not there": "/ui/models?name=nobody-has-this",
    "model": "/ui/models/{converted}",
    "model of somebody else": "/ui/models/{foreign}",
    "deletion": "/ui/models/{converted}/delete",
    "gates": "/ui/gates",
    "gate": "/ui/gates/transcription",
    "plugins": "/ui/plugins",
    "workers": "/ui/workers",
    "webhooks": "/ui/webhooks",
    "webhook": "/ui/webhooks/{webhook}",
    "limits": "/ui/limits",
    "codes": "/ui/codes",
}
CONTRAST = ["color-contrast"]
"""All that another scheme can change."""


@pytest.fixture(scope="module")
def shown(dashboard: DashboardService) -> Iterator[SimpleNamespace]:
    """Something in every page. What it is called, by what the paths above say."""
    service = dashboard.service
    dashboard.fetched(SMALL)
    mine = service.models_dir / "mine"
    mine.mkdir()
    (mine / "weights.gguf").write_bytes(b"0" * 1000)
    ids = SimpleNamespace(
        completed=dashboard.fetched(MEDIUM),
        failed=dashboard.refused(),
        queued=dashboard.queued(),
        running=dashboard.running(dashboard.slow_model("shown", mib=48)),
        converted=dashboard.model_id(CONVERTED),
        foreign=dashboard.model_id("mine"),
    )
    with httpx.Client(base_url=service.url(), trust_env=False) as client:
        gate = {"models": [wish(MEDIUM), wish(LARGE), wish(MISSING)], "download_path": "slow"}
        limit = {"max_running": 4, "bytes_per_s": 20_000_000}
        assert client.put("/gates/transcription", json=gate).is_success
        assert client.put("/limits/hub/huggingface", json=limit).is_success
        hook = client.post("/webhooks", json={"url": "http://127.0.0.1:9/nobody", "events": ["job.completed"]})
        ids.webhook = hook.json()["id"]
        assert client.post(f"/webhooks/{ids.webhook}/test").is_success
        yield ids
        client.delete("/gates/transcription")
        client.delete("/limits/hub/huggingface")
        client.delete(f"/webhooks/{ids.webhook}")
    dashboard.cancel_all()
    for file in mine.iterdir():
        file.unlink()
    mine.rmdir()


@pytest.fixture(scope="module")
def plain(dashboard: DashboardService, browser: Browser) -> Iterator[Visitor]:
    """Somebody whose browser runs no scripts."""
    with visiting(browser, dashboard.origin, scripts=False) as visitor:
        yield visitor


def heads_of(page: Page) -> list[str]:
    """The headings, without the numbers in them: jobs go on."""
    return [re.sub(r"[\d,]+", "", text).strip() for text in page.locator("main :is(h1, h2)").all_inner_texts()]


def address(page: str, shown: SimpleNamespace) -> str:
    return PAGES[page].format(**vars(shown))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_for_everybody_and_speaks_to_nobody_else(
    page: str, dashboard: DashboardService, browser: Browser, plain: Visitor, shown: SimpleNamespace
) -> None:
    with visiting(browser, dashboard.origin) as visitor:
        seen = visitor.open(address(page, shown))
        heads = heads_of(seen)
        for detail in seen.locator("main details:not(.confirm) > summary").all():
            detail.click()
        assert visitor.sideways() == []
        assert visitor.grave_faults() == []
        seen.emulate_media(color_scheme="dark")
        assert visitor.grave_faults(CONTRAST) == [], "in the dark"
        visitor.resize(NARROW)
        assert visitor.sideways() == [], "on a phone"
        assert visitor.grave_faults(CONTRAST) == [], "on a phone in the dark"
        seen.emulate_media(color_scheme="light")
        assert visitor.grave_faults() == [], "on a phone"
    without = plain.open(address(page, shown))
    expect(without.locator("h1")).to_be_visible()
    assert heads_of(without) == heads, "without scripts"
    plain.assert_quiet()


@pytest.mark.parametrize("path", ["/ui/jobs/nobody", "/ui/models/m-nobody", "/ui/gates/nobody", "/ui/webhooks/nobody"])
def test_what_is_not_there_is_said_on_a_page(path: str, dashboard: DashboardService, browser: Browser) -> None:
    with visiting(browser, dashboard.origin) as visitor:
        page = visitor.open(path, status=404)
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        assert visitor.grave_faults() == []
        visitor.assert_quiet("status of 404")


def test_a_job_is_submitted_and_cancelled_without_scripts(dashboard: DashboardService, plain: Visitor) -> None:
    page = plain.open("/ui/new")
    page.get_by_label("Model", exact=True).fill(dashboard.slow_model("plain"))
    page.get_by_label("Hub", exact=True).select_option("huggingface")
    page.get_by_label("Folder").fill("without-scripts")
    page.get_by_role("button", name="Start").click()
    plain.lands_on("/ui/jobs/*")
    job_id = page.url.rsplit("/", 1)[1].partition("?")[0]
    dashboard.service.wait_for(job_id, lambda job: job["status"] == "downloading")
    page.reload()
    page.get_by_role("button", name="Cancel").click()
    plain.lands_on("/ui/jobs/*")
    expect(page.locator("main .badge").first).to_have_text("canceled")
    assert dashboard.service.job(job_id)["status"] == "canceled"


def test_the_keyboard_is_enough(dashboard: DashboardService, browser: Browser, shown: SimpleNamespace) -> None:
    with visiting(browser, dashboard.origin) as visitor:
        page = visitor.open("/ui/models")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        link = page.locator("table").get_by_role("link", name=CONVERTED)
        for _ in range(60):
            page.keyboard.press("Tab")
            if link.evaluate("link => link === document.activeElement"):
                break
        outline = link.evaluate("link => getComputedStyle(link).outlineStyle")
        assert outline != "none", "the focus is to be seen"
        page.keyboard.press("Enter")
        visitor.lands_on(f"/ui/models/{shown.converted}")


@pytest.mark.parametrize("path", ["/ui/limits/remove", "/ui/gates", "/ui/webhooks", "/ui/models/m-1/delete"])
def test_a_form_of_another_site_is_refused(path: str, dashboard: DashboardService) -> None:
    form = {"scope": "hub", "name": "huggingface"}
    for foreign in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
    ):
        answer = httpx.post(dashboard.origin + path, data=form, headers=foreign, trust_env=False)
        assert answer.status_code == 403
        assert "another site" in answer.text


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_somebody_logs_in_and_out(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: bool
) -> None:
    monkeypatch.setenv("MODELFERRY_ACCESS", "required")
    monkeypatch.setenv("MODELFERRY_ADMIN_KEY", ADMIN_KEY)
    with process(tmp_path) as origin:
        with Client(origin, api_key=ADMIN_KEY) as client:
            key = client.add_key("Anna", "viewer")
        with visiting(browser, origin, scripts=scripts) as visitor:
            page = visitor.open("/ui/jobs?status=failed")
            visitor.lands_on("/ui/login?next=/ui/jobs%3Fstatus%3Dfailed")
            assert visitor.sideways() == []
            if scripts:
                assert visitor.grave_faults() == []
            page.get_by_label("API key").fill("mistyped")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text("lets nobody in")
            page.get_by_label("API key").fill(str(key.key))
            page.get_by_role("button", name="Log in").click()
            visitor.lands_on("/ui/jobs?status=failed")
            expect(page.get_by_text("Anna")).to_be_visible()
            expect(page.get_by_role("link", name="New job")).to_have_count(0)
            visitor.resize(NARROW)
            assert visitor.sideways() == [], "on a phone"
            if scripts:
                assert visitor.grave_faults() == []
                assert page.evaluate("document.cookie") == "", "no script can read it"
            (cookie,) = page.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"], str(key.key) in cookie["value"]) == (True, "Strict", False)
            page.get_by_role("button", name="Log out").click()
            visitor.lands_on("/ui/login")
            assert page.context.cookies() == []
            page.goto(f"{origin}/ui/models")
            visitor.lands_on("/ui/login?next=/ui/models")
            visitor.assert_quiet("status of 401")


def test_a_page_that_is_open_goes_to_the_form_when_its_key_is_revoked(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFERRY_ACCESS", "required")
    monkeypatch.setenv("MODELFERRY_ADMIN_KEY", ADMIN_KEY)
    with process(tmp_path) as origin, Client(origin, api_key=ADMIN_KEY) as client:
        key = client.add_key("Anna", "viewer")
        with visiting(browser, origin) as visitor:
            page = visitor.open("/ui/jobs")
            page.get_by_label("API key").fill(str(key.key))
            page.get_by_role("button", name="Log in").click()
            visitor.lands_on("/ui/jobs")
            client.revoke_key(key.id)
            # Each part of the page that asks for itself may send the page there: one after the other.
            expect(page).to_have_url(re.compile("/ui/login"), timeout=20_000)
            expect(page.get_by_label("API key")).to_be_visible()
            visitor.assert_quiet("status of 401")
