"""The parts of pages that are made from the code: name in `<!-- generated: name -->` -> what makes it."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scripts.site.api_reference import api_reference
from scripts.site.error_codes import codes_table
from scripts.site.lifecycle import job_states, stage_diagram
from scripts.site.settings_reference import settings_reference

ROOT = Path(__file__).resolve().parents[2]


def changelog() -> str:
    """The changelog, one level deeper, without its own title."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.partition("\n")[2].strip()


def decisions() -> str:
    """A table of the records of decisions."""
    rows = "".join(f"| [{number}]({file}) | {title} | {status} |\n" for number, file, title, status in _decisions())
    return f"| number | decision | status |\n| --- | --- | --- |\n{rows}"


def _decisions() -> Iterator[tuple[str, str, str, str]]:
    for path in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        number, _, title = text.partition("\n")[0].removeprefix("# ").partition(" ")
        status = re.search(r"\*\*Status\*\*: (.+)", text)
        yield number, path.name, title, status[1] if status else "unknown"


GENERATED: Mapping[str, Callable[[], str]] = {
    "api": api_reference,
    "changelog": changelog,
    "codes": codes_table,
    "decisions": decisions,
    "job-states": job_states,
    "settings": settings_reference,
    "stage-diagram": stage_diagram,
}
