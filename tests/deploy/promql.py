"""What the rules and the dashboard ask Prometheus for, and promtool, which knows whether it can be asked."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "modelferry" / "files"
RULES = FILES / "rules.yaml"
DASHBOARD = FILES / "dashboard.json"
RULES_TEST = Path(__file__).parent / "rules_test.yaml"
_OWN = ROOT / ".venv" / "bin" / "promtool"
_SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")


class Asked(NamedTuple):
    """One selector: a metric, and the labels that it is chosen by, with their values."""

    metric: str
    labels: dict[str, str]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool. Without it nothing here can be known, so its absence is a failure."""
    found = str(_OWN) if _OWN.exists() else shutil.which("promtool")
    assert found is not None, "promtool is not here: run `make setup-tests`, or install Prometheus"
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> list[dict[str, Any]]:
    """The panels that show something; rows do not."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Where -> what is asked there. The dashboard's variables are given values."""
    found = {str(rule.get("alert") or rule["record"]): str(rule["expr"]) for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*")
            assert "$" not in filled, filled
            found[f"{panel['title']} {target['refId']}"] = filled
    return found


def asked(expression: str) -> Iterator[Asked]:
    """Every selector of a metric of ours."""
    for match in re.finditer(r"(?<![\w:])(modelferry[\w:]*)(?:\{([^}]*)\})?", expression):
        labels = dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', match[2] or ""))
        yield Asked(match[1], labels)


def grouped_by(expression: str) -> set[str]:
    """Every label that something is grouped or matched by."""
    lists = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for names in lists for label in names.split(",")}


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def base_name(metric: str) -> str:
    """The metric that a sample belongs to."""
    return next(metric.removesuffix(suffix) for suffix in _SUFFIXES if metric.endswith(suffix))
