"""The environment of a container as its process will find it, with files in place of the cluster's secrets."""

from pathlib import Path, PurePosixPath

from tests.chart.rendering import Object, of_kind

_CONTENT = {
    "database-url": "postgresql://modelferry:secret@db.example:5432/modelferry",
    "redis-url": "redis://:secret@queue.example:6379/0",
    "secret-key": "A" * 43 + "=",
}
_ANY = "s" * 40


def environment(pod: Object, container: Object, objects: list[Object], folder: Path) -> dict[str, str]:
    """Variable -> value. What `..._FILE` names is made in the folder, with what the mounted secret has in that place."""
    maps = of_kind(objects, "ConfigMap")
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", []):
        found[variable["name"]] = variable.get("value", _ANY)
    for name in [name for name in found if name.endswith("_FILE") or name == "STARTUP_MODELS_CONFIG"]:
        file = folder / PurePosixPath(found[name]).name
        file.write_text(content(pod, container, objects, found[name]), encoding="utf-8")
        found[name] = str(file)
    return found


def content(pod: Object, container: Object, objects: list[Object], path: str) -> str:
    """What a file of a container will hold. Raises LookupError where there will be none."""
    wanted = PurePosixPath(path)
    for mount in container["volumeMounts"]:
        if wanted.parent != PurePosixPath(mount["mountPath"]):
            continue
        volume = next(one for one in pod["spec"]["volumes"] if one["name"] == mount["name"])
        for source in volume.get("projected", {}).get("sources", [volume]):
            held = _held(source, objects)
            if wanted.name in held:
                return held[wanted.name]
    raise LookupError(f"No volume has {path}")


def _held(source: Object, objects: list[Object]) -> dict[str, str]:
    """File -> content. Secrets of the operator have something of the right form."""
    if "configMap" in source:
        return dict(of_kind(objects, "ConfigMap")[source["configMap"]["name"]]["data"])
    if "secret" not in source:
        return {}
    name = source["secret"].get("secretName") or source["secret"]["name"]
    made = of_kind(objects, "Secret").get(name, {}).get("stringData", {})
    return {
        item["path"]: str(made.get(item["key"], _CONTENT.get(item["path"], _ANY))) for item in source["secret"]["items"]
    }
