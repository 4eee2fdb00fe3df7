"""What no schema sees: whether the objects of a release fit together."""

from collections.abc import Iterator, Mapping

from tests.chart.rendering import Object, containers, is_hook, of_kind, pods

WORKLOADS = {"Deployment", "StatefulSet"}
PLAINLY_SECRET = ("planted", "password=", "requirepass")


def complaints(objects: list[Object], declared: Mapping[str, set[str]]) -> list[str]:
    """Everything that is named and is not there, and everything out of range."""
    return [
        *_doubles(objects),
        *(
            f"{title}: {text}"
            for title, pod in pods(objects)
            for text in [*_names(pod, objects, declared), *_ports(pod), *_mounts(pod), *_images(pod), *_closed(pod)]
        ),
        *_selectors(objects),
        *_services(objects),
        *_targets(objects),
        *_hooks(objects, declared),
    ]


def _doubles(objects: list[Object]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for each in objects:
        title = (each["kind"], each["metadata"]["name"])
        if title in seen:
            yield f"{title} comes twice"
        if len(title[1]) > 63:
            yield f"{title}: the name is too long"
        seen.add(title)


def _names(pod: Object, objects: list[Object], declared: Mapping[str, set[str]]) -> Iterator[str]:
    for kind, name, keys in references(pod):
        found = of_kind(objects, kind).get(name)
        if found is None:
            if name not in declared.get(kind, ()):
                yield f"{kind} {name} is nowhere"
            continue
        held = {*(found.get("data") or {}), *(found.get("stringData") or {})}
        yield from (f"{kind} {name} has no key {key}" for key in sorted(keys - held))


def references(pod: Object) -> Iterator[tuple[str, str, set[str]]]:
    """Kind, name, and the keys that are wanted of it."""
    spec = pod["spec"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"], set()
    yield from (("Secret", secret["name"], set()) for secret in spec.get("imagePullSecrets", []))
    for volume in spec.get("volumes", []):
        sources = volume.get("projected", {}).get("sources", [volume])
        for source in sources:
            if "secret" in source:
                keys = {item["key"] for item in source["secret"].get("items", [])}
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"], keys
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"], set()
            if "persistentVolumeClaim" in source:
                yield "PersistentVolumeClaim", source["persistentVolumeClaim"]["claimName"], set()
    for container in containers(pod):
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"], set()
        for variable in container.get("env", []):
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted:
                yield "Secret", wanted["name"], {wanted["key"]}


def _ports(pod: Object) -> Iterator[str]:
    numbers: list[int] = []
    for container in containers(pod):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        numbers += ports.values()
        yield from (f"port {name} is {number}" for name, number in ports.items() if not 1024 <= number <= 65535)
        yield from (f"the name of port {name} is too long" for name in ports if len(name) > 15)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            asked = probe.get("httpGet") or probe.get("tcpSocket") or {}
            # What is asked of another host has no port here.
            if asked and "host" not in asked and asked["port"] not in ports:
                yield f"{kind} asks port {asked['port']}, which the container has not"
    if len(numbers) != len(set(numbers)):
        yield "two ports have one number"


def _mounts(pod: Object) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    used: set[str] = set()
    for container in containers(pod):
        mounts = container.get("volumeMounts", [])
        used |= {mount["name"] for mount in mounts}
        paths = [mount["mountPath"] for mount in mounts]
        yield from (f"{path} is mounted twice" for path in set(paths) if paths.count(path) > 1)
        names = [variable["name"] for variable in container.get("env", [])]
        yield from (f"{name} is set twice" for name in set(names) if names.count(name) > 1)
    # A StatefulSet's own volume comes from its template.
    yield from (f"volume {name} is nowhere" for name in sorted(used - volumes - {"data"}))
    yield from (f"volume {name} is never mounted" for name in sorted(volumes - used))


def _images(pod: Object) -> Iterator[str]:
    for container in containers(pod):
        name, _, tag = container["image"].rpartition("/")[2].partition(":")
        if "@" not in name and (not tag or tag == "latest"):
            yield f"image {container['image']} says no version"


def _closed(pod: Object) -> Iterator[str]:
    """What a pod may not be, whoever wrote its values."""
    spec = pod["spec"]
    if spec.get("enableServiceLinks") is not False:
        yield "a Service's variables would be taken for settings: enableServiceLinks"
    if spec.get("automountServiceAccountToken") is not False:
        yield "it gets a token of the cluster"
    if spec["securityContext"]["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    for container in containers(pod):
        context = container["securityContext"]
        if context["allowPrivilegeEscalation"] or not context["runAsNonRoot"] or not context["readOnlyRootFilesystem"]:
            yield f"container {container['name']} may too much"
        if context["capabilities"] != {"drop": ["ALL"]}:
            yield f"container {container['name']} has capabilities"
        if "memory" not in container["resources"].get("limits", {}):
            yield f"container {container['name']} has no limit of memory"


def _selectors(objects: list[Object]) -> Iterator[str]:
    """A workload selects its own pods, and those of no other."""
    for each in objects:
        if each["kind"] not in WORKLOADS:
            continue
        wanted = each["spec"]["selector"]["matchLabels"]
        found = [title for title, pod in pods(objects) if matches(wanted, pod)]
        own = f"{each['kind']}/{each['metadata']['name']}"
        if found != [own]:
            yield f"{own} selects {found}"


def matches(selector: Mapping[str, str], pod: Object) -> bool:
    """Whether a pod has these labels."""
    return selector.items() <= pod["metadata"]["labels"].items()


def _services(objects: list[Object]) -> Iterator[str]:
    for service in of_kind(objects, "Service").values():
        title = f"Service/{service['metadata']['name']}"
        chosen = [pod for _, pod in pods(objects) if matches(service["spec"]["selector"], pod)]
        named = {port["name"] for pod in chosen for one in containers(pod) for port in one.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in named:
                yield f"{title}: no pod has a port {port['targetPort']}"
            if not 1 <= port["port"] <= 65535:
                yield f"{title}: port {port['port']}"


def _targets(objects: list[Object]) -> Iterator[str]:
    """Whatever names a workload, a Service or pods names one that is there."""
    services = of_kind(objects, "Service")
    for each in objects:
        spec, title = each.get("spec", {}), f"{each['kind']}/{each['metadata']['name']}"
        if "scaleTargetRef" in spec:
            yield from _scaled(title, spec, objects)
        if each["kind"] == "Ingress":
            for rule in spec["rules"]:
                for path in rule["http"]["paths"]:
                    wanted = path["backend"]["service"]
                    yield from _service_port(title, services, wanted["name"], wanted["port"]["name"])
        if each["kind"] == "HTTPRoute":
            for rule in spec["rules"]:
                for wanted in rule["backendRefs"]:
                    yield from _service_port(title, services, wanted["name"], wanted["port"])
        if each["kind"] in {"PodDisruptionBudget", "NetworkPolicy"}:
            selector = spec.get("podSelector") or spec["selector"]
            if not any(matches(selector["matchLabels"], pod) for _, pod in pods(objects)):
                yield f"{title} is for no pod"


def _scaled(title: str, spec: Object, objects: list[Object]) -> Iterator[str]:
    wanted = spec["scaleTargetRef"]
    target = of_kind(objects, wanted["kind"]).get(wanted["name"])
    if target is None:
        yield f"{title}: {wanted['name']} is nowhere"
    elif "replicas" in target["spec"]:
        yield f"{title}: each upgrade would set the replicas of {wanted['name']} back"
    least, most = (spec.get(f"{end}Replicas", spec.get(f"{end}ReplicaCount")) for end in ("min", "max"))
    if least > most:
        yield f"{title}: at least {least}, at most {most}"


def _service_port(title: str, services: dict[str, Object], name: str, port: str | int) -> Iterator[str]:
    if name not in services:
        yield f"{title}: Service {name} is nowhere"
    elif port not in {value for one in services[name]["spec"]["ports"] for value in (one["name"], one["port"])}:
        yield f"{title}: Service {name} has no port {port}"


def _hooks(objects: list[Object], declared: Mapping[str, set[str]]) -> Iterator[str]:
    """What runs before an install finds nothing of the release but other hooks of lower weight."""
    before = {
        (each["kind"], each["metadata"]["name"]): int(each["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for each in objects
        if is_hook(each) and "pre-install" in each["metadata"]["annotations"]["helm.sh/hook"]
    }
    ours = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for (kind, name), weight in before.items():
        if kind != "Job":
            continue
        pod = of_kind(objects, "Job")[name]["spec"]["template"]
        for other, wanted, _ in references(pod):
            if wanted in declared.get(other, ()):
                continue
            if (other, wanted) in ours and before.get((other, wanted), weight) >= weight:
                yield f"{kind}/{name} runs before {other} {wanted} is there"
