"""A real Chromium for tests of the dashboard, which tells on every page that is not as it should be.

    with chromium() as browser, visiting(browser, service.url()) as visitor:
        visitor.open("/ui/models")
        visitor.page.get_by_role("link", name="org/model").click()

On leaving, a visitor asserts that it has seen no request to elsewhere, no error in the console or a script, and nothing
that the page's Content-Security-Policy has forbidden.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebError, sync_playwright

Scheme = Literal["light", "dark"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = (1440, 900)
PHONE = (390, 844)
NARROW = (375, 667)
"""The narrowest screen on which no page may scroll sideways."""
WITHIN_MS = 15_000

_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_GRAVE = {"serious", "critical"}
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
)
# A policy's violation is an event of the document; most show in the console too, but not all.
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy ${event.effectiveDirective} has forbidden ${event.blockedURI || event.sourceFile}`));
"""
_BEYOND_THE_EDGE = """() => {
  const root = document.documentElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  const beyond = [...document.body.querySelectorAll("main *")].filter((part) =>
    part.getBoundingClientRect().right > root.clientWidth + 0.5);
  return [`${root.scrollWidth - root.clientWidth} pixels`,
    ...beyond.slice(0, 8).map((part) => part.cloneNode(false).outerHTML.slice(0, 120))];
}"""


@dataclass
class Visitor:
    """One person with one window: what they see, and what their browser has complained about."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    scripts: bool = True

    def open(self, path: str, status: int = 200) -> Page:
        """Go to a page of the service, and see that it is one of ours."""
        answer = self.page.goto(self.origin + path)
        assert answer is not None, path
        assert answer.status == status, f"{path} answers {answer.status}: {answer.text()[:500]}"
        policy = answer.headers.get("content-security-policy", "")
        assert all(part in policy for part in _POLICY), f"{path}: {policy!r}"
        assert "unsafe" not in policy, f"{path}: {policy!r}"
        return self.page

    def assert_quiet(self, *expected: str) -> None:
        """Nothing has left the service, and nothing went wrong in the browser. Forgets what it has seen."""
        elsewhere = [url for url in self.requests if _origin(url) not in {self.origin, "data:", "blob:"}]
        complaints = [line for line in self.complaints if not any(words in line for words in expected)]
        self.requests.clear()
        self.complaints.clear()
        assert not elsewhere, f"requests to elsewhere: {elsewhere}"
        assert not complaints, f"the browser complains: {complaints}"

    def grave_faults(self, rules: Sequence[str] = ()) -> list[str]:
        """What axe-core finds that keeps people from using the page: all of it, or by these rules only."""
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = {"type": "rule", "values": list(rules)}
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{fault['impact']}: {fault['id']} ({fault['help']}): {[node['html'][:200] for node in fault['nodes']]}"
            for fault in found
            if fault["impact"] in _GRAVE
        ]

    def resize(self, size: tuple[int, int]) -> None:
        """Another screen, without another visit."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})

    def sideways(self) -> list[str]:
        """What makes the page scroll sideways: nothing, or the parts beyond the right edge of the window."""
        return list(self.page.evaluate(_BEYOND_THE_EDGE))

    def lands_on(self, path: str) -> None:
        """Wait until the address is this one; what follows a `*` may be anything."""
        self.page.wait_for_url(f"{self.origin}{path}", timeout=WITHIN_MS)

    def _hear(self, context: BrowserContext) -> None:
        def console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning", "assert"}:
                self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")

        def script(error: WebError) -> None:
            self.complaints.append(f"script: {error.error}")

        def request(asked: Request) -> None:
            self.requests.append(asked.url)

        context.on("console", console)
        context.on("weberror", script)
        context.on("request", request)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser. While it runs, this thread has an event loop: start no other one in it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found is not None, "no Chromium is installed: make setup-tests installs one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            headless=True,
            args=_ARGUMENTS,
            # Root has no sandbox to give; anybody else has.
            chromium_sandbox=os.geteuid() != 0,
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(
    browser: Browser,
    origin: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Scheme = "light",
    scripts: bool = True,
    scale: float = 1.0,
) -> Iterator[Visitor]:
    """A window of its own, with its own cookies. Asserts on leaving without an error that all was quiet."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        java_script_enabled=scripts,
        device_scale_factor=scale,
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(WITHIN_MS)
    if scripts:
        context.add_init_script(_TELL_VIOLATIONS)
    visitor = Visitor(page=context.new_page(), origin=origin.rstrip("/"), scripts=scripts)
    visitor._hear(context)
    try:
        yield visitor
        visitor.assert_quiet()
    finally:
        context.close()


def picture(visitor: Visitor, file: Path, *, whole: bool = False) -> None:
    """What is in the window now, or the whole page, as a PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    visitor.page.screenshot(path=file, full_page=whole, animations="disabled", caret="hide")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
