"""config_all.json: the list of the models of one folder that the model server reads, and how a model leaves it."""

import json
from pathlib import Path
from typing import cast

from common.artefacts.durable import sync_folder, write_atomically
from common.errors import PublicationRefused

INDEX_NAME = "config_all.json"
REPOSITORY = "model"
"""The folder of versions in the own folder of a model that is served without a graph."""
MODELS = "model_config_list"


def unregister_model(folder: Path, name: str) -> bool:
    """Take a model that is gone out of the folder's config_all.json, and say whether it was listed.

    One that is there again is left listed: another publication may have come between. The caller holds the lock of
    the list. Safe to repeat. Raises PublicationRefused as `unregister` does.
    """
    if (folder / name).exists():
        return False
    return unregister(folder / INDEX_NAME, name, {name, f"{name}/{REPOSITORY}"})


def unregister(config_file: Path, name: str, base_paths: set[str]) -> bool:
    """Take the entry of this name out of the server's list where it points to one of these places, and say if it did.

    The file goes with the last entry, unless it says more than that. The caller holds the lock of the list.
    Raises PublicationRefused, and leaves the file alone, where it is not a list of models.
    """
    config = read_index(config_file)
    models = index_entries(config, config_file, MODELS)
    left = [entry for entry in models if not _is(entry, name, base_paths)]
    if len(left) == len(models):
        return False
    config[MODELS] = left
    if left or len(config) > 1:
        write_index(config_file, config)
    else:
        config_file.unlink()
        sync_folder(config_file.parent)
    return True


def read_index(config_file: Path) -> dict[str, object]:
    """What the list says; nothing where there is none. Raises PublicationRefused where it is not a JSON object."""
    try:
        config = json.loads(config_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise PublicationRefused(f"{config_file.name} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise PublicationRefused(f"{config_file.name} is not a JSON object")
    return cast("dict[str, object]", config)


def write_index(config_file: Path, config: dict[str, object]) -> None:
    """Put the list in place, in one step."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(config_file, text.encode())


def index_entries(config: dict[str, object], config_file: Path, key: str) -> list[object]:
    """One of the lists in it. Raises PublicationRefused where it is none."""
    entries = config.get(key, [])
    if not isinstance(entries, list):
        raise PublicationRefused(f"'{key}' in {config_file.name} is not a list")
    return entries


def _is(entry: object, name: str, base_paths: set[str]) -> bool:
    found = entry.get("config") if isinstance(entry, dict) else None
    return isinstance(found, dict) and found.get("name") == name and found.get("base_path") in base_paths
