"""Jobs in a real browser: asked for, watched, cancelled, tried again."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import NARROW, Visitor, visiting
from tests.dashboard_service import BRIEF, GATED, LARGE, SMALL, DashboardService

LONG_MS = 40_000


@pytest.fixture
def visitor(dashboard: DashboardService, browser: Browser) -> Iterator[Visitor]:
    with visiting(browser, dashboard.origin) as visitor:
        visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield visitor
    dashboard.cancel_all()


def started(visitor: Visitor, name: str, folder: str) -> str:
    """The id of a job that was started on the page for it."""
    page = visitor.open("/ui/new")
    page.get_by_label("Model", exact=True).fill(name)
    page.get_by_label("Folder").fill(folder)
    page.get_by_role("button", name="Start").click()
    visitor.lands_on("/ui/jobs/*")
    return page.url.rsplit("/", 1)[1]


def value(page: Page) -> float:
    return float(page.locator("#bar").get_attribute("value") or 0)


def test_a_plan_tells_what_would_come_and_starts_nothing(dashboard: DashboardService, visitor: Visitor) -> None:
    before = len(dashboard.service.get("/api/v1/jobs").json()["jobs"])
    page = visitor.open("/ui/new")
    page.get_by_label("Model", exact=True).fill(SMALL)
    page.get_by_label("Folder").fill("planned")
    page.get_by_role("button", name="Plan", exact=True).click()
    plan = page.get_by_role("region", name="Plan")
    expect(plan.locator(".badge").first).to_have_text("can be done", timeout=LONG_MS)
    for words in ("apache-2.0", "MB", "/planned"):
        expect(plan).to_contain_text(words)
    expect(page.get_by_label("Model", exact=True)).to_have_value(SMALL)
    assert len(dashboard.service.get("/api/v1/jobs").json()["jobs"]) == before
    assert visitor.grave_faults() == []


def test_a_plan_of_a_locked_model_tells_what_to_do(visitor: Visitor) -> None:
    page = visitor.open("/ui/new")
    page.get_by_label("Model", exact=True).fill(GATED)
    page.get_by_role("button", name="Plan", exact=True).click()
    plan = page.get_by_role("region", name="Plan")
    expect(plan.locator(".badge").first).to_have_text("would fail", timeout=LONG_MS)
    expect(plan).to_contain_text("What to do:")
    expect(plan.locator(".error-box code")).not_to_be_empty()


def test_what_is_wrong_is_told_at_its_field_without_leaving_the_page(visitor: Visitor) -> None:
    page = visitor.open("/ui/new")
    page.get_by_label("Model", exact=True).fill(SMALL)
    page.get_by_label("Device").fill("TPU")
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_label("Device")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#fault-device")).to_contain_text("Invalid device")
    assert visitor.grave_faults() == []


def test_a_job_is_watched_from_its_start_to_its_end(dashboard: DashboardService, visitor: Visitor) -> None:
    job_id = started(visitor, BRIEF, "watched")
    page = visitor.page
    expect(page.locator("main .badge").first).to_have_text("downloading", timeout=LONG_MS)
    page.wait_for_function("() => document.querySelector('#bar')?.value > 1", timeout=LONG_MS)
    first = value(page)
    # By the stream alone: nobody loads the page again.
    page.wait_for_function("then => (document.querySelector('#bar')?.value ?? 100) > then", arg=first, timeout=LONG_MS)
    expect(page.locator("main .badge").first).to_have_text("completed", timeout=LONG_MS)
    expect(page.locator("#told"), "what screen readers say").to_contain_text(f"{BRIEF}: completed")
    expect(page.get_by_role("region", name="Result")).to_contain_text(dashboard.service.job(job_id)["path"])
    expect(page.get_by_role("log")).to_contain_text("The job is completed.")
    lines = page.locator(".log-line").evaluate_all("lines => lines.map((line) => line.id)")
    assert len(lines) == len(set(lines))
    said = dashboard.service.get(f"/api/v1/jobs/{job_id}/log").json()["lines"]
    assert lines == [f"line-{line['id']}" for line in said]
    assert visitor.grave_faults() == []


def test_a_running_job_is_cancelled_and_tried_again(dashboard: DashboardService, visitor: Visitor) -> None:
    job_id = started(visitor, LARGE, "cancelled")
    page = visitor.page
    expect(page.locator("main .badge").first).to_have_text("downloading", timeout=LONG_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main .badge").first).to_have_text("canceled")
    assert dashboard.service.job(job_id)["status"] == "canceled"
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(lambda url: "/ui/jobs/" in url and job_id not in url)
    again = page.url.rsplit("/", 1)[1]
    assert dashboard.service.job(again)["retry_of"] == job_id
    expect(page.get_by_role("link", name="an earlier job")).to_be_visible()


def test_a_failure_is_seen_with_its_hint_first_on_the_overview_then_on_its_page(
    dashboard: DashboardService, visitor: Visitor
) -> None:
    page = visitor.open("/")
    job_id = dashboard.refused()
    job = dashboard.service.job(job_id)
    # The page is told by the stream.
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention.locator(f"#retry-{job_id}")).to_be_visible(timeout=LONG_MS)
    row = attention.locator("li").filter(has=page.locator(f"#retry-{job_id}"))
    expect(row).to_contain_text(job["hint"])
    row.get_by_role("link", name=GATED).click()
    visitor.lands_on(f"/ui/jobs/{job_id}")
    expect(page.locator(".error-box")).to_contain_text(job["error"])
    expect(page.locator(".error-box")).to_contain_text(job["hint"])
    page.get_by_role("link", name="What it means").click()
    visitor.lands_on(f"/ui/codes#{job['error_code']}")
    expect(page.locator(f"#{job['error_code']}")).to_be_in_viewport()


def test_the_overview_moves_by_itself(dashboard: DashboardService, visitor: Visitor) -> None:
    page = visitor.open("/")
    job_id = dashboard.running()
    bar = page.locator(f"progress[data-of='{job_id}']")
    expect(bar).to_be_visible(timeout=LONG_MS)
    first = float(bar.get_attribute("value") or 0)
    page.wait_for_function(
        "([id, then]) => document.querySelector(`progress[data-of='${id}']`).value > then",
        arg=[job_id, first],
        timeout=LONG_MS,
    )


def test_the_log_is_filtered_and_copied(dashboard: DashboardService, visitor: Visitor) -> None:
    page = visitor.open(f"/ui/jobs/{dashboard.refused()}")
    lines = page.locator(".log-line:visible")
    every = lines.count()
    page.get_by_label("Least level").select_option("error")
    expect(lines).not_to_have_count(every)
    assert set(lines.locator(".log-level").all_inner_texts()) == {"error"}
    page.get_by_role("button", name="Copy the log").click()
    expect(page.locator("#told")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert len(copied.splitlines()) == lines.count()
    assert all(" error " in line for line in copied.splitlines())
    page.get_by_role("button", name="Copy Command line").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("modelferry pull")


def test_a_job_is_forgotten_only_after_a_question(dashboard: DashboardService, visitor: Visitor) -> None:
    job_id = dashboard.refused()
    page = visitor.open(f"/ui/jobs/{job_id}")
    visitor.resize(NARROW)
    page.locator("summary", has_text="Forget").click()
    assert not visitor.sideways()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Forget this job")).to_be_hidden()
    page.locator("summary", has_text="Forget").click()
    page.get_by_role("button", name="Forget this job").click()
    visitor.lands_on("/ui/jobs")
    assert dashboard.service.get(f"/api/v1/jobs/{job_id}").status_code == 404


def test_without_a_stream_the_page_asks_again_by_itself(dashboard: DashboardService, browser: Browser) -> None:
    with visiting(browser, dashboard.origin) as visitor:
        visitor.page.route("**/events**", lambda route: route.abort())
        job_id = started(visitor, LARGE, "polled")
        page = visitor.page
        dashboard.service.wait_for(job_id, lambda job: job["status"] == "downloading")
        expect(page.locator("main .badge").first).to_have_text("downloading", timeout=LONG_MS)
        dashboard.service.cancel(job_id)
        expect(page.locator("main .badge").first).to_have_text("canceled", timeout=LONG_MS)
        expect(page.get_by_role("log")).to_contain_text("The job was cancelled.")
        visitor.assert_quiet("ERR_FAILED")
