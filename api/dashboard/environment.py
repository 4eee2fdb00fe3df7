"""The templates, and what every one of them may use."""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import UNSET

from api.dashboard import shapes, words

_TEMPLATES = Path(__file__).parent / "templates"
_ASSETS = Path(__file__).parent.parent / "static" / "dashboard"


def make_environment() -> Environment:
    """Templates in which every value is escaped and a name that nobody has given is an error."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(words.FILTERS)
    environment.globals.update(asset=_asset, icons=shapes.ICONS)
    return environment


def _shown(value: object) -> object:
    """A value that is not known shows as nothing."""
    return "" if value is None or value is UNSET else value


@cache
def _asset(name: str) -> str:
    """The address of a file for the pages. It changes with the file, so that no browser keeps an old one."""
    digest = hashlib.sha256((_ASSETS / name).read_bytes()).hexdigest()
    return f"/static/dashboard/{name}?v={digest[:12]}"
