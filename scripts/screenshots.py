"""Pictures of the dashboard for the documentation, of a real service with jobs in every state.

Run it as `make screenshots`. It needs Chromium, and writes docs/screenshots/.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page

from tests.browser import DESKTOP, PHONE, Scheme, chromium, picture, visiting
from tests.dashboard_service import (
    BRIEF,
    CONVERTED,
    LARGE,
    MEDIUM,
    MISSING,
    SMALL,
    DashboardService,
    dashboard_service,
    wish,
)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "screenshots"
SIZES = {"desktop": DESKTOP, "phone": PHONE}
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
IN_BOTH_SCHEMES = {"overview", "job-running", "models"}
"""The others look the same in the dark, so one picture of each is enough."""
TEAM = {"Modelferry-Tenant": "team-a"}
_SETTLED_MS = 700


def main() -> int:
    """Make every picture anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    # The pictures show paths, so this one has no name of its own making.
    folder = Path(tempfile.gettempdir()) / "modelferry"
    folder.mkdir(mode=0o700)
    try:
        take(folder)
    finally:
        shutil.rmtree(folder)
    return 0


def take(folder: Path) -> None:
    """Every picture, of a service that lives in this folder."""
    with dashboard_service(folder) as dashboard:
        pages = dict(fill(dashboard))
        wanted = sys.argv[1:] or list(pages)
        with chromium() as browser:
            for scheme in SCHEMES:
                for device, size in SIZES.items():
                    names = [name for name in wanted if scheme == "light" or name in IN_BOTH_SCHEMES]
                    with visiting(browser, dashboard.origin, size=size, scheme=scheme) as visitor:
                        for name in names:
                            visitor.open(pages[name])
                            if name == "new":
                                plan(visitor.page)
                            visitor.page.wait_for_timeout(_SETTLED_MS)
                            file = FOLDER / f"{name}-{device}{'-dark' if scheme == 'dark' else ''}.png"
                            picture(visitor, file, whole=device == "desktop" and name in {"model", "job-failed"})
                            print(file.relative_to(ROOT))
        dashboard.cancel_all()


def plan(page: Page) -> None:
    """Fill in the form, and ask what would come of it."""
    page.get_by_label("Model", exact=True).fill(LARGE)
    page.get_by_role("button", name="Plan").click()
    page.locator("#plan-panel dl").wait_for()


def fill(dashboard: DashboardService) -> Iterator[tuple[str, str]]:
    """Bring about something of everything. Name and path of each page to take a picture of."""
    service = dashboard.service
    dashboard.fetched(SMALL)
    completed = dashboard.fetched(MEDIUM)
    service.cancel(dashboard.queued())
    dashboard.refused(MISSING)
    failed = dashboard.refused()
    dashboard.queued()
    with httpx.Client(base_url=f"{service.url()}/api/v1", trust_env=False) as client:
        ask(client, "PUT", "/limits/hub/huggingface", {"max_running": 8, "bytes_per_s": 20_000_000})
        ask(client, "POST", "/webhooks", {"url": "https://hooks.example/modelferry", "events": ["job.failed"]})
        ask(client, "PUT", "/gates/assistant", {"models": [wish(SMALL), wish(MEDIUM)]})
        gate = ask(client, "PUT", "/gates/transcription", {"models": [wish(MEDIUM), wish(LARGE)]}, headers=TEAM)
        running = next(model["job_id"] for model in gate["models"] if model["name"] == LARGE)
        ask(client, "POST", f"/models/{dashboard.model_id(CONVERTED)}/verify")
        service.wait_for(running, lambda job: job["progress"]["bytes_done"] > 0)
        # Its tenant may have no other stage running, so this one waits.
        ask(client, "PUT", "/limits/tenant/team-a", {"max_running": 1})
        waiting = {"models": [wish(BRIEF)]}
        ask(client, "POST", "/models/download", waiting, params={"download_path": "."}, headers=TEAM)
    # Long enough for a speed to be known.
    time.sleep(6)
    yield "overview", "/"
    yield "new", "/ui/new"
    yield "jobs", "/ui/jobs"
    yield "job-running", f"/ui/jobs/{running}"
    yield "job-failed", f"/ui/jobs/{failed}"
    yield "job-completed", f"/ui/jobs/{completed}"
    yield "models", "/ui/models"
    yield "model", f"/ui/models/{dashboard.model_id(CONVERTED)}"
    yield "gates", "/ui/gates"
    yield "gate", "/ui/gates/transcription"
    yield "plugins", "/ui/plugins"
    yield "workers", "/ui/workers"
    yield "webhooks", "/ui/webhooks"
    yield "limits", "/ui/limits"


def ask(client: httpx.Client, method: str, path: str, body: object = None, **more: dict[str, str]) -> dict[str, Any]:
    """What the service answers, or the end of it all."""
    answer = client.request(method, path, json=body, **more)
    if answer.is_error:
        sys.exit(f"screenshots: {method} {path} answers {answer.status_code}: {answer.text}")
    told: dict[str, Any] = answer.json()
    return told


if __name__ == "__main__":
    sys.exit(main())
