"""The repository of a plain model: a folder of versions, as the model server has them without a graph.

Beside the model's own files, `model/1` holds the network under other names of the same content, and
`model/config.json` lists it for a server that is given this one model.
"""

import json
import uuid
from pathlib import Path

from common.artefacts.durable import link_file, make_folder, write_atomically
from common.artefacts.served import REPOSITORY
from common.catalog.openvino.serving import ServingOptions
from common.errors import OutputIncomplete, PublicationRefused

OWN_SETTINGS = frozenset({"target_device", "shape", "layout", "plugin_config"})
"""What an entry of ours says beside the model's name and place."""

_VERSION = "1"
_CONFIG = "config.json"
_BLOB_MODE = 0o444
_NETWORK = "openvino_model"
_HELPERS = frozenset({"openvino_tokenizer", "openvino_detokenizer"})


def write_repository(folder: Path, name: str, device: str, options: ServingOptions) -> None:
    """Make the repository in the model's folder. Safe to repeat. Raises OutputIncomplete where there is no network."""
    network = _network(folder)
    version = folder / REPOSITORY / _VERSION
    make_folder(version)
    for suffix in (".xml", ".bin"):
        _link(network.with_suffix(suffix), version / f"model{suffix}")
    config = {"name": name, "base_path": ".", **_settings(device, options)}
    text = json.dumps({"model_config_list": [{"config": config}]}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / REPOSITORY / _CONFIG, text.encode())


def repository_settings(folder: Path) -> dict[str, object] | None:
    """What the repository in a model's folder says of the model beside its name and place; None where there is none.

    Raises PublicationRefused where it is not what we wrote.
    """
    file = folder / REPOSITORY / _CONFIG
    try:
        config = json.loads(file.read_bytes())["model_config_list"][0]["config"]
        return {key: value for key, value in config.items() if key in OWN_SETTINGS}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PublicationRefused(f"{REPOSITORY}/{_CONFIG} of '{folder.name}' is no list of one model") from error


def _settings(device: str, options: ServingOptions) -> dict[str, object]:
    """Servers choose a device themselves where none is named, and not always the same one."""
    plugin: dict[str, object] = {}
    if options.num_streams is not None:
        plugin["NUM_STREAMS"] = str(options.num_streams)
    if options.ov_cache_dir is not None:
        plugin["CACHE_DIR"] = options.ov_cache_dir
    said = {"shape": options.shape, "layout": options.layout, "plugin_config": plugin or None}
    return {"target_device": device, **{key: value for key, value in said.items() if value is not None}}


def _network(folder: Path) -> Path:
    """The description of the one network in a folder."""
    found = sorted(
        path for path in folder.glob("*.xml") if path.stem not in _HELPERS and path.with_suffix(".bin").is_file()
    )
    for path in found:
        if path.stem == _NETWORK or len(found) == 1:
            return path
    raise OutputIncomplete(f"A plain model is one network, and the result has {len(found)}")


def _link(content: Path, at: Path) -> None:
    fresh = at.with_name(f".{uuid.uuid4().hex}.fresh")
    try:
        link_file(content, fresh, _BLOB_MODE)
        fresh.replace(at)
    finally:
        # A rename between two names of one file leaves both.
        fresh.unlink(missing_ok=True)
