"""Reads what the files of a model say about it: the head of README.md, config.json and safetensors headers."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

HEADER_LIMIT_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True)
class Card:
    """Everything a hub shows beside the files."""

    data: Mapping[str, str | list[str]] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        told = self.data.get("tags", [])
        tags = [told] if isinstance(told, str) else list(told)
        for name in ("library_name", "pipeline_tag"):
            tags += [value for value in [self.data.get(name)] if isinstance(value, str)]
        tags += [f"license:{self.data['license']}"] if "license" in self.data else []
        tags += [str(self.config["model_type"])] if "model_type" in self.config else []
        tags += ["safetensors"] if self.parameters else []
        return list(dict.fromkeys(tags))


def read_card(files: Mapping[str, bytes | Path]) -> Card:
    parameters: Counter[str] = Counter()
    for name, content in files.items():
        if name.endswith(".safetensors"):
            parameters.update(_parameters(content))
    return Card(
        data=_front_matter(_text(files, "README.md")),
        config=_config(_text(files, "config.json")),
        parameters=dict(parameters),
    )


def _text(files: Mapping[str, bytes | Path], name: str) -> str:
    content = files.get(name, b"")
    return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")


def _front_matter(readme: str) -> dict[str, str | list[str]]:
    """The few forms of YAML that model cards use: `name: value` and lists of `- value`."""
    found: dict[str, str | list[str]] = {}
    lines = readme.splitlines()
    if not lines or lines[0].strip() != "---":
        return found
    name = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        item = line.strip()
        if item.startswith("- ") and name:
            listed = found.setdefault(name, [])
            if isinstance(listed, list):
                listed.append(_scalar(item[2:]))
        elif ":" in line and not line.startswith((" ", "#")):
            name, _, value = (part.strip() for part in line.partition(":"))
            if value:
                found[name] = _scalar(value)
    return {}


def _scalar(text: str) -> str:
    return text.strip().strip("\"'")


def _config(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: document[name] for name in ("architectures", "model_type") if name in document}


def _parameters(content: bytes | Path) -> Counter[str]:
    """How many numbers of each type a safetensors file holds; none where it is not one."""
    counted: Counter[str] = Counter()
    try:
        for name, tensor in _safetensors_header(content).items():
            if name != "__metadata__":
                counted[str(tensor["dtype"])] += math.prod(cast("list[int]", tensor["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return Counter()
    return counted


def _safetensors_header(content: bytes | Path) -> dict[str, dict[str, object]]:
    if isinstance(content, bytes):
        length = struct.unpack_from("<Q", content)[0]
        return cast("dict[str, dict[str, object]]", json.loads(content[8 : 8 + length]))
    with content.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > HEADER_LIMIT_BYTES:
            raise ValueError(length)
        return cast("dict[str, dict[str, object]]", json.loads(file.read(length)))
