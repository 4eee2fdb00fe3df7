"""Kubernetes' own schemas, of three versions, and ours of kinds that Kubernetes itself does not know."""

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # comes without types
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.chart.rendering import Object

VERSIONS = ("1.30", "1.34", "1.37")
"""The oldest that the chart takes, one between, and the newest that there are schemas of."""

_TEXT = {"type": "string", "minLength": 1}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": {**_LABELS, "minProperties": 1}},
    "required": ["matchLabels"],
    "additionalProperties": False,
}
_INTERVAL = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}


def _closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_ENDPOINT = _closed({"port": _TEXT, "path": {"const": "/metrics"}, "interval": _INTERVAL})
_RULE = {
    "type": "object",
    "properties": {
        "record": {"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
        "alert": _TEXT,
        "expr": _TEXT,
        "for": _INTERVAL,
        "keep_firing_for": _INTERVAL,
        "labels": _LABELS,
        "annotations": _LABELS,
    },
    "required": ["expr"],
    "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
    "additionalProperties": False,
}
_TRIGGER = _closed(
    {
        "type": {"const": "prometheus"},
        "name": _TEXT,
        "metricType": {"enum": ["AverageValue", "Value"]},
        "metadata": _closed(
            {
                "serverAddress": {"type": "string", "pattern": "^https?://"},
                "query": {"type": "string", "pattern": "modelferry_queue_"},
                # KEDA reads numbers of a trigger as text.
                "threshold": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                "activationThreshold": {"type": "string", "pattern": "^[0-9]+$"},
            }
        ),
    },
    {"authenticationRef": _closed({"name": _TEXT})},
)
_WINDOW = _closed({"stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600}})
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _closed(
        {"selector": _SELECTOR, "podMetricsEndpoints": _listed(_ENDPOINT)}
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _closed({"selector": _SELECTOR, "endpoints": _listed(_ENDPOINT)}),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _closed(
        {"groups": _listed(_closed({"name": _TEXT, "rules": _listed(_RULE)}, {"interval": _INTERVAL}))}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _closed(
        {
            "scaleTargetRef": _closed({"apiVersion": {"const": "apps/v1"}, "kind": _TEXT, "name": _TEXT}),
            "minReplicaCount": {"type": "integer", "minimum": 0},
            "maxReplicaCount": {"type": "integer", "minimum": 1},
            "pollingInterval": {"type": "integer", "minimum": 1},
            "cooldownPeriod": {"type": "integer", "minimum": 0},
            "advanced": _closed(
                {"horizontalPodAutoscalerConfig": _closed({"behavior": _closed({"scaleDown": _WINDOW})})}
            ),
            "triggers": _listed(_TRIGGER),
        }
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _closed(
        {
            "parentRefs": _listed(_closed({"name": _TEXT}, {"namespace": _TEXT, "sectionName": _TEXT})),
            "rules": _listed(
                _closed(
                    {
                        "matches": _listed(
                            _closed({"path": _closed({"type": {"const": "PathPrefix"}, "value": {"pattern": "^/"}})})
                        ),
                        "timeouts": _closed({"request": _INTERVAL, "backendRequest": _INTERVAL}),
                        "backendRefs": _listed(_closed({"name": _TEXT, "port": {"type": "integer"}})),
                    }
                )
            ),
        },
        {"hostnames": {"type": "array", "items": _TEXT}},
    ),
}
"""Kind -> the schema of its spec, as far as the chart uses it: written by hand from the projects' documentation."""


def complaints(each: Object, version: str) -> list[str]:
    """What is wrong with an object in the eyes of one version of Kubernetes. Raises LookupError for unknown kinds."""
    title = f"{each['kind']}/{each['metadata']['name']}"
    if (each["apiVersion"], each["kind"]) in OWN:
        found = _own(each["apiVersion"], each["kind"]).iter_errors(each["spec"])
    else:
        found = _theirs(each["apiVersion"], each["kind"], version).iter_errors(each)
    return [f"{title}: {'.'.join(map(str, error.path))}: {error.message}" for error in found]


@cache
def _own(api_version: str, kind: str) -> Draft202012Validator:
    return Draft202012Validator(OWN[api_version, kind])


@cache
def _theirs(api_version: str, kind: str, version: str) -> Draft202012Validator:
    """The strict schema of a kind: what it does not know is wrong."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    try:
        schema = utils.schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    except FileNotFoundError as error:
        raise LookupError(f"Couldn't find schema for {api_version} {kind} in Kubernetes {version}") from error
    return Draft202012Validator(schema, registry=_registry(folder, version, schema))


def _registry(folder: str, version: str, schema: Any) -> Registry[Any]:
    return Resource.from_contents(schema) @ _definitions(folder, version)


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    return Resource.from_contents(utils.schema_contents(f"{folder}/_definitions.json", version)) @ Registry[Any]()
