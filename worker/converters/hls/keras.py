"""Reads the weights of MTTS-CAN from the HDF5 file that Keras writes. Nothing in the file is run."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from common.errors import ConversionFailed
from worker.converters.hls.rppg import FRAMES, LAYERS

_MOST_VALUES = 16 * 1024 * 1024
_NUMBERED = re.compile(r"(conv2d|dense)(?:_(\d+))?")
_BY_NUMBER = (
    "motion_1",
    "motion_2",
    "face_1",
    "face_2",
    "look_1",
    "motion_3",
    "motion_4",
    "face_3",
    "face_4",
    "look_2",
)
_HINT = "Fetch mtts_can.hdf5 from where its authors published it. Nothing was published."

# What a layer is, and which ones it reads. The names are ours; the shape of the whole is the authors'.
_Settings = Mapping[str, object]
_Node = tuple[str, _Settings, tuple[str, ...]]
_SAME: _Settings = {"padding": "same", "activation": "tanh"}
_VALID: _Settings = {"padding": "valid", "activation": "tanh"}
_LOOK: _Settings = {"activation": "sigmoid"}
_HALVED: _Settings = {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
_TANH: _Settings = {"activation": "tanh"}
_LINEAR: _Settings = {"activation": "linear"}
_GRAPH: Mapping[str, _Node] = {
    "shift_1": ("TSM", {}, ("changes",)),
    "motion_1": ("Conv2D", _SAME, ("shift_1",)),
    "shift_2": ("TSM", {}, ("motion_1",)),
    "motion_2": ("Conv2D", _VALID, ("shift_2",)),
    "face_1": ("Conv2D", _SAME, ("faces",)),
    "face_2": ("Conv2D", _VALID, ("face_1",)),
    "look_1": ("Conv2D", _LOOK, ("face_2",)),
    "mask_1": ("Attention_mask", {}, ("look_1",)),
    "gate_1": ("Multiply", {}, ("motion_2", "mask_1")),
    "motion_pool_1": ("AveragePooling2D", _HALVED, ("gate_1",)),
    "face_pool_1": ("AveragePooling2D", _HALVED, ("face_2",)),
    "shift_3": ("TSM", {}, ("motion_pool_1",)),
    "motion_3": ("Conv2D", _SAME, ("shift_3",)),
    "shift_4": ("TSM", {}, ("motion_3",)),
    "motion_4": ("Conv2D", _VALID, ("shift_4",)),
    "face_3": ("Conv2D", _SAME, ("face_pool_1",)),
    "face_4": ("Conv2D", _VALID, ("face_3",)),
    "look_2": ("Conv2D", _LOOK, ("face_4",)),
    "mask_2": ("Attention_mask", {}, ("look_2",)),
    "gate_2": ("Multiply", {}, ("motion_4", "mask_2")),
    "motion_pool_2": ("AveragePooling2D", _HALVED, ("gate_2",)),
    "flat": ("Flatten", {}, ("motion_pool_2",)),
    "pulse_1": ("Dense", _TANH, ("flat",)),
    "pulse_2": ("Dense", _LINEAR, ("pulse_1",)),
    "breath_1": ("Dense", _TANH, ("flat",)),
    "breath_2": ("Dense", _LINEAR, ("breath_1",)),
}
_INPUTS = ("changes", "faces")
_OUTPUTS = ("pulse_2", "breath_2")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights as `RppgNetwork` names them. Raises ConversionFailed where the file is of another network."""
    try:
        with h5py.File(path, "r") as file:
            held = file.get("model_weights", file)
            names = _layers_by_wiring(file.attrs["model_config"]) if "model_config" in file.attrs else _by_number(held)
            return dict(_weights(held, names))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ConversionFailed(f"{path.name} cannot be read as Keras writes it", hint=_HINT) from error


def _weights(held: Any, names: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    for layer, shape in LAYERS.items():
        group = held[names[layer]]
        by_kind = {
            _text(name).rpartition("/")[2].partition(":")[0]: _text(name) for name in group.attrs["weight_names"]
        }
        kernel, bias = (_values(group[by_kind[kind]], held) for kind in ("kernel", "bias"))
        # Keras: rows, columns, channels in, channels out; a dense layer: in, out.
        turned = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        if turned.shape != shape or bias.shape != shape[:1]:
            raise _another(f"layer {names[layer]} has weights of the shape {kernel.shape}")
        yield f"{layer}.weight", torch.from_numpy(np.ascontiguousarray(turned))
        yield f"{layer}.bias", torch.from_numpy(bias)


def _values(dataset: Any, held: Any) -> np.ndarray[Any, Any]:
    """The numbers of one weight, which must be in this very file: HDF5 can point into others."""
    here = isinstance(dataset, h5py.Dataset) and dataset.file.filename == held.file.filename
    if not here or dataset.external or dataset.is_virtual or dataset.size > _MOST_VALUES:
        raise _another("its weights are elsewhere, or far too many")
    return np.asarray(dataset[()], dtype=np.float32)


def _by_number(held: Any) -> dict[str, str]:
    """Which layer is which where the file holds weights alone: Keras numbers layers in the order of their making."""
    numbered: dict[str, list[tuple[int, str]]] = {"conv2d": [], "dense": []}
    for name in held:
        found = _NUMBERED.fullmatch(name)
        if found:
            numbered[found[1]].append((int(found[2] or 0), name))
    if (len(numbered["conv2d"]), len(numbered["dense"])) != (len(_BY_NUMBER), 2):
        raise _another("it has another number of layers")
    convolutions = [name for _, name in sorted(numbered["conv2d"])]
    pulse, breath = (name for _, name in sorted(numbered["dense"]))
    found_names = dict(zip(_BY_NUMBER, convolutions, strict=True))
    return {**found_names, "pulse_1": pulse, "breath_1": breath, "pulse_2": "output_1", "breath_2": "output_2"}


def _layers_by_wiring(config: object) -> dict[str, str]:
    """Which layer is which by what each one reads, back from the two outputs. It must be this network, and no other."""
    described = json.loads(_text(config))["config"]
    layers = {layer["name"]: layer for layer in described["layers"]}
    names = {known: _first(layer) for known, layer in zip(_INPUTS, described["input_layers"], strict=True)}
    for known, output in zip(_OUTPUTS, described["output_layers"], strict=True):
        _follow(known, _first(output), layers, names)
    if len({name for known, name in names.items() if known in LAYERS}) != len(LAYERS):
        raise _another("one layer serves twice")
    return names


def _follow(known: str, name: str, layers: Mapping[str, Any], names: dict[str, str]) -> None:
    """Enter into `names` that our layer is the file's of that name, and the same of all that it reads."""
    name = _past_dropout(name, layers)
    if names.setdefault(known, name) != name:
        raise _another(f"layer {name} is in another's place")
    if known in _INPUTS:
        return
    kind, settings, reads = _GRAPH[known]
    layer = layers[name]
    inputs = _inbound(layer)
    # Classes of the authors' own may be noted with a package before them.
    if (
        layer["class_name"].rpartition(">")[2] != kind
        or len(inputs) != len(reads)
        or not _has(layer["config"], settings)
    ):
        raise _another(f"layer {name} is no {kind} of its kind")
    if kind == "TSM" and _frames(layer) != FRAMES:
        raise _another(f"layer {name} shifts other than {FRAMES} frames")
    for read, inbound in zip(reads, inputs, strict=True):
        _follow(read, inbound, layers, names)


def _has(config: Mapping[str, Any], settings: _Settings) -> bool:
    last = config.get("data_format", "channels_last") == "channels_last"
    plain = config.get("dilation_rate", [1, 1]) == [1, 1] and config.get("groups", 1) == 1
    unstrided = "pool_size" in settings or config.get("strides", [1, 1]) == [1, 1]
    return last and plain and unstrided and all(config.get(key) == value for key, value in settings.items())


def _past_dropout(name: str, layers: Mapping[str, Any]) -> str:
    """What is left out in training is all there when the network answers."""
    seen = 0
    while layers[name]["class_name"] == "Dropout" and seen < len(layers):
        (name,) = _inbound(layers[name])
        seen += 1
    return name


def _inbound(layer: Mapping[str, Any]) -> list[str]:
    (node,) = layer["inbound_nodes"]
    return [str(one[0]) for one in node]


def _frames(layer: Mapping[str, Any]) -> object:
    """How many frames are shifted together: an argument of the call, which Keras notes beside the input."""
    (node,) = layer["inbound_nodes"]
    asked = node[0][3] if len(node[0]) > 3 else {}
    if asked.get("fold_div", 3) != 3:
        return None
    # Old versions of Keras noted only arguments that were named in the call.
    return asked.get("n_frame", layer["config"].get("n_frame", FRAMES))


def _first(place: Any) -> str:
    return str(place[0])


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _another(why: str) -> ConversionFailed:
    return ConversionFailed(f"The file is not of the published network: {why}", hint=_HINT)
