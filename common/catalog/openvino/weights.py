"""Which files of a repository are the weights that the tools will read."""

import re
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec

from common.errors import UnsupportedModel
from common.plugins import Dossier

_INDEX = ".index.json"
_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_IR = re.compile(r"(?:[\w-]+/)?openvino_(?:\w+_)?model\.xml")
_GGUF_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Weights(msgspec.Struct, frozen=True):
    """The files that are read, and whether some of them are pickles."""

    files: tuple[str, ...]
    pickled: bool


def has_ir(dossier: Dossier) -> bool:
    """Whether the repository holds OpenVINO's form, and not the weights that it was made from."""
    return any(_IR.fullmatch(path) for path in dossier.sizes) and not has_originals(dossier)


def has_originals(dossier: Dossier) -> bool:
    """Whether the repository holds weights of PyTorch."""
    return any(path.endswith(".safetensors") or _base(path).startswith(_STEMS[1:]) for path in dossier.sizes)


def model_weights(dossier: Dossier) -> Weights:
    """The weights of a model of transformers. Raises UnsupportedModel where there are none, or not all."""
    found = _in_folder(dossier, "")
    if found is not None:
        _refuse_gaps(found, dossier)
        return found
    safe = [path for path in dossier.sizes if path.endswith(".safetensors") and "/" not in path]
    loose = [path for path in dossier.sizes if path.endswith(_PICKLES) and "/" not in path]
    if not safe and not loose:
        raise UnsupportedModel("The repository holds no weights of a PyTorch model")
    return Weights(tuple(sorted(safe or loose)), pickled=not safe)


def pipeline_weights(dossier: Dossier, components: Iterable[str]) -> Weights:
    """The weights of a pipeline of diffusers. Raises UnsupportedModel where there are none, or not all."""
    found = [weights for name in components if (weights := _in_folder(dossier, f"{name}/")) is not None]
    if not found:
        raise UnsupportedModel("The repository holds no weights of a diffusers pipeline")
    for weights in found:
        _refuse_gaps(weights, dossier)
    return Weights(tuple(path for weights in found for path in weights.files), any(one.pickled for one in found))


def is_pickled(dossier: Dossier, folder: str) -> bool:
    """Whether the weights in a folder of the repository can only be read from pickles."""
    found = _in_folder(dossier, f"{folder}/")
    return found is not None and found.pickled


def weights_bytes(dossier: Dossier) -> int:
    """How many bytes of weights a conversion will read, of whatever form they are. Unknown sizes count as nothing."""
    if has_ir(dossier):
        return size_of(dossier, (path for path in dossier.sizes if path.endswith(".bin")))
    folders = sorted({path.rpartition("/")[0] for path in dossier.sizes if path.count("/") == 1})
    places = [f"{name}/" for name in folders] if "model_index.json" in dossier.sizes else [""]
    files = [path for place in places for path in _files_in(dossier, place)]
    if not files:
        return gguf_bytes(dossier) or size_of(dossier, (path for path in dossier.sizes if _is_weight(path)))
    return size_of(dossier, files)


def gguf_bytes(dossier: Dossier) -> int:
    """The size of the largest model in GGUF form; one that is cut into several files counts as one."""
    sizes: dict[str, int] = {}
    for path in dossier.sizes:
        if path.endswith(".gguf"):
            model = _GGUF_SHARD.sub("", path)
            sizes[model] = sizes.get(model, 0) + size_of(dossier, (path,))
    return max(sizes.values(), default=0)


def size_of(dossier: Dossier, paths: Iterable[str]) -> int:
    """The bytes of these files together, as far as the hub tells them."""
    return sum(max(0, dossier.sizes.get(path) or 0) for path in paths)


def _in_folder(dossier: Dossier, folder: str) -> Weights | None:
    files = _files_in(dossier, folder)
    return Weights(files, any(not path.endswith(".safetensors") for path in files)) if files else None


def _files_in(dossier: Dossier, folder: str) -> tuple[str, ...]:
    """The files that the libraries choose: safetensors before pickles, one before many, the plain before a variant."""
    for ending in ("safetensors", "bin"):
        for stem in _STEMS:
            whole = f"{folder}{stem}.{ending}"
            if whole in dossier.sizes:
                return (whole,)
            index = f"{whole}{_INDEX}"
            if index in dossier.sizes and (listed := _listed(dossier, index, folder)):
                return listed
        parts = [path for path in dossier.sizes if _rest(path, folder, ending) is not None]
        plain = [path for path in parts if _SHARD.fullmatch(_rest(path, folder, ending) or "")]
        if parts:
            return tuple(sorted(plain or parts))
    return ()


def _listed(dossier: Dossier, index: str, folder: str) -> tuple[str, ...]:
    """The files that an index names; nothing where it cannot be read."""
    document = dossier.documents.get(index)
    placed = document.get("weight_map") if isinstance(document, Mapping) else None
    if not isinstance(placed, Mapping):
        return ()
    names = {name for name in cast("Mapping[object, object]", placed).values() if isinstance(name, str)}
    return tuple(sorted(f"{folder}{name}" for name in names))


def _refuse_gaps(weights: Weights, dossier: Dossier) -> None:
    missing = [path for path in weights.files if path not in dossier.sizes]
    if missing:
        raise UnsupportedModel(
            f"The repository is incomplete: {len(missing)} of its {len(weights.files)} weight files are not there, "
            f"such as {missing[0][:100]!r}"
        )


def _rest(path: str, folder: str, ending: str) -> str | None:
    """What stands between the known stem of a weight file and its ending; None where it is no such file."""
    name = path.removeprefix(folder)
    if not path.startswith(folder) or "/" in name or not name.endswith(f".{ending}"):
        return None
    stems = _STEMS if ending == "safetensors" else _STEMS[1:]
    stem = next((stem for stem in stems if name.startswith((f"{stem}.", f"{stem}-"))), None)
    return None if stem is None else name.removeprefix(stem).removesuffix(f".{ending}")


def _is_weight(path: str) -> bool:
    return path.endswith((".safetensors", *_PICKLES))


def _base(path: str) -> str:
    return path.rpartition("/")[2]
