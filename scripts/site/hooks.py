"""What MkDocs calls while it builds the site: fills in what is generated. Loaded by docs/site/mkdocs.yml."""

import re
from typing import Any

from scripts.site.generated import GENERATED

_PLACE = re.compile(r"<!-- generated: ([a-z-]+) -->")


def on_page_markdown(markdown: str, **_context: Any) -> str:
    """The page with each `<!-- generated: name -->` replaced. Raises KeyError for a name that nothing makes."""
    return _PLACE.sub(lambda place: GENERATED[place[1]](), markdown)
