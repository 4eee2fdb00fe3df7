"""Everything that a model server wants in a model's folder, by the type of the model."""

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.artefacts.durable import write_atomically
from common.catalog.openvino.serving import ServingOptions, complete_serving
from common.errors import UnsupportedModel
from common.spec import Target
from common.vocabulary import ModelType
from worker.serving.classic import write_repository
from worker.serving.graphs import GRAPH_NAME, GRAPH_TYPES, graph

POOLING_FILE = "1_Pooling/config.json"
"""What a model of sentence-transformers says about pooling."""

_POOLING = {
    "pooling_mode_cls_token": "CLS",
    "pooling_mode_lasttoken": "LAST",
    "pooling_mode_mean_tokens": "MEAN",
}
_POOLING_WORDS = {"cls": "CLS", "lasttoken": "LAST", "mean": "MEAN"}


def write_serving(folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
    """Write into the model's folder what a model server wants there: graph.pbtxt, or a repository for a plain model.

    `target` names the type; options that are for other types are passed over. Safe to repeat.
    Raises UnsupportedModel for a type that is not served, and OutputIncomplete where a file of the model is missing.
    """
    if target.model_type is None:
        raise UnsupportedModel("A model of no known type cannot be served")
    told = complete_serving(target.model_type, serving)
    options = msgspec.convert(told, ServingOptions, strict=False)
    if target.model_type is ModelType.VISION:
        # A model that was made elsewhere may bring one, and the server would go by it.
        (folder / GRAPH_NAME).unlink(missing_ok=True)
        write_repository(folder, name, target.device, options)
        return
    if target.model_type is ModelType.EMBEDDINGS and options.pooling is None:
        options = msgspec.structs.replace(options, pooling=_own_pooling(folder))
    text = graph(target.model_type, target.device, options)
    # A new file: one that the model brought may be a name of content in the store.
    write_atomically(folder / GRAPH_NAME, text.encode())


def is_served(model_type: ModelType) -> bool:
    """Whether a model server can be told about models of this type."""
    return model_type is ModelType.VISION or model_type in GRAPH_TYPES


def _own_pooling(folder: Path) -> str | None:
    """What the model itself says about pooling, in the server's words."""
    try:
        said = json.loads((folder / POOLING_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict):
        return None
    chosen = [word for key, word in _POOLING.items() if said.get(key) is True]
    if not chosen and isinstance(said.get("pooling_mode"), str):
        return _POOLING_WORDS.get(said["pooling_mode"])
    return chosen[0] if len(chosen) == 1 else None
