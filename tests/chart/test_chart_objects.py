"""What the chart makes of many sets of values is right for Kubernetes, and fits together."""

from typing import Any

import helm_python
import pytest

from tests.chart import kubernetes, references
from tests.chart.rendering import CHARTS, MODELFERRY, Object, containers, main_container, notes, of_kind, pods, render
from tests.chart.value_sets import ALL, DECLARED, EXTERNAL, GIVEN, KEDA, POOLS, SETS

EVERY = pytest.mark.parametrize("values", SETS.values(), ids=SETS)
TWICE = pytest.mark.parametrize("upgrade", [False, True], ids=["install", "upgrade"])


@EVERY
@TWICE
@pytest.mark.parametrize("version", kubernetes.VERSIONS)
def test_kubernetes_knows_every_field(values: dict[str, Any], version: str, upgrade: bool) -> None:
    found = [text for each in render(values, upgrade=upgrade) for text in kubernetes.complaints(each, version)]
    assert found == []


def test_a_kind_that_has_no_schema_is_not_passed_over() -> None:
    with pytest.raises(LookupError, match="Couldn't find schema"):
        kubernetes.complaints(
            {"apiVersion": "autoscaling/v2beta1", "kind": "Nothing", "metadata": {"name": "x"}}, "1.34"
        )


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    for kind in ("Deployment", "ScaledObject", "NetworkPolicy"):
        each = next(one for one in render(KEDA) if one["kind"] == kind)
        assert kubernetes.complaints({**each, "spec": {**each["spec"], "replicaz": 1}}, "1.34")


@EVERY
@TWICE
def test_the_objects_fit_together(values: dict[str, Any], upgrade: bool) -> None:
    objects = render(values, upgrade=upgrade)
    declared = dict(DECLARED)
    if upgrade and values.get("postgresql", {}).get("enabled", True):
        # The hook of an upgrade finds what the install has made.
        declared["Secret"] = declared["Secret"] | {"mf-modelferry-made", "model-download-made"}
    assert references.complaints(objects, declared) == []


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda one: one["spec"]["template"]["spec"].update(enableServiceLinks=True), "enableServiceLinks"),
        (lambda one: one["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "x"}), "selects"),
        (lambda one: one["spec"]["template"]["spec"]["containers"][0].update(image="a/b:latest"), "says no version"),
        (lambda one: one["spec"]["template"]["spec"]["volumes"].pop(), "is nowhere"),
        (lambda one: one["spec"]["template"]["spec"]["containers"][0]["ports"].pop(), "which the container has not"),
        (lambda one: one["spec"]["template"]["spec"].update(serviceAccountName="else"), "ServiceAccount else"),
        (lambda one: one["metadata"].update(name="n" * 64), "too long"),
    ],
    ids=["links", "selector", "latest", "volume", "port", "account", "name"],
)
def test_what_does_not_fit_is_found(break_it: Any, complaint: str) -> None:
    objects = render({})
    break_it(of_kind(objects, "Deployment")["mf-modelferry-api"])
    assert complaint in "\n".join(references.complaints(objects, DECLARED))


def test_lint_finds_no_error() -> None:
    for chart in (MODELFERRY, CHARTS / "sample-application"):
        found = helm_python.lint(chart, strict=True)
        assert found["errors"] == []
        assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def test_each_pool_is_a_deployment_of_its_own() -> None:
    workers = {
        name.removeprefix("mf-modelferry-worker-"): one
        for name, one in of_kind(render(POOLS), "Deployment").items()
        if "-worker-" in name
    }
    assert workers.keys() == {"download", "convert-large", "convert-gpu"}
    assert workers["download"]["spec"]["replicas"] == 3
    large, gpu = (workers[name]["spec"]["template"]["spec"] for name in ("convert-large", "convert-gpu"))
    assert large["nodeSelector"] == {"size": "large"}
    assert large["containers"][0]["image"] == "modelferry-convert:1.2.3"
    assert large["containers"][0]["args"] == ["python", "-m", "worker", "convert"]
    # What it does not say comes from the defaults of its kind, and what it says replaces them.
    assert large["containers"][0]["resources"]["requests"] == {"cpu": "2", "memory": "96Gi"}
    assert gpu["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "gpu.intel.com/i915": 1}
    assert gpu["securityContext"]["supplementalGroups"] == [109]
    assert gpu["securityContext"]["runAsUser"] == 10001


@EVERY
def test_every_pod_has_time_to_drain(values: dict[str, Any]) -> None:
    drained = 0
    for title, pod in pods(render(values)):
        for container in containers(pod):
            drain = {one["name"]: one.get("value") for one in container.get("env", [])}.get("MODELFERRY_DRAIN_S")
            if drain is not None:
                assert pod["spec"]["terminationGracePeriodSeconds"] == int(drain) + 30, title
                drained += 1
    assert drained >= 2, "the API and a worker at least"


def test_a_database_of_the_release_is_migrated_beside_its_install_and_before_its_upgrade() -> None:
    (installed,) = of_kind(render({}), "Job").values()
    (upgraded,) = of_kind(render({}, upgrade=True), "Job").values()
    assert "annotations" not in installed["metadata"]
    assert upgraded["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (other,) = of_kind(render({"image": {"tag": "2"}}), "Job").values()
    assert other["metadata"]["name"] != installed["metadata"]["name"]


@TWICE
@pytest.mark.parametrize("values", [EXTERNAL, GIVEN], ids=["secret", "value"])
def test_a_database_outside_is_migrated_before(values: dict[str, Any], upgrade: bool) -> None:
    (job,) = of_kind(render(values, upgrade=upgrade), "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


@EVERY
@TWICE
def test_nothing_runs_after_the_install(values: dict[str, Any], upgrade: bool) -> None:
    """With --wait that would wait for pods that wait for it."""
    hooks = {one["metadata"].get("annotations", {}).get("helm.sh/hook", "") for one in render(values, upgrade=upgrade)}
    assert not any("post-install" in hook or "post-upgrade" in hook for hook in hooks)


def test_one_node_keeps_all_who_see_the_volume_together() -> None:
    objects = render(SETS["one-node"])
    claim = of_kind(objects, "PersistentVolumeClaim")["models-pvc"]["spec"]
    assert claim["accessModes"] == ["ReadWriteOnce"]
    assert claim["storageClassName"] == ""
    together = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"modelferry/volume": "models-pvc"}},
    }
    for title, pod in pods(objects):
        sees = any(one["name"] == "models" for one in pod["spec"].get("volumes", []))
        near = pod["spec"].get("affinity", {}).get("podAffinity", {})
        assert near.get("requiredDuringSchedulingIgnoredDuringExecution", []) == ([together] if sees else []), title
        assert (pod["metadata"]["labels"].get("modelferry/volume") == "models-pvc") == sees, title


def test_an_operators_affinity_stays_beside_it() -> None:
    pod = of_kind(render(SETS["one-node-affinity"]), "Deployment")["mf-modelferry-api"]["spec"]["template"]["spec"]
    assert pod["affinity"].keys() == {"nodeAffinity", "podAffinity"}


@pytest.mark.parametrize(
    ("name", "kept"), [("defaults", True), ("not-kept", False), ("umbrella", False)], ids=["default", "own", "global"]
)
def test_models_outlive_the_release(name: str, kept: bool) -> None:
    claim = of_kind(render(SETS[name]), "PersistentVolumeClaim")["models-pvc"]
    assert (claim["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep") is kept


def test_a_claim_that_is_there_is_mounted_and_not_made() -> None:
    objects = render(SETS["existing-claim"])
    assert of_kind(objects, "PersistentVolumeClaim") == {}
    mounts = main_container(objects, "Deployment", "mf-modelferry-worker-download")["volumeMounts"]
    assert {"name": "models", "mountPath": "/opt/models", "subPath": "modelferry"} in mounts


@EVERY
def test_secrets_stand_in_secrets_alone(values: dict[str, Any]) -> None:
    objects = render(values)
    secret = {
        text
        for one in of_kind(objects, "Secret").values()
        for text in one.get("stringData", {}).values()
        if len(str(text)) > 8
    }
    for each in objects:
        if each["kind"] != "Secret":
            assert [text for text in secret if str(text).strip() in str(each)] == [], each["metadata"]["name"]
            assert "planted" not in str(each), each["metadata"]["name"]
    assert "planted" not in notes(values)


def test_planted_secrets_would_be_found() -> None:
    texts = str([one for one in render(GIVEN) if one["kind"] == "Secret"])
    assert all(f"planted-{name}" in texts for name in ("database", "queue", "admin", "hf", "geti"))


@EVERY
def test_no_secret_is_a_plain_variable(values: dict[str, Any]) -> None:
    secret = {"HF_TOKEN", "GETI_TOKEN", "MODELFERRY_SECRET_KEY", "MODELFERRY_ADMIN_KEY", "DATABASE_URL", "REDIS_URL"}
    objects = render(values)
    for title, pod in pods(objects):
        for container in containers(pod):
            assert not secret & {one["name"] for one in container.get("env", [])}, title
    for one in of_kind(objects, "ConfigMap").values():
        assert not secret & one["data"].keys()


def test_each_process_sees_the_secrets_that_it_needs_and_no_other() -> None:
    def files(name: str) -> set[str]:
        pod = of_kind(render(GIVEN), "Deployment")[f"mf-modelferry-{name}"]["spec"]["template"]["spec"]
        (volume,) = [one for one in pod["volumes"] if one["name"] == "secrets"]
        return {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}

    stores = {"database-url", "redis-url"}
    assert files("api") == {*stores, "admin-key", "secret-key"}
    assert files("worker-download") == {*stores, "secret-key", "hf-token", "geti-token"}
    # A model's own code may run there.
    assert files("worker-convert") == stores
    assert files("reconciler") == {*stores, "secret-key"}


def _reaches(policy: Object) -> set[str]:
    """What a policy lets out: components of the release, addresses, or anywhere at some port."""
    found: set[str] = set()
    for rule in policy["spec"]["egress"]:
        if not rule.get("to"):
            found |= {f"*:{port['port']}" for port in rule["ports"]}
        for peer in rule.get("to", []):
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            found.add(labels.get("app.kubernetes.io/component") or peer["ipBlock"]["cidr"])
    return found


def test_who_runs_foreign_code_reaches_nothing_but_its_stores() -> None:
    policies = of_kind(render({}), "NetworkPolicy")
    stores, internet = {"*:53", "postgresql", "redis"}, {"0.0.0.0/0", "::/0"}
    assert _reaches(policies["mf-modelferry-worker-convert"]) == stores
    assert _reaches(policies["mf-modelferry-api"]) == stores
    assert _reaches(policies["mf-modelferry-worker-download"]) == stores | internet
    assert _reaches(policies["mf-modelferry-reconciler"]) == stores | internet
    assert _reaches(policies["mf-modelferry-migrations"]) == {"*:53", "postgresql"}
    assert _reaches(policies["mf-modelferry-postgresql"]) == _reaches(policies["mf-modelferry-redis"]) == set()
    assert all(one["spec"]["policyTypes"] == ["Ingress", "Egress"] for one in policies.values())
    covered = [one["spec"]["podSelector"]["matchLabels"] for one in policies.values()]
    for title, pod in pods(render({})):
        assert sum(references.matches(labels, pod) for labels in covered) == 1, title


def test_what_lies_elsewhere_is_let_through() -> None:
    every = of_kind(render(ALL), "NetworkPolicy")
    assert {"*:912", "*:4318"} <= _reaches(every["model-download-worker-download"])
    assert {"0.0.0.0/0", "*:4318"} <= _reaches(every["model-download-api"]), "it asks the issuer for keys"
    assert _reaches(of_kind(render(GIVEN), "NetworkPolicy")["mf-modelferry-worker-convert"]) == {
        "*:53",
        "*:5433",
        "*:6380",
    }
    assert "10.1.2.0/24" in _reaches(of_kind(render(EXTERNAL), "NetworkPolicy")["mf-modelferry-api"])


def test_pools_are_scaled_by_what_waits() -> None:
    download, convert = (
        of_kind(render(KEDA), "ScaledObject")[f"mf-modelferry-worker-{pool}"] for pool in ("download", "convert")
    )
    assert [one["metadata"]["query"] for one in download["spec"]["triggers"]] == [
        'max(modelferry_queue_oldest_age_seconds{pool="download",namespace="models"})',
        'max(modelferry_queue_depth{state="waiting",pool="download",namespace="models"})',
    ]
    assert convert["spec"]["minReplicaCount"] == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pool": {}}, "additional properties 'pool' not allowed"),
        ({"pools": {"convert": {"kind": "convert", "replica": 2}}}, "'replica' not allowed"),
        ({"pools": {"fast": {"kind": "gpu"}}}, "'download', 'convert'"),
        ({"pools": {"Fast": {"kind": "convert"}}}, "Fast"),
        ({"config": {"MODELFERRY_LEASE": 3}}, "'MODELFERRY_LEASE' not allowed"),
        ({"config": {"HF_TOKEN": "x"}}, "'HF_TOKEN' not allowed"),
        ({"config": {"PORT": 1}}, "'PORT' not allowed"),
        ({"config": {"OTEL_EXPORTER_OTLP_HEADERS": "key=x"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"service": {"port": 99999}}, "/service/port"),
        ({"metrics": {"port": 80}}, "/metrics/port"),
        ({"persistence": {"accessModes": ["ReadOnlyMany"]}}, "/persistence/accessModes"),
        ({"secrets": {"adminKey": {"value": "short"}}}, "/secrets/adminKey/value"),
        ({"secrets": {"secretKey": {"value": "c2hvcnQ="}}}, "/secrets/secretKey/value"),
        ({"access": {"mode": "auto"}}, "/access/mode"),
        ({"access": {"oidc": {"issuer": "https://sso.example"}}}, "/access/oidc"),
        ({"access": {"rateLimit": "fast"}}, "/access/rateLimit"),
        ({"startupConfig": {"enabled": True}}, "/startupConfig/config"),
        ({"modeldownload": {"env": {}}}, "'modeldownload' not allowed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_mistakes_in_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(values)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"postgresql": {"enabled": False}}, "There is no database"),
        ({"redis": {"enabled": False}}, "There is no queue"),
        ({"poolDefaults": {"convert": {"autoscaling": {"enabled": True}}}}, "set keda.serverAddress"),
        (
            {"poolDefaults": {"convert": {"autoscaling": {"enabled": True, "by": "cpu", "minReplicas": 0}}}},
            "minReplicas 0 needs autoscaling.by queue",
        ),
        ({"proxy": {"existingSecret": "proxy"}}, "set networkPolicy.proxyPorts"),
        ({"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "everything twice"),
        ({"ingress": {"enabled": True}}, "ingress.hosts"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    ],
    ids=["database", "queue", "keda", "cpu", "proxy", "monitors", "ingress", "route"],
)
def test_what_cannot_work_is_refused_with_a_reason(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    assert reason in str(refused.value)
