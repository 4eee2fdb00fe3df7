"""What every probe has: the model it is about, the original in torch, and the graphs of the conversion."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openvino as ov
import torch
from torch import nn

from common.catalog.openvino import OpenVINOOptions
from worker.converters.openvino.similarity.comparing import Answer, Array

# What the file says, as exactly as it can be computed: no rounding to 16 bits, no activations in 8, no KV cache in 8.
EXACT = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}

_NARROW = {torch.bfloat16, torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model, its conversion, and how many questions they are asked."""

    model: Path
    folder: Path
    options: OpenVINOOptions
    trusted: bool
    samples: int
    vocoder: Path | None = None
    """Where the source of what turns spectrograms into sound lies, if not in the model's own folder for it."""

    @property
    def local(self) -> dict[str, Any]:
        """How transformers finds what it loads of the model."""
        return {"local_files_only": True, "trust_remote_code": self.trusted}

    def load(self, kind: Any) -> "Original":
        """The source, loaded by this class of transformers."""
        more = {} if self.options.variant is None else {"variant": self.options.variant}
        return Original(kind.from_pretrained(self.model, dtype="auto", weights_only=True, **self.local, **more))

    def graph(self, name: str, change: Callable[[ov.Model], None] | None = None) -> "Graph":
        """A part of the conversion, ready to run."""
        model = ov.Core().read_model(self.folder / f"{name}.xml")
        if change is not None:
            change(model)
        return Graph(model)


class Probe(Protocol):
    """Asks one type of model. Both sides are asked the same, in the same order."""

    def __init__(self, subject: Subject) -> None: ...

    def original(self) -> Iterator[Answer]:
        """What the source answers. It is in memory only until the last answer is taken."""

    def converted(self) -> Iterator[Answer]:
        """What the conversion answers."""


class Original:
    """A model of torch that computes in 32 bits, with its weights left as they are in the file."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self._hooks = widen(model)

    def ask(self, *, through: Callable[..., Any] | None = None, **inputs: Any) -> Any:
        """What the model answers, or a function that asks its parts."""
        question = self.model if through is None else through
        try:
            return question(**inputs)
        except RuntimeError:
            if not self._hooks:
                raise
            # Some modules compute with the weights of others; then all have to be wide at once.
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self.model.float()
            return question(**inputs)

    def known(self, given: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """What the model takes of this: some tokenizers and processors give more."""
        taken = inspect.signature(self.model.forward).parameters
        return {name: torch.from_numpy(values) for name, values in given.items() if name in taken}


class Graph:
    """A graph of OpenVINO that forgets each question before the next."""

    def __init__(self, model: ov.Model) -> None:
        # Compiling gives the ports more names than they have in the file.
        self._inputs = [(port.get_names(), port) for port in model.inputs]
        self._outputs = [port.get_names() for port in model.outputs]
        self._request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()

    def ask(self, given: Mapping[str, Array], length: int = 1) -> dict[str, Array]:
        """The outputs, each by all of its names."""
        answers = zip(self._outputs, self.answers(given, length), strict=True)
        return {name: answer for names, answer in answers for name in names}

    def answers(self, given: Mapping[str, Array], length: int = 1) -> list[Array]:
        """The outputs in their order. What is not given is as at the start of a text of `length` tokens."""
        self._request.reset_state()
        self._request.infer([_fed(names, port, given, length) for names, port in self._inputs])
        return [np.array(self._request.get_output_tensor(place).data) for place in range(len(self._outputs))]


def array(tensor: torch.Tensor) -> Array:
    """What a model of torch has said, as numpy has it."""
    values: Array = _wide(tensor).numpy()
    return values


def widen(model: nn.Module) -> list[Any]:
    """Let each module have weights of 32 bits while it works, and only then. Returns what undoes it."""
    hooks: list[Any] = []
    for module in model.modules():
        if not any(_is_narrow(weight) for _, weight in _weights(module)):
            continue
        if type(module) is nn.Embedding:
            # A row looked up and widened is the same as a row of the widened table, and the table is large.
            hooks.append(module.register_forward_hook(lambda _module, _inputs, output: _wide(output)))
            continue
        narrow = _Narrow()
        hooks.append(module.register_forward_pre_hook(narrow.leave, with_kwargs=True))
        hooks.append(module.register_forward_hook(narrow.come_back))
    return hooks


class _Narrow:
    """Keeps the weights of one module as they are in the file."""

    def __init__(self) -> None:
        self._stored: list[tuple[str, torch.Tensor]] = []

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Before the module works: put wide weights in the place of the narrow ones, and widen what it is given."""
        self._stored = [(name, weight) for name, weight in _weights(module) if _is_narrow(weight)]
        for name, weight in self._stored:
            is_parameter = isinstance(weight, nn.Parameter)
            setattr(module, name, nn.Parameter(weight.float(), requires_grad=False) if is_parameter else weight.float())
        return tuple(_wide(value) for value in inputs), {name: _wide(value) for name, value in named.items()}

    def come_back(self, module: nn.Module, _inputs: object, _output: object) -> None:
        """After the module has worked."""
        for name, weight in self._stored:
            setattr(module, name, weight)
        self._stored = []


def _weights(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The module's own, without those of its parts."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _is_narrow(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _NARROW


def _wide(value: Any) -> Any:
    return value.float() if _is_narrow(value) else value


def _fed(names: set[str], port: ov.Output, given: Mapping[str, Array], length: int) -> Array:
    kind = port.get_element_type().to_dtype()
    for name in names & given.keys():
        return given[name].astype(kind)
    sizes = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    if names & {"position_ids", "cache_position"}:
        # Some models count positions in several directions; for plain text they are all the same.
        return np.broadcast_to(np.arange(length, dtype=kind), (*(size or 1 for size in sizes[:-1]), length))
    is_past = any(name.startswith("past_key_values") for name in names)
    shape = [((0 if is_past else length) if place else 1) if size is None else size for place, size in enumerate(sizes)]
    return np.ones(shape, kind) if any(name.endswith("mask") for name in names) else np.zeros(shape, kind)
