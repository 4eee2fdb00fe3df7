"""Lets nncf compress all weights of a kind with one compiled function, where it would compile one for each weight.

nncf keeps its functions from being used twice, because what a function returns lies in memory that its next call
overwrites. Here the results are copied, and each function has to prove itself on its second weight: where it does not
give the very bytes of a function made for that weight alone, nncf goes on as it would without us.

Such a function hardly uses more than one core, and its working memory is several times the weight. So a weight is
given to it in blocks of rows, which have nothing to do with each other, several of them at a time; and those of the
next weights already, while nncf builds the last one into the model.
"""

import contextlib
import copy
import importlib.metadata
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from itertools import pairwise
from math import ceil, prod
from typing import Any

import numpy as np
import openvino as ov
from nncf.common.utils.caching import disable_results_caching
from nncf.openvino.graph.node_utils import get_const_value_as_ov_tensor
from nncf.openvino.optimized_functions import clear_ov_model_cache, models
from nncf.quantization.algorithms.weight_compression import openvino_backend as backend
from nncf.quantization.algorithms.weight_compression.parameters import CompressedWeight
from nncf.tensor import Tensor, TensorBackend

from common.log import SharedThreads
from worker.converters.openvino.compiling import own_threads

log = logging.getLogger(__name__)

_WRITTEN_FOR = "3.4.0"
_LARGE_BYTES = 32 * 1024 * 1024
"""What is compressed in one piece leaves no working memory behind from this size on."""
_BLOCK = 1024 * 1024
"""Numbers in a block: few enough to stay in a core's cache, enough for the way of a call not to count."""
_LEAST_BLOCK = 64 * 1024
"""nncf has no functions for weights of less than 10,000 numbers, but another arithmetic."""
_AHEAD = 4
"""So many blocks may wait for each lane."""
_MOST_LANES = 8


@contextmanager
def reused_functions() -> Iterator[None]:
    """Let nncf use its functions again meanwhile, if it is the nncf that this was written for."""
    if importlib.metadata.version("nncf") != _WRITTEN_FOR:
        yield
        return
    before = [getattr(place, name) for place, name in _PLACES]
    lanes = min(own_threads(), _MOST_LANES)
    with SharedThreads(lanes, thread_name_prefix="compress") as pool:
        again = _Again(*before, pool=pool, lanes=lanes)
        clear_ov_model_cache()
        for (place, name), instead in zip(_PLACES, again.instead(), strict=True):
            setattr(place, name, instead)
        try:
            yield
        finally:
            for (place, name), function in zip(_PLACES, before, strict=True):
                setattr(place, name, function)
            clear_ov_model_cache()


_PLACES: Sequence[tuple[Any, str]] = (
    (models, "_infer_ov_model"),
    (models, "_compile_ov_model"),
    (backend, "compress_weight"),
    (backend.OVWeightCompressionAlgoBackend, "transform_model"),
    (backend, "disable_results_caching"),
)
"""Where nncf calls a function, compiles one, has one weight compressed, has all, and uses no function twice."""


class _Again:
    """Stands between nncf and its compiled functions."""

    def __init__(
        self, infer: Any, compile_model: Any, compress: Any, transform: Any, _: Any, *, pool: SharedThreads, lanes: int
    ) -> None:
        self._infer = infer
        self._compile = compile_model
        self._compress = compress
        self._transform = transform
        self._pool = pool
        self._lanes = lanes
        self._own = threading.local()
        self._calls: dict[int, int] = {}
        self._is_second_call = False
        self._is_sound = True
        self._proven: set[object] = set()
        self._upcoming: dict[int, Sequence[Any]] = {}
        """What will be asked for, in this order, by the addresses of the weights."""
        self._begun: dict[int, list[Future[Any]]] = {}

    def instead(self) -> Sequence[Any]:
        """What takes the places."""

        def transform(entity: Any, model: Any, graph: Any, wanted: Iterable[Any], *more: Any, **named: Any) -> Any:
            wanted = list(wanted)
            # What was found out before about the weights is nncf's own affair.
            self._upcoming = {} if any(more[:1]) else _upcoming(entity, wanted)
            return self._transform(entity, model, graph, wanted, *more, **named)

        return self.infer, self.compile, self.compress, transform, contextlib.nullcontext

    def compile(self, model: ov.Model, device_name: str, config: dict[Any, Any]) -> ov.CompiledModel:
        """Compile a function so that every lane may call it at the same time."""
        return self._compile(model, device_name, {**config, "NUM_STREAMS": self._lanes})

    def infer(self, parameters: Any, compiled: ov.CompiledModel, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call a compiled function, and keep what it returns safe from its next call."""
        keeping = copy.copy(parameters)
        keeping.release_memory = False
        outputs = [_copied(output) for output in self._infer(keeping, self._in_this_lane(compiled), inputs)]
        if _bytes(inputs[0]) >= _LARGE_BYTES:
            compiled.release_memory()
        calls = self._calls[id(compiled)] = self._calls.get(id(compiled), 0) + 1
        self._is_second_call = self._is_second_call or calls == 2
        return outputs

    def compress(self, weight: Tensor, axes: Any, config: Any, *more: Any) -> Any:
        """Compress one weight, with a function that may have served others before."""
        whole = (weight, axes, config, *more)
        address = _address(weight)
        self._upcoming.pop(address, None)
        done: list[Any] = []
        begun = self._begun.pop(address, None)
        if begun is None:
            blocks = self._blocks(*whole)
            while self._is_sound and len(done) < len(blocks) and _kind(*whole) not in self._proven:
                done.append(self._proving((blocks[len(done)], axes, config, *more), _kind(*whole)))
            if not self._is_sound:
                return self._alone(whole)
            begun = self._begin(blocks[len(done) :], axes, config, *more)
            if _bytes(blocks[0]) >= _LARGE_BYTES:
                # It lets go of the function's working memory, which others would be using.
                wait(begun)
        self._begin_next()
        done += [block.result() for block in begun]
        return done[0] if len(done) == 1 else _joined(done)

    def _begin(self, blocks: Sequence[Tensor], *how: Any) -> list[Future[Any]]:
        return [self._pool.submit(self._compress, block, *how) for block in blocks]

    def _begin_next(self) -> None:
        """Keep the lanes busy with what comes next, as far as it is for functions that have proven themselves."""
        while self._upcoming and self._waiting() < _AHEAD * self._lanes:
            address, whole = next(iter(self._upcoming.items()))
            blocks = self._blocks(*whole)
            if _kind(*whole) not in self._proven or _bytes(blocks[0]) >= _LARGE_BYTES:
                return
            del self._upcoming[address]
            self._begun[address] = self._begin(blocks, *whole[1:])

    def _waiting(self) -> int:
        return sum(not block.done() for blocks in self._begun.values() for block in blocks)

    def _blocks(self, weight: Tensor, *how: Any) -> list[Tensor]:
        return _blocks(weight, self._lanes) if _goes_by_rows(weight, *how) else [weight]

    def _proving(self, weight: Sequence[Any], kind: object) -> Any:
        """Compress one weight here and now, and hold it against nncf's own result where that is due."""
        self._is_second_call = False
        result = self._compress(*weight)
        if self._is_second_call:
            expected = self._alone(weight)
            if not _equal(result, expected):
                log.warning("nncf.reuse.unsound")
                self._is_sound = False
                self._upcoming.clear()
                return expected
            self._proven.add(kind)
        return result

    def _in_this_lane(self, compiled: ov.CompiledModel) -> "_Function":
        """The function with a request that belongs to this thread."""
        functions: dict[int, _Function] = self._own.__dict__.setdefault("functions", {})
        if id(compiled) not in functions:
            functions[id(compiled)] = _Function(compiled)
        return functions[id(compiled)]

    def _alone(self, weight: Sequence[Any]) -> Any:
        """Compress one weight as nncf does by itself."""
        models._infer_ov_model = self._infer  # noqa: SLF001
        models._compile_ov_model = self._compile  # noqa: SLF001
        try:
            with disable_results_caching(models.OV_MODEL_CACHE):
                return self._compress(*weight)
        finally:
            models._infer_ov_model = self.infer  # noqa: SLF001
            models._compile_ov_model = self.compile  # noqa: SLF001


class _Function:
    """A compiled function as nncf's own code sees it."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        # Held, for it is known by its id, which another one could have after it.
        self.compiled = compiled
        self.inputs = compiled.inputs
        self._infer_request = compiled.create_infer_request()


def _upcoming(entity: Any, wanted: Iterable[Any]) -> dict[int, Sequence[Any]]:
    """The weights, with how each is to be compressed, by their addresses."""
    found: dict[int, Sequence[Any]] = {}
    for one in wanted:
        told = one.node_with_weight.layer_attributes.constant_attributes[one.weight_port_id]
        weight = Tensor(get_const_value_as_ov_tensor(entity.name_to_node_mapping[told["name"]]))
        found[_address(weight)] = weight, one.reduction_axes, one.compression_config
    return found


def _kind(weight: Tensor, axes: Any, config: Any, *_: Any) -> object:
    """All that nncf makes different functions for."""
    return weight.dtype, len(weight.shape), axes, config


def _address(weight: Tensor) -> int:
    data = weight.data
    return int((data.data if isinstance(data, ov.Tensor) else data).ctypes.data)


def _goes_by_rows(weight: Tensor, axes: Any, config: Any, precomputed: Any = None) -> bool:
    """Whether each row of a weight is compressed by itself."""
    reduced = axes if isinstance(axes, Sequence) else (axes,)
    is_plain = config.is_integer and precomputed is None and weight.backend == TensorBackend.ov
    return is_plain and len(weight.shape) > 1 and all(axis % len(weight.shape) for axis in reduced)


def _blocks(weight: Tensor, lanes: int) -> list[Tensor]:
    """The rows of a weight in blocks of about equal size, as many for each lane."""
    rows, *others = weight.shape
    size = rows * prod(others)
    count = min(lanes * ceil(size / (_BLOCK * lanes)), size // _LEAST_BLOCK)
    if count < 2:
        return [weight]
    # Two numbers of four bits share a byte, so no block may end within one.
    ends = [2 * (rows * number // (2 * count)) for number in range(count)] + [rows]
    data, kind = weight.data.data, weight.data.get_element_type()
    parts = [data[first:end] for first, end in pairwise(ends) if first < end]
    return [Tensor(ov.Tensor(part, ov.Shape(part.shape), kind)) for part in parts]


def _joined(blocks: Sequence[Any]) -> CompressedWeight:
    """The compressed weight of its blocks' rows."""
    tensor, scale, zero_point = (
        [getattr(block, part) for block in blocks] for part in ("tensor", "scale", "zero_point")
    )
    # As nncf itself keeps numbers of four bits: the model then takes them as they are, and makes no copy.
    kept = ov.Type.u8 if zero_point[0] is not None and tensor[0].backend != TensorBackend.ov else None
    return CompressedWeight(_stacked(tensor, kept), _stacked(scale), _stacked(zero_point))


def _stacked(parts: Sequence[Tensor | None], kept: ov.Type | None = None) -> Tensor | None:
    """All rows of the parts; in OpenVINO's memory if they are there, or are to be `kept` there."""
    first = parts[0]
    if first is None:
        return None
    datas = [part.data for part in parts if part is not None]
    if first.backend == TensorBackend.ov:
        kept, datas = first.data.get_element_type(), [data.data for data in datas]
    elif kept is None:
        return Tensor(np.concatenate(datas))
    rows = sum(part.shape[0] for part in parts if part is not None)
    whole = ov.Tensor(kept, ov.Shape([rows, *first.shape[1:]]))
    np.concatenate(datas, out=whole.data)
    return Tensor(whole)


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
