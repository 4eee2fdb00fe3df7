"""Secrets in what is deployed: rendered manifests hold them in Secrets alone, and the compose file in files alone."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import FILE_VARIABLES
from tests.hostile.planted import found, secret

ROOT = Path(__file__).parents[2]
KEYS = ("adminKey", "secretKey", "hfToken", "getiToken")
FLOWER = {"flower": {"enabled": True}}
"""Which has a password of its own."""


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """Each template with what it renders to."""
    helm = pytest.importorskip("helm_python")
    with helm.Chart.load(str(ROOT / "charts" / "modelferry")) as chart:
        files: dict[str, str] = chart.render(values, name="ferry", namespace="models")
    return files


def parted(files: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The Secrets, and everything else that is rendered, as text."""
    held, others = [], {}
    for path, text in files.items():
        if path.endswith(".txt"):
            others[path] = text.encode()
            continue
        for number, document in enumerate(yaml.safe_load_all(text)):
            if document and document["kind"] == "Secret":
                held.append(document)
            elif document:
                others[f"{path} {number}"] = yaml.safe_dump(document, width=100_000).encode()
    return held, others


def values_of(document: dict[str, Any]) -> list[str]:
    plain = [base64.b64decode(value).decode() for value in document.get("data", {}).values()]
    return [*plain, *document.get("stringData", {}).values()]


def test_a_value_that_was_given_is_in_a_secret_and_nowhere_else() -> None:
    planted = {key: secret(key) for key in KEYS}
    planted["secretKey"] = base64.b64encode(secret("key")[:32].encode()).decode()
    held, others = parted(rendered({"secrets": {key: {"value": value} for key, value in planted.items()}}))
    kept = [value for document in held for value in values_of(document)]
    for value in planted.values():
        assert any(value in one for one in kept)
        assert found(value, others) == []


def test_what_the_chart_makes_itself_is_in_a_secret_and_nowhere_else() -> None:
    held, others = parted(rendered(FLOWER))
    # A URL holds a password in the middle; what is short, or no secret, is a name.
    words = {
        word for document in held for value in values_of(document) for word in re.split(r"[^A-Za-z0-9+=_-]", value)
    }
    made = {word for word in words if len(word) >= 20 and not word.startswith("ferry-")}
    assert made
    assert {word: found(word, others) for word in made if found(word, others)} == {}


def test_with_secrets_of_the_operators_the_chart_makes_none_of_its_own_for_them() -> None:
    held, _ = parted(rendered({"secrets": {key: {"existingSecret": "mine"} for key in KEYS}}))
    assert not {"admin-key", "secret-key", "hf-token", "geti-token"} & {
        key for one in held for key in one.get("data", {})
    }


def test_no_secret_is_a_variable_of_the_compose_file() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            assert variable not in FILE_VARIABLES.values(), (name, variable)
            if variable in FILE_VARIABLES or variable.endswith("_FILE"):
                assert str(value).startswith("/run/secrets/"), (name, variable)
    assert not re.search(r"://[^/\s@]*:[^/\s@]+@", text)
