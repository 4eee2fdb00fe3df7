"""Proves exported models with the worker's own OpenVINO: each is read back, compiled, and shown a picture."""

from pathlib import Path

import numpy as np
import openvino as ov

from common.errors import OutputIncomplete, VerificationFailed

_INTEGERS = {"i4", "u4", "i8", "u8"}
_HALVES = {"f16", "bf16"}
_MOST_WEIGHTS = 0.5
"""So large a part of all weights must be in the form that a folder's name promises."""
_SCALAR_SIZES = 16
"""Constants below this size are no weights: shapes, axes, scales."""


def prove(folder: Path, name: str, form: str) -> str:
    """What was seen of the model in one form, in words. Raises OutputIncomplete, VerificationFailed."""
    model = folder / form / f"{name}.xml"
    for file in (model, model.with_suffix(".bin"), model.with_name("metadata.yaml")):
        if not file.is_file() or file.stat().st_size == 0:
            raise OutputIncomplete(f"The export of '{name}' left no {form}/{file.name}")
    try:
        core = ov.Core()
        graph = core.read_model(model)
        shapes = _answers(core, graph, name, form)
    except RuntimeError as error:
        raise VerificationFailed(f"{form}/{name}.xml does not run: {' '.join(str(error).split())[:500]}") from error
    labels = _labels(graph)
    if not labels:
        raise VerificationFailed(f"{form}/{name}.xml has lost its labels")
    return f"{form}: runs on CPU, {_check_weights(graph, name, form)}, {labels} labels, outputs {', '.join(shapes)}"


def _answers(core: ov.Core, graph: ov.Model, name: str, form: str) -> list[str]:
    """The shapes of what the model says of a picture, all of it finite."""
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    picture = np.random.default_rng(0).random(tuple(compiled.input(0).shape), dtype=np.float32)
    result = compiled([picture])
    shapes = []
    for port in compiled.outputs:
        answer = np.array(result[port])
        if answer.size == 0 or not np.isfinite(answer).all():
            raise VerificationFailed(f"{form}/{name}.xml answers with nothing, or with numbers that are not finite")
        shapes.append("x".join(map(str, answer.shape)))
    if not shapes:
        raise VerificationFailed(f"{form}/{name}.xml has no outputs")
    return shapes


def _check_weights(graph: ov.Model, name: str, form: str) -> str:
    """Whether the numbers are those that the folder's name promises. Raises VerificationFailed."""
    counts: dict[str, int] = {}
    fakes = 0
    for node in graph.get_ordered_ops():
        fakes += node.get_type_name() == "FakeQuantize"
        if node.get_type_name() == "Constant" and (size := _size(node)) >= _SCALAR_SIZES:
            kind = node.get_output_element_type(0).to_string()
            counts[kind] = counts.get(kind, 0) + size
    total = sum(counts.values())
    share = {kind: count / total for kind, count in counts.items()} if total else {}
    if form == "INT8":
        integers = sum(part for kind, part in share.items() if kind in _INTEGERS)
        if not fakes or integers < _MOST_WEIGHTS:
            raise VerificationFailed(
                f"INT8/{name}.xml is not quantized: {integers:.0%} of its weights are integers, and {fakes} of its "
                "operations round activations"
            )
        return f"{integers:.0%} of the weights are 8-bit integers, {fakes} activations are quantized"
    halves = sum(part for kind, part in share.items() if kind in _HALVES)
    if (halves >= _MOST_WEIGHTS) != (form == "FP16"):
        raise VerificationFailed(f"{halves:.0%} of the weights of {form}/{name}.xml are halves")
    return f"{halves:.0%} of the weights are halves"


def _size(node: ov.Node) -> int:
    size = 1
    for length in node.get_output_shape(0):
        size *= int(length)
    return size


def _labels(graph: ov.Model) -> int:
    """How many labels the model holds."""
    place = ["model_info", "labels"]
    return len(str(graph.get_rt_info(place).value).split()) if graph.has_rt_info(place) else 0
