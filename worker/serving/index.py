"""config_all.json: the list of the models of one folder, as the model server reads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from common.artefacts.durable import sync_folder, write_atomically
from common.errors import PublicationRefused
from worker.serving.classic import OWN_SETTINGS, REPOSITORY, repository_settings
from worker.serving.graphs import GRAPH_NAME

INDEX_NAME = "config_all.json"

MODELS = "model_config_list"
_LEGACY = "mediapipe_config_list"

_NOTHING: Mapping[str, object] = {}


def register_model(folder: Path, name: str) -> None:
    """List the model that is published at `folder/name` in the folder's config_all.json, as what it is on the disk.

    The caller holds the lock of the list. Safe to repeat. Raises PublicationRefused as `register` does.
    """
    settings = None if (folder / name / GRAPH_NAME).exists() else repository_settings(folder / name)
    if settings is None:
        register(folder / INDEX_NAME, name, name)
    else:
        register(folder / INDEX_NAME, name, f"{name}/{REPOSITORY}", settings)


def unregister_model(folder: Path, name: str) -> bool:
    """Take a model that is gone out of the folder's config_all.json, and say whether it was listed.

    One that is there again is left listed: another publication may have come between. The caller holds the lock of
    the list. Safe to repeat. Raises PublicationRefused as `unregister` does.
    """
    if (folder / name).exists():
        return False
    return unregister(folder / INDEX_NAME, name, {name, f"{name}/{REPOSITORY}"})


def register(config_file: Path, name: str, base_path: str, settings: Mapping[str, object] = _NOTHING) -> None:
    """Enter a model into the server's list, or move its entry. The caller holds the lock of the list.

    Everything else in the file is kept; entries of the older list of graphs are moved to the list of models.
    Raises PublicationRefused, and leaves the file alone, where it is not a list of models.
    """
    config = _read(config_file)
    models = _entries(config, config_file, MODELS)
    for old in _entries(config, config_file, _LEGACY):
        if isinstance(old, dict) and isinstance(old.get("name"), str):
            _upsert(models, old | {"name": f"{old['name']}_model"})
    config.pop(_LEGACY, None)
    _upsert(models, {"name": name, "base_path": base_path, **settings})
    config[MODELS] = models
    _write(config_file, config)


def unregister(config_file: Path, name: str, base_paths: set[str]) -> bool:
    """Take the entry of this name out of the server's list where it points to one of these places, and say if it did.

    The file goes with the last entry, unless it says more than that. The caller holds the lock of the list.
    Raises PublicationRefused, and leaves the file alone, where it is not a list of models.
    """
    config = _read(config_file)
    models = _entries(config, config_file, MODELS)
    left = [entry for entry in models if not _is(entry, name, base_paths)]
    if len(left) == len(models):
        return False
    config[MODELS] = left
    if left or len(config) > 1:
        _write(config_file, config)
    else:
        config_file.unlink()
        sync_folder(config_file.parent)
    return True


def _is(entry: object, name: str, base_paths: set[str]) -> bool:
    found = entry.get("config") if isinstance(entry, dict) else None
    return isinstance(found, dict) and found.get("name") == name and found.get("base_path") in base_paths


def _read(config_file: Path) -> dict[str, object]:
    try:
        config = json.loads(config_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise PublicationRefused(f"{config_file.name} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise PublicationRefused(f"{config_file.name} is not a JSON object")
    return cast("dict[str, object]", config)


def _write(config_file: Path, config: dict[str, object]) -> None:
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(config_file, text.encode())


def _entries(config: dict[str, object], config_file: Path, key: str) -> list[object]:
    entries = config.get(key, [])
    if not isinstance(entries, list):
        raise PublicationRefused(f"'{key}' in {config_file.name} is not a list")
    return entries


def _upsert(models: list[object], wanted: dict[str, object]) -> None:
    for entry in models:
        found = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(found, dict) and found.get("name") == wanted["name"]:
            if str(found.get("base_path")).endswith(f"/{REPOSITORY}"):
                # What an earlier conversion of ours was told is not what this one is told.
                for key in OWN_SETTINGS:
                    found.pop(key, None)
            found.update(wanted)
            return
    models.append({"config": wanted})
