"""The sample application waits for its gate by commands and probes that there are."""

from typing import Any

import click
import helm_python
import pytest
import typer

from api.cli.program import make_app
from common.settings import client_key, service_address
from tests.chart import kubernetes, references
from tests.chart.environment import environment
from tests.chart.rendering import MODELFERRY, SAMPLE, containers, of_kind, pods, render
from tests.chart.value_sets import SETS as SERVICE_SETS

SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one-node": {"modelferry": {"oneNode": True, "subPath": "models", "claimName": "shared"}},
    "no-key": {"modelferry": {"existingSecret": ""}, "keepWaiting": False},
    "ready-while-open": {"readyWhileOpen": {"host": "10.96.0.17", "port": 8200}},
}
EVERY = pytest.mark.parametrize("values", SETS.values(), ids=SETS)
DECLARED = {"Secret": {"modelferry-viewer"}, "PersistentVolumeClaim": {"models-pvc", "shared"}}


@EVERY
@pytest.mark.parametrize("version", kubernetes.VERSIONS)
def test_kubernetes_knows_every_field(values: dict[str, Any], version: str) -> None:
    found = [text for each in render(values, chart=SAMPLE) for text in kubernetes.complaints(each, version)]
    assert found == []


@EVERY
def test_the_objects_fit_together(values: dict[str, Any]) -> None:
    assert references.complaints(render(values, chart=SAMPLE), DECLARED) == []


@EVERY
def test_what_the_init_container_runs_is_a_command_of_ours(values: dict[str, Any]) -> None:
    ((_, pod),) = pods(render(values, chart=SAMPLE))
    program_name, *arguments = pod["spec"]["initContainers"][0]["args"]
    assert program_name == "modelferry"
    command: click.Command = typer.main.get_command(make_app())
    parent: click.Context | None = None
    while isinstance(command, click.Group):
        parent = click.Context(command, info_name=program_name, parent=parent)
        _, found, arguments = command.resolve_command(parent, arguments)
        assert found is not None
        command = found
    context = command.make_context("wait", list(arguments), parent=parent)
    assert context.params["name"] == "chat"
    assert context.params["timeout"] == "30m"
    assert context.params["keep_waiting"] is values.get("keepWaiting", True)


@EVERY
def test_it_finds_the_service_and_its_key(values: dict[str, Any], tmp_path: Any) -> None:
    objects = render(values, chart=SAMPLE)
    ((_, pod),) = pods(objects)
    found = environment(pod, pod["spec"]["initContainers"][0], objects, tmp_path)
    assert service_address(found) == "http://modelferry:8000"
    assert bool(client_key(found)) is (values.get("modelferry", {}).get("existingSecret") != "")


def test_models_are_mounted_read_only() -> None:
    ((_, pod),) = pods(render({}, chart=SAMPLE))
    (models,) = [one for one in pod["spec"]["volumes"] if one["name"] == "models"]
    assert models["persistentVolumeClaim"] == {"claimName": "models-pvc", "readOnly": True}
    assert {"name": "models", "mountPath": "/opt/models", "readOnly": True} in pod["spec"]["containers"][0][
        "volumeMounts"
    ]


def test_readiness_may_go_by_the_gate() -> None:
    ((_, pod),) = pods(render(SETS["ready-while-open"], chart=SAMPLE))
    probe = pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"host": "10.96.0.17", "port": 8200, "path": "/ready?gate=chat"}


def test_it_fits_to_the_chart_of_the_service() -> None:
    """The claim, the label to be near to, and the mount's path are those of the other chart."""
    service = render(SERVICE_SETS["one-node"], chart=MODELFERRY)
    ((_, pod),) = pods(render({"modelferry": {"oneNode": True}}, chart=SAMPLE))
    (near,) = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert any(references.matches(near["labelSelector"]["matchLabels"], other) for _, other in pods(service))
    assert "models-pvc" in of_kind(service, "PersistentVolumeClaim")
    assert all(
        mount["mountPath"] == "/opt/models"
        for _, other in pods(service)
        for container in containers(other)
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "models"
    )


@pytest.mark.parametrize(
    "values",
    [{"gate": "Chat"}, {"timeout": "soon"}, {"image": "a/b:latest"}, {"modelferry": {"adress": "x"}}, {"gates": []}],
    ids=["gate", "timeout", "latest", "typo", "unknown"],
)
def test_mistakes_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render(values, chart=SAMPLE)
