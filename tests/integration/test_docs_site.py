"""The documentation as a site: built strictly, without a network, and read without one."""

import re
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scripts.build_docs import build_site
from tests.browser import chromium


class Built:
    """The site, and what was found wrong while it was built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = build_site(folder)

    def page(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Built:
    def nobody(*_anything: object) -> None:
        raise AssertionError("building the documentation has asked the network")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", nobody)
        patched.setattr(socket, "getaddrinfo", nobody)
        return Built(tmp_path_factory.mktemp("site"))


def test_it_is_built_without_a_fault(site: Built) -> None:
    assert site.faults == []


def test_everything_that_is_generated_is_there(site: Built) -> None:
    pages = list(site.folder.rglob("*.html"))
    assert len(pages) > 40
    assert [
        page for page in pages if "&lt;!-- generated" in page.read_text() or "<!-- generated" in page.read_text()
    ] == []
    assert 'id="download_models"' in site.page("reference/api.html")
    assert "MODELFERRY_CONVERT_SLOTS" in site.page("reference/settings.html")
    assert 'class="states"' in site.page("concepts.html")
    assert "0001-the-row-is-the-truth.html" in site.page("adr/index.html")
    assert 'id="source_gated"' in site.page("troubleshooting.html")


def test_a_link_that_leads_nowhere_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with a link to a page that is not there, and one to a section that is not there."""
    folder = tmp_path / "docs"
    (folder / "site").mkdir(parents=True)
    shutil.copytree(Path(__file__).parents[2] / "docs" / "site" / "theme", folder / "site" / "theme")
    text = (Path(__file__).parents[2] / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    config = text.partition("\nhooks:")[0] + "\nnav:\n  - index.md\n"
    (folder / "site" / "mkdocs.yml").write_text(config)
    (folder / "index.md").write_text("# One\n\n[a](two.md) [b](#nowhere) [c](/absolute.md)\n")
    monkeypatch.setattr("scripts.build_docs.CONFIG", folder / "site" / "mkdocs.yml")
    faults = build_site(tmp_path / "built")
    assert [word for word in ("two.md", "#nowhere", "/absolute.md") if not any(word in fault for fault in faults)] == []


def test_it_is_read_and_searched_from_a_disk_without_any_request(site: Built) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: complaints.append(line.text) if line.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site.folder / "index.html").as_uri())
        field = page.locator("[data-md-component=search-query]")
        field.click()
        field.press_sequentially("source_gated")
        page.locator(".md-search-result__link", has_text=re.compile("source_gated")).first.wait_for(timeout=15_000)
    assert complaints == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "about"}
