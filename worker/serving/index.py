"""How a model enters config_all.json, the list of the models of one folder that the model server reads."""

from collections.abc import Mapping
from pathlib import Path

from common.artefacts.served import INDEX_NAME, MODELS, REPOSITORY, index_entries, read_index, write_index
from worker.serving.classic import OWN_SETTINGS, repository_settings
from worker.serving.graphs import GRAPH_NAME

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


def register(config_file: Path, name: str, base_path: str, settings: Mapping[str, object] = _NOTHING) -> None:
    """Enter a model into the server's list, or move its entry. The caller holds the lock of the list.

    Everything else in the file is kept; entries of the older list of graphs are moved to the list of models.
    Raises PublicationRefused, and leaves the file alone, where it is not a list of models.
    """
    config = read_index(config_file)
    models = index_entries(config, config_file, MODELS)
    for old in index_entries(config, config_file, _LEGACY):
        if isinstance(old, dict) and isinstance(old.get("name"), str):
            _upsert(models, old | {"name": f"{old['name']}_model"})
    config.pop(_LEGACY, None)
    _upsert(models, {"name": name, "base_path": base_path, **settings})
    config[MODELS] = models
    write_index(config_file, config)


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
