"""Gives the nodes of a graph names that do not depend on what the process did before."""

import re

import openvino as ov

_COUNTED = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+(\.\d+|_compressed|/.*)?")
"""OpenVINO names a nameless node by its kind, and by how many nodes the process has ever made."""
_COUNTED_MODEL = re.compile(r"Model\d+")


def save_reproducibly(model: ov.Model, path: object, compress_to_fp16: bool = False) -> None:
    """Save a model so that equal models give equal files. Weights of 32 bits are halved only if told so."""
    name_plainly(model)
    ov.save_model(model, path, compress_to_fp16)


def name_plainly(model: ov.Model) -> None:
    """Number the nameless nodes of a model by their place in it."""
    if _COUNTED_MODEL.fullmatch(model.get_friendly_name()):
        model.set_friendly_name("Model")
    numbers: dict[str, str] = {}
    for node in model.get_ordered_ops():
        node.set_friendly_name(_plain(node.get_friendly_name(), numbers))
        for output in node.outputs():
            names = output.get_names()
            if any(_COUNTED.fullmatch(name) for name in names):
                output.set_names({_plain(name, numbers) for name in names})


def _plain(name: str, numbers: dict[str, str]) -> str:
    counted = _COUNTED.fullmatch(name)
    if counted is None:
        return name
    kind, rest = counted.group(1), counted.group(2) or ""
    base = name[: len(name) - len(rest)]
    return numbers.setdefault(base, f"{kind}_{len(numbers)}") + rest
