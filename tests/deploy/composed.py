"""compose.yaml as Compose would see it: merged, and with its variables filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def composed(name: str = "compose.yaml", environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file with the defaults, or what `environment` says instead of them."""
    whole = filled_in(yaml.safe_load((ROOT / name).read_text()), environment or {})
    return {key: value for key, value in whole.items() if not key.startswith("x-")}


def filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    """Compose reads YAML first and fills in variables afterwards: what they hold stays text."""
    match value:
        case str():
            return _VARIABLE.sub(lambda found: environment.get(found[1]) or found[2] or "", value)
        case dict():
            return {key: filled_in(entry, environment) for key, entry in value.items()}
        case list():
            return [filled_in(entry, environment) for entry in value]
    return value


def variables() -> set[str]:
    """What the file lets its user choose."""
    return {found[1] for found in _VARIABLE.finditer((ROOT / "compose.yaml").read_text())}
