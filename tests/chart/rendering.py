"""The charts as Helm itself renders them, without a cluster."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHARTS = Path(__file__).parents[2] / "charts"
MODELFERRY = CHARTS / "modelferry"
SAMPLE = CHARTS / "sample-application"
NAMESPACE = "models"

Object = dict[str, Any]


def render(
    values: Mapping[str, Any], *, chart: Path = MODELFERRY, name: str = "mf", upgrade: bool = False
) -> list[Object]:
    """The objects of one release. Raises helm_python.HelmError."""
    found: list[Object] = json.loads(_objects(chart, json.dumps(values), name, upgrade))
    return found


@cache
def _objects(chart: Path, values: str, name: str, upgrade: bool) -> str:
    """As JSON: YAML is slow to read, and each test gets objects of its own."""
    texts = texts_of(chart, values, name, upgrade)
    manifests = [text for path, text in texts.items() if not path.endswith(".txt")]
    return json.dumps([each for text in manifests for each in yaml.load_all(text, yaml.CSafeLoader) if each])


def notes(values: Mapping[str, Any], *, upgrade: bool = False) -> str:
    """What the operator reads afterwards."""
    texts = texts_of(MODELFERRY, json.dumps(values), "mf", upgrade)
    return next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


@cache
def texts_of(chart: Path, values: str, name: str, upgrade: bool) -> dict[str, str]:
    """Template -> what it has become."""
    with helm_python.Chart.load(chart) as loaded:
        return loaded.render(
            json.loads(values), name=name, namespace=NAMESPACE, is_install=not upgrade, is_upgrade=upgrade
        )


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Name -> object."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """What each pod will be: `Kind/name` of who makes it, and its metadata and spec."""
    for each in objects:
        title = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield title, {"metadata": each["metadata"], "spec": each["spec"]}
        elif each["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield title, each["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    """All of them, those that come first too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def main_container(objects: list[Object], kind: str, name: str) -> Object:
    """The container of a workload that has one."""
    (container,) = of_kind(objects, kind)[name]["spec"]["template"]["spec"]["containers"]
    return container


def is_hook(each: Object) -> bool:
    return "helm.sh/hook" in each["metadata"].get("annotations", {})
