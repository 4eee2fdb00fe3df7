"""The pages say what the code does. Whether their links hold is tried where the site is built."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # comes without types

from common.catalog.registry import HUBS
from common.lifecycle import NEXT
from common.settings import VARIABLES, Settings
from common.vocabulary import JobState
from scripts.site.api_reference import api_reference, document
from scripts.site.checks import broken_links, requests_elsewhere
from scripts.site.error_codes import codes_in_source, codes_table
from scripts.site.lifecycle import job_states, stage_diagram
from scripts.site.settings_reference import HEADINGS, meanings, settings_reference

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = re.compile(r"^### `(\w+)`\n\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ENTRIES = ENTRY.findall((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
PARTS = ["What it means", "Why", "What to do"]


def test_every_code_has_an_entry_and_every_entry_a_code() -> None:
    entries = [code for code, _ in ENTRIES]
    assert sorted(entries) == sorted(codes_in_source())


@pytest.mark.parametrize(("code", "text"), ENTRIES, ids=[code for code, _ in ENTRIES])
def test_an_entry_says_what_it_means_why_and_what_to_do(code: str, text: str) -> None:
    assert re.findall(r"^- \*\*(.+?)\*\*: ", text, re.MULTILINE) == PARTS, code


def test_the_table_of_codes_leads_to_every_entry() -> None:
    led_to = re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|", codes_table(), re.MULTILINE)
    assert led_to == sorted(code for code, _ in ENTRIES)


def test_every_setting_has_its_default_and_a_meaning() -> None:
    told = meanings()
    assert [field for field in Settings.__struct_fields__ if not told.get(field)] == []
    shown = re.findall(r"^\| `(\w+)` \| (.*?) \| (.+) \|$", settings_reference(), re.MULTILINE)
    assert [variable for variable, _, _ in shown] == list(VARIABLES)
    assert HEADINGS.keys() <= set(Settings.__struct_fields__)


def test_every_hub_has_a_page_that_says_what_it_knows() -> None:
    page = (DOCS / "hubs" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[`([\w-]+)`\]\(([\w.-]+)(?:#[\w-]+)?\) \| .+? \| (yes|no) \| (.*?) ?\|$", page, re.MULTILINE
    )
    hubs = {point.name: point.load() for point in distribution("modelferry").entry_points if point.group == HUBS}
    shown = {name: (listed == "yes", re.findall(r"`(\w+)`", keys)) for name, _, listed, keys in rows}
    assert shown == {
        name: (hub.listing_filters is not None, [key.name for key in hub.config_keys]) for name, hub in hubs.items()
    }
    assert all((DOCS / "hubs" / file).exists() for _, file, _, _ in rows)


def test_the_picture_and_the_table_show_every_state() -> None:
    drawn = stage_diagram()
    assert all(f">{state}</text>" in drawn for state in NEXT)
    assert drawn.count("marker-end") == sum(map(len, NEXT.values()))
    assert re.findall(r"^\| `(\w+)` \| .+ \|$", job_states(), re.MULTILINE) == list(JobState)


def test_the_reference_shows_every_operation_and_every_object() -> None:
    page = api_reference()
    shown = re.findall(r"^### (GET|PUT|POST|PATCH|DELETE) (\S+) \{ #\w+ \}$", page, re.MULTILINE)
    known = [(method.upper(), path) for path, item in document()["paths"].items() for method in item]
    assert sorted(shown) == sorted(known)
    for name in document()["components"]["schemas"]:
        assert f"### {name} {{ #object-{name.lower()} }}" in page


def test_what_the_examples_send_is_what_is_taken() -> None:
    """Each JSON body of an example is one that the operation's own schema takes."""
    schemas = {
        operation["operationId"]: operation["requestBody"]["content"]["application/json"]["schema"]
        for item in document()["paths"].values()
        for operation in item.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    sections = re.findall(r"\{ #(\w+) \}\n(.*?)(?=^### |\Z)", api_reference(), re.MULTILINE | re.DOTALL)
    sent = {name: re.search(r" -d '(.+)'$", text, re.MULTILINE) for name, text in sections if name in schemas}
    assert sent.keys() == schemas.keys()
    for name, found in sent.items():
        assert found is not None, name
        Draft202012Validator({**schemas[name], "components": document()["components"]}).validate(json.loads(found[1]))


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<script src="https://cdn.example/a.js"></script>', ["https://cdn.example/a.js"]),
        ('<link rel="stylesheet" href="//cdn.example/a.css">', ["//cdn.example/a.css"]),
        ('<div style="background: url(http://cdn.example/a.png)">', ["http://cdn.example/a.png"]),
        ('<img src="a.png"><a href="https://elsewhere.example">a link</a>', []),
        ('<link rel="canonical" href="https://docs.example/">', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_seen(tmp_path: Path, page: str, found: list[str]) -> None:
    (tmp_path / "page.html").write_text(page)
    assert requests_elsewhere(tmp_path) == [f"page.html: {address}" for address in found]


def test_what_a_style_loads_from_elsewhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("@import 'https://fonts.example/a.css'; a { background: url(b.png) }")
    assert requests_elsewhere(tmp_path) == ["a.css: https://fonts.example/a.css"]


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("[one](docs/one.md#part) [two](two.md) [far](https://example.org) `[code](code.md)` ![a](a.png)\n")
    (tmp_path / "two.md").touch()
    assert broken_links(tmp_path, [page]) == ["README.md: docs/one.md", "README.md: a.png"]
