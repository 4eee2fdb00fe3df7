"""Lets nncf compress all weights of a kind with one compiled function, where it would compile one for each weight.

nncf keeps its functions from being used twice, because what a function returns lies in memory that its next call
overwrites. Here the results are copied, and each function has to prove itself on its second weight: where it does not
give the very bytes of a function made for that weight alone, nncf goes on as it would without us.
"""

import contextlib
import copy
import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import openvino as ov
from nncf.common.utils.caching import disable_results_caching
from nncf.openvino.optimized_functions import clear_ov_model_cache, models
from nncf.quantization.algorithms.weight_compression import algorithm
from nncf.quantization.algorithms.weight_compression import openvino_backend as backend
from nncf.tensor import Tensor, TensorBackend

log = logging.getLogger(__name__)

_WRITTEN_FOR = "3.4.0"
_OF_A_NODE = ("type", "metatype")
_OF_A_PATTERN = (*_OF_A_NODE, "label", "PATTERN_NODE_TO_EXCLUDE")
"""The attributes by which nodes are compared."""
_LARGE_BYTES = 32 * 1024 * 1024
"""A weight from this size on leaves no working memory behind for the next one."""


@contextmanager
def reused_functions() -> Iterator[None]:
    """Let nncf use its functions again meanwhile, if it is the nncf that this was written for."""
    if importlib.metadata.version("nncf") != _WRITTEN_FOR:
        yield
        return
    before = (models._infer_ov_model, backend.compress_weight, backend.disable_results_caching)  # noqa: SLF001
    again = _Again(infer=before[0], compress=before[1])
    clear_ov_model_cache()
    models._infer_ov_model = again.infer  # noqa: SLF001
    backend.compress_weight = again.compress
    backend.disable_results_caching = contextlib.nullcontext
    try:
        yield
    finally:
        models._infer_ov_model, backend.compress_weight, backend.disable_results_caching = before  # noqa: SLF001
        clear_ov_model_cache()


@contextmanager
def patterns_found_once() -> Iterator[None]:
    """Let nncf look for the same patterns in equal graphs once, where several forms are made of one model."""
    if importlib.metadata.version("nncf") != _WRITTEN_FOR:
        yield
        return
    before = algorithm.get_node_names_matching_graph_pattern
    algorithm.get_node_names_matching_graph_pattern = _FoundOnce(before)
    try:
        yield
    finally:
        algorithm.get_node_names_matching_graph_pattern = before


class _FoundOnce:
    """Remembers which nodes of a graph fit a pattern."""

    def __init__(self, find: Any) -> None:
        self._find = find
        self._found: dict[object, frozenset[str]] = {}

    def __call__(self, graph: Any, pattern: Any) -> set[str]:
        key = _shape(graph._nx_graph, _OF_A_NODE), _shape(pattern.graph, _OF_A_PATTERN)  # noqa: SLF001
        if key not in self._found:
            self._found[key] = frozenset(self._find(graph, pattern))
        return set(self._found[key])


def _shape(graph: Any, attributes: Sequence[str]) -> object:
    """All that decides whether a pattern fits: the nodes, what they are, and what is tied to what."""
    nodes = ((node, *(str(told.get(name)) for name in attributes)) for node, told in graph.nodes(data=True))
    return tuple(nodes), tuple(sorted(graph.edges()))


class _Again:
    """Stands between nncf and its compiled functions."""

    def __init__(self, infer: Any, compress: Any) -> None:
        self._infer = infer
        self._compress = compress
        self._calls: dict[int, int] = {}
        self._is_second_call = False
        self._is_sound = True

    def infer(self, parameters: Any, compiled: ov.CompiledModel, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call a compiled function, and keep what it returns safe from its next call."""
        keeping = copy.copy(parameters)
        keeping.release_memory = False
        outputs = [_copied(output) for output in self._infer(keeping, compiled, inputs)]
        if _bytes(inputs[0]) >= _LARGE_BYTES:
            compiled.release_memory()
        calls = self._calls[id(compiled)] = self._calls.get(id(compiled), 0) + 1
        self._is_second_call = self._is_second_call or calls == 2
        return outputs

    def compress(self, *weight: Any) -> Any:
        """Compress one weight, with a function that may have served others before."""
        if not self._is_sound:
            return self._alone(weight)
        self._is_second_call = False
        result = self._compress(*weight)
        if self._is_second_call:
            expected = self._alone(weight)
            if not _equal(result, expected):
                log.warning("nncf.reuse.unsound")
                self._is_sound = False
                return expected
        return result

    def _alone(self, weight: Sequence[Any]) -> Any:
        """Compress one weight as nncf does by itself."""
        models._infer_ov_model = self._infer  # noqa: SLF001
        try:
            with disable_results_caching(models.OV_MODEL_CACHE):
                return self._compress(*weight)
        finally:
            models._infer_ov_model = self.infer  # noqa: SLF001


def _copied(output: Tensor) -> Tensor:
    if output.backend != TensorBackend.ov:
        return Tensor(np.array(output.data))
    copied = ov.Tensor(output.data.get_element_type(), output.data.get_shape())
    output.data.copy_to(copied)
    return Tensor(copied)


def _equal(one: Any, other: Any) -> bool:
    """Whether two compressed weights are the same, bit by bit."""
    return all(
        _content(getattr(one, part)) == _content(getattr(other, part))
        for part in ("tensor", "scale", "zero_point", "global_scale", "codebook")
    )


def _content(tensor: Tensor | None) -> tuple[object, ...]:
    if tensor is None:
        return ()
    return tuple(tensor.shape), str(tensor.dtype), bytes(np.ascontiguousarray(tensor.data.data).view(np.uint8))


def _bytes(tensor: Tensor) -> int:
    data = tensor.data
    return int(data.get_byte_size() if isinstance(data, ov.Tensor) else data.nbytes)
