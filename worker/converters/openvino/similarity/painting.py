"""Asks the parts of an image generator, each for itself: what they make of noise tells more than a finished picture."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline
from optimum.exporters.openvino.convert import get_diffusion_models_for_export_ext
from optimum.exporters.openvino.utils import deduce_diffusers_dtype
from torch.utils._pytree import tree_leaves

from worker.converters.openvino.similarity.comparing import Answer, Array
from worker.converters.openvino.similarity.probing import Original, Subject, array

_SIDE = 16
"""Of latents: enough for every scale of the usual painters, and cheap."""


class Painter:
    """Asks every part that was converted. Optimum knows which those are, and what each of them takes."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._questions: dict[str, list[dict[str, Array]]] = {}

    def original(self) -> Iterator[Answer]:
        subject = self._subject
        pipeline = cast("Any", DiffusionPipeline).from_pretrained(
            subject.model,
            torch_dtype=deduce_diffusers_dtype(subject.model, variant=subject.options.variant),
            variant=subject.options.variant,
            local_files_only=True,
        )
        _, parts = get_diffusion_models_for_export_ext(pipeline, exporter="openvino")
        for name, (module, config) in parts.items():
            original = Original(module)
            for number in range(subject.samples):
                given = _made_up(config, number)
                self._questions.setdefault(name, []).append(_flat(given))
                with config.patch_model_for_export(module):
                    said = original.ask(**given)
                yield _said(name, [array(value) for value in tree_leaves(list(said.values()))])

    def converted(self) -> Iterator[Answer]:
        for name, questions in self._questions.items():
            graph = self._subject.graph(f"{name}/openvino_model")
            for given in questions:
                yield _said(name, graph.answers(given))


def _made_up(config: Any, number: int) -> dict[str, Any]:
    """Noise in the places and sizes that a part expects, as small as it takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        given = config.generate_dummy_inputs(framework="pt", batch_size=1, height=_SIDE, width=_SIDE)
    given = config.rename_ambiguous_inputs(given)
    return {name: _small(value) for name, value in given.items() if value is not None}


def _small(value: Any) -> Any:
    is_latent = isinstance(value, torch.Tensor) and value.ndim == 4
    return value[:, :, :_SIDE, :_SIDE] if is_latent and value.shape[1] > 3 else value


def _flat(given: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as a graph knows them: those in a group go by their own names."""
    flat: dict[str, Array] = {}
    for name, value in given.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: array(value)}
    return flat


def _said(part: str, values: list[Array]) -> Answer:
    floats = [value for value in values if np.issubdtype(value.dtype, np.floating)]
    return Answer(vectors={f"{part} {place}": value for place, value in enumerate(floats)})
