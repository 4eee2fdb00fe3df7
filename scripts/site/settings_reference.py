"""Every setting with its default and meaning, read from the source of common.settings."""

from collections.abc import Mapping
from pathlib import Path

from common import settings
from common.settings import VARIABLES, Settings
from scripts.site.docstrings import texts_below_fields
from scripts.site.tables import code, plain, table

HEADINGS: Mapping[str, str] = {
    "models_dir": "The service",
    "hf_endpoint": "Hubs, models and uploads",
    "cors_allow_origins": "Pages of other origins",
    "download_slots": "Workers, transfers and conversions",
    "lease_s": "Leases, attempts and retention",
    "log_level": "Logs",
}
"""The first field of a part -> the heading of that part. Fields stand in the order of the source."""


def settings_reference() -> str:
    """One table for each part."""
    told = meanings()
    variables = {field: variable for variable, field in VARIABLES.items()}
    defaults = Settings()
    parts: list[str] = []
    rows: list[tuple[str, str, str]] = []
    for field in Settings.__struct_fields__:
        if field in HEADINGS:
            parts += [_table(rows), f"## {HEADINGS[field]}\n"]
            rows = []
        rows.append((code(variables[field]), default(getattr(defaults, field)), plain(told.get(field, ""))))
    return "\n".join([*parts, _table(rows)])


def _table(rows: list[tuple[str, str, str]]) -> str:
    return table(("variable", "default", "meaning"), rows) if rows else ""


def default(value: object) -> str:
    """A default as it would be written in the environment; nothing where it is nothing."""
    if value in (None, ""):
        return ""
    return code(f"{value:g}" if isinstance(value, float) else value)


def meanings() -> dict[str, str]:
    """Field -> the text that stands below it in the source."""
    return texts_below_fields(Path(settings.__file__))["Settings"]
