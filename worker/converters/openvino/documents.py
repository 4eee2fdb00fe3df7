"""Reads the small JSON files of a model."""

import json
from pathlib import Path


def read_json(file: Path) -> dict[str, object]:
    """The object that a file holds; nothing where it is absent, or holds something else."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
