"""Builds the documentation as a site in dist/site, strictly: a link or an anchor that leads nowhere is a failure.

Run it as `make docs`, or as `python -m scripts.build_docs [FOLDER]`. It needs no network.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

# Material's makers announce what they plan for later there, in many lines, at the import.
os.environ.setdefault("NO_MKDOCS_2_WARNING", "true")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, ConfigurationError

from scripts.site.checks import broken_links, requests_elsewhere

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"
SITE = ROOT / "dist" / "site"


def main(arguments: list[str]) -> int:
    site = Path(arguments[0]).resolve() if arguments else SITE
    faults = build_site(site)
    for fault in faults:
        print(f"docs: {fault}", file=sys.stderr)
    if not faults:
        print(f"docs: {len(list(site.rglob('*.html')))} pages in {site}; open index.html, from a server or the disk")
    return 1 if faults else 0


def build_site(site: Path) -> list[str]:
    """Build the site in this folder. What is wrong with it, a line for each fault."""
    told = _Told()
    logger = logging.getLogger("mkdocs")
    logger.addHandler(told)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            build(load_config(str(CONFIG), site_dir=str(site)))
    except (Abort, ConfigurationError) as error:
        return told.lines or [str(error)]
    finally:
        logger.removeHandler(told)
    elsewhere = [f"{one}: the site must not load anything from elsewhere" for one in requests_elsewhere(site)]
    missing = [f"{one}: there is no such file" for one in broken_links(ROOT, pages())]
    return [*told.lines, *elsewhere, *missing]


def pages() -> list[Path]:
    """Every page of Markdown that the repository shows to people."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


class _Told(logging.Handler):
    """Keeps what MkDocs warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
