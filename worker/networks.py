"""Makes OpenVINO IR of a small torch network, and proves that it answers as the network does."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # the name of an error, which is all that is used
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import nn

from common.errors import ConversionFailed, OutputIncomplete, VerificationFailed

TOOLS = ("openvino", "torch")

Arrays = Sequence[np.ndarray[Any, Any]]

_SHOWN = 3


class Network(nn.Module):  # type: ignore[misc]  # torch's types are not looked at
    """A torch network that is built here."""


def load_state(network: nn.Module, checkpoint: Path, *, may_lack: frozenset[str] = frozenset()) -> None:
    """Give the network the weights of a checkpoint, every one of them, and nothing but weights.

    The checkpoint is a pickle that is read by torch's own reader of plain weights: what it names beside tensors is
    refused, whatever the settings say. Raises ConversionFailed, and in a process that forbids pickles PickleRefused.
    """
    state = _weights_in(checkpoint)
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys() - may_lack - _counters(wanted))
    unknown = sorted(state.keys() - wanted.keys())
    shaped = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    for names, what in ((missing, "lacks"), (unknown, "has unknown"), (shaped, "has of another shape")):
        if names:
            shown = ", ".join(name[:80] for name in names[:_SHOWN])
            raise ConversionFailed(
                f"The checkpoint {checkpoint.name} is not of the published network: it {what} {len(names)} weights, "
                f"such as {shown}",
                hint="Fetch the checkpoint that the catalogue names. Nothing was published.",
            )
    network.load_state_dict(wanted | state)
    network.eval()


def to_ir(network: nn.Module, examples: Mapping[str, torch.Tensor], shapes: Sequence[Sequence[int]]) -> ov.Model:
    """The network as an OpenVINO model with inputs of these names. -1 in a shape is a size that may vary."""
    with warnings.catch_warnings(), torch.no_grad():
        # torch's tracer warns of what makes a trace differ from its network; `prove` looks whether it does.
        warnings.simplefilter("ignore")
        # OpenVINO would trace it more than once.
        traced = torch.jit.trace(network, tuple(examples.values()), check_trace=False)
        model = ov.convert_model(traced, input=[ov.PartialShape(list(shape)) for shape in shapes])
    for port, name in zip(model.inputs, examples, strict=True):
        port.set_names({name})
        port.node.set_friendly_name(name)
    return model


def answers_of(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Arrays:
    """What the network itself makes of the inputs."""
    with torch.no_grad():
        outputs = network(*inputs)
    return [one.numpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]


def read_back(xml: Path) -> ov.CompiledModel:
    """The model on disk, compiled in 32 bits. Raises VerificationFailed."""
    try:
        core = ov.Core()
        properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        return core.compile_model(core.read_model(xml), "CPU", properties)
    except RuntimeError as error:
        raise VerificationFailed(f"OpenVINO cannot open {xml.name}: {_first_line(error)}") from error


def prove(xml: Path, inputs: Arrays, expected: Arrays, *, tolerance: float) -> float:
    """Run what was written, and return by how much its answers are off, relative to the largest of each output.

    Raises VerificationFailed where that is more than the tolerance, or an answer is no number.
    """
    compiled = read_back(xml)
    try:
        answers = compiled(list(inputs))
    except RuntimeError as error:
        raise VerificationFailed(f"{xml.name} does not run: {_first_line(error)}") from error
    worst = 0.0
    for number, wanted in enumerate(expected):
        found = answers[number]
        if found.shape != wanted.shape or not np.isfinite(found).all():
            raise VerificationFailed(f"{xml.name} answers with something else than the network that it was made of")
        worst = max(worst, float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max()))))
    if worst > tolerance:
        raise VerificationFailed(f"{xml.name} answers differently than the network that it was made of: by {worst:.2g}")
    return worst


def carry(file: Path, to: Path) -> None:
    """Show a fetched file in the result: it is kept under its digest, so another name for it costs nothing."""
    if not file.is_file():
        raise OutputIncomplete(f"{file.name} was not fetched")
    to.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, to)


def _weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    if not checkpoint.is_file():
        raise OutputIncomplete(f"{checkpoint.name} was not fetched")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ConversionFailed(
            f"{checkpoint.name} holds something else than weights", hint="Nothing of it was run, nothing was published."
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ConversionFailed(f"{checkpoint.name} cannot be read: {_first_line(error)}") from error
    plain = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not plain:
        raise ConversionFailed(f"{checkpoint.name} holds something else than weights")
    return {str(name): value for name, value in state.items()}


def _counters(state: Mapping[str, torch.Tensor]) -> set[str]:
    """How often a normalisation was trained: older checkpoints do not tell, and no answer depends on it."""
    return {name for name in state if name.endswith(".num_batches_tracked")}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
