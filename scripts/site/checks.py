"""What MkDocs does not check: that the site asks nobody else for anything, and that links of the repository hold."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "form": ("action",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "video": ("src", "poster"),
}
"""What a browser loads, or sends to, by itself or at a click that is no link: element -> attributes."""
_NAMED_ONLY = {"author", "canonical", "license"}
"""Kinds of `link` that a browser does not load."""
_IN_STYLES = re.compile(r"(?:@import\s+|url\()\s*[\"']?\s*((?:https?:)?//[^\"')\s]+)")
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(`{3,}).*?^\1\s*$|^ {4,}.*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def requests_elsewhere(site: Path) -> list[str]:
    """`page: address` of whatever the built pages and their styles would load from another place."""
    found = [f"{page.relative_to(site)}: {address}" for page in site.rglob("*.html") for address in _loaded(page)]
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        found += [f"{style.relative_to(site)}: {match[1]}" for match in _IN_STYLES.finditer(text)]
    return sorted(found)


def broken_links(root: Path, pages: list[Path]) -> list[str]:
    """`page: link` of each relative link in Markdown to what is not in the repository."""
    return [
        f"{page.relative_to(root)}: {link}"
        for page in pages
        for link in _relative_links(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]


def _loaded(page: Path) -> Iterator[str]:
    reader = _Loads()
    reader.feed(page.read_text(encoding="utf-8"))
    yield from reader.found


class _Loads(HTMLParser):
    """Gathers the addresses on other hosts that a page makes a browser ask."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and given.get("rel") in _NAMED_ONLY:
            return
        for name in _FETCHED.get(tag, ()):
            address = given.get(name, "").strip()
            if urlsplit(address).netloc:
                self.found.append(address)
        self.found += [match[1] for match in _IN_STYLES.finditer(given.get("style", ""))]


def _relative_links(text: str) -> Iterator[str]:
    """The paths of links that lead to files, without what only looks like one in code."""
    for match in _LINK.finditer(_CODE.sub("", text)):
        address = urlsplit(match[1] or match[2])
        if not address.scheme and not address.netloc and address.path:
            yield unquote(address.path)
