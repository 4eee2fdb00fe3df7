"""Saves models as OpenVINO does, byte for byte, but in threads: its own function lets nothing else run meanwhile.

OpenVINO writes the graph, which is quick, and its weights to nowhere. In the `.bin` file they lie one behind the other
in the order of the graph, those with equal bytes once. Where that does not hold for a model, OpenVINO saves it.
"""

import ctypes
import importlib.metadata
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13
from openvino._offline_transformations import compress_model_transformation

from common.log import SharedThreads
from worker.converters.openvino.direct_io import BLOCK_BYTES, DirectFile
from worker.converters.openvino.naming import name_plainly, save_reproducibly

_WRITTEN_FOR = "2026.4.1"
_CONSTANT = re.compile(
    r'(<layer id="\d+" name="[^"]*" type="Const" version="[^"]*">\s*<data [^>]*\boffset=")\d+(" size=")(\d+)(")'
)
_ANY_CONSTANT = ' type="Const" '
_FLOATS = frozenset({ov.Type.f32, ov.Type.f64})
_LARGE_BYTES = 64 * 1024
_SAMPLED_BYTES = 4096

Bytes = npt.NDArray[np.uint8]
Held = Mapping[int, npt.NDArray[np.int16]]
"""Numbers of bfloat16 by their addresses; in use elsewhere for as long as they are held here."""


class Saver:
    """Saves one model after the other, while its caller makes the next. Used as a context."""

    def __init__(self, saved: Callable[[Path, str | None], None]) -> None:
        """`saved` is told each graph that is complete on the disk, and the sha256 of its weights where it is known."""
        self._saved = saved
        self._begun: list[Future[None]] = []
        self._is_over = False
        self._saving = SharedThreads(1, thread_name_prefix="save")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over = kind is not None
        self._saving.shutdown(cancel_futures=self._is_over)

    def save(
        self,
        model: ov.Model,
        path: Path,
        *,
        compress_to_fp16: bool = False,
        halve: bool = False,
        lent: Collection[int] = (),
        owner: object = None,
    ) -> Future[None] | None:
        """Begin to save a model; None where it is saved already.

        With `compress_to_fp16` weights of 32 bits are saved in 16, and with `halve` those of bfloat16 as float16. The
        model may be changed afterwards, but its weights have to stay as they are until the future is done: what has
        their memory is the `owner`, and those at the addresses that are `lent` are copied. The future raises OSError.
        """
        name_plainly(model)
        plan = _planned(model, path, lent, owner, compress_to_fp16=compress_to_fp16, halve=halve)
        if plan is not None:
            self._begun.append(self._saving.submit(self._write, path, plan))
            return self._begun[-1]
        if halve:
            model = model.clone()
            _replace_bfloats(model, _halved)
        save_reproducibly(model, path, compress_to_fp16)
        self._saved(path, None)
        return None

    def settle(self) -> None:
        """Wait until no file is written any more, whatever became of them."""
        wait(self._begun)

    def _write(self, path: Path, plan: "_Plan") -> None:
        with DirectFile(path.with_suffix(".bin")) as file:
            for block in plan.blocks():
                if self._is_over:
                    return
                file.put(block)
        self._saved(path, file.sha256)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be in a `.bin` file, in this order."""

    owners: object
    """What has their memory."""
    weights: Sequence[Bytes]
    bfloats: Held
    """Those that are bfloat16 and become float16."""

    def blocks(self) -> Iterator[Bytes]:
        for weight in self.weights:
            is_bfloat = weight.ctypes.data in self.bfloats
            for start in range(0, weight.size, BLOCK_BYTES):
                block = weight[start : start + BLOCK_BYTES]
                yield _halved(block.view(np.int16)).view(np.uint8) if is_bfloat else block


def sizes_by_address(model: ov.Model) -> dict[int, int]:
    """How large the weights of a model are, in bytes, and where in memory."""
    return {node.data.ctypes.data: node.data.nbytes for node in _constants(model)}


def _planned(
    model: ov.Model, path: Path, lent: Collection[int], owner: object, *, compress_to_fp16: bool, halve: bool
) -> _Plan | None:
    """Write the graph, and say what its weights are; None, and no file, where OpenVINO has to do it."""
    if importlib.metadata.version("openvino") != _WRITTEN_FOR:
        return None
    constants = list(_constants(model))
    if any(node.get_element_type() == ov.Type.string for node in constants):
        return None
    if compress_to_fp16 and any(node.get_element_type() in _FLOATS and _is_large(node) for node in constants):
        # They would be converted in memory, all at once.
        return None
    bfloats: dict[int, Any] = {}
    if halve or compress_to_fp16:
        model = model.clone()
    if halve:
        # The large ones only pass for float16 until they are written. What is small may become equal to another one.
        _replace_bfloats(model, _halved, lambda node: not _is_large(node))
        _replace_bfloats(model, lambda numbers: _disguised(numbers, bfloats, lent))
    if compress_to_fp16:
        _compress(model)
    _write_graph(model, path)
    weights = _laid_out(path, [_bytes_of(node, lent) for node in _constants(model)], bfloats)
    if weights is None:
        path.unlink()
        return None
    return _Plan((model, owner), weights, bfloats)


def _compress(model: ov.Model) -> None:
    """Put float16 in the place of longer floats, under the names that OpenVINO gives them when it does so in saving."""
    before = [(node.get_element_type(), node.output(0).get_names()) for node in _constants(model)]
    compress_model_transformation(model)
    for (kind, names), node in zip(before, list(_constants(model)), strict=True):
        if node.get_element_type() != kind:
            node.output(0).get_tensor().set_names(names)
            for user in node.output(0).get_target_inputs():
                user.get_node().output(0).get_tensor().set_names(set())


def _write_graph(model: ov.Model, path: Path) -> None:
    """Let OpenVINO write what it writes but the weights, whose places it then does not know."""
    weights = path.with_suffix(".bin")
    weights.symlink_to(os.devnull)
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    finally:
        # OpenVINO removes what it could not complete.
        weights.unlink(missing_ok=True)


def _laid_out(path: Path, weights: Sequence[Bytes], bfloats: Held) -> Sequence[Bytes] | None:
    """Enter the places of the weights into a graph, and say in which order they are to be written.

    None where the graph is not as it was thought to be.
    """
    graph = path.read_bytes().decode()
    sizes = [int(found.group(3)) for found in _CONSTANT.finditer(graph)]
    if graph.count(_ANY_CONSTANT) != len(weights) or sizes != [weight.size for weight in weights]:
        return None
    places = _Places(bfloats)
    offsets = iter([places.of(weight) for weight in weights])
    graph = _CONSTANT.sub(lambda found: f"{found[1]}{next(offsets)}{found[2]}{found[3]}{found[4]}", graph)
    path.write_bytes(graph.encode())
    return places.taken


class _Places:
    """Where weights lie in a file: one behind the other, and those with equal bytes in one place."""

    def __init__(self, bfloats: Held) -> None:
        self.taken: list[Bytes] = []
        self._bfloats = bfloats
        self._end = 0
        self._alike: dict[object, list[tuple[Bytes, int]]] = {}

    def of(self, weight: Bytes) -> int:
        """The offset of a weight, in bytes."""
        sample = weight[:: max(1, weight.size // _SAMPLED_BYTES)].tobytes()
        alike = self._alike.setdefault((weight.size, weight.ctypes.data in self._bfloats, sample), [])
        for other, offset in alike:
            if other.ctypes.data == weight.ctypes.data or np.array_equal(other, weight):
                return offset
        offset = self._end
        alike.append((weight, offset))
        self.taken.append(weight)
        self._end += weight.size
        return offset


def _constants(model: ov.Model) -> Iterable[Any]:
    return (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")


def _bytes_of(node: Any, lent: Collection[int]) -> Bytes:
    weights: Bytes = np.atleast_1d(node.data).reshape(-1).view(np.uint8)
    return weights.copy() if weights.ctypes.data in lent else weights


def _is_large(node: Any) -> bool:
    return int(node.data.nbytes) >= _LARGE_BYTES


def _replace_bfloats(
    model: ov.Model,
    instead: Callable[[npt.NDArray[np.int16]], npt.NDArray[np.float16]],
    concerns: Callable[[Any], bool] = lambda _: True,
) -> None:
    """Put float16 in the place of weights of bfloat16."""
    for node in list(_constants(model)):
        if node.get_element_type() == ov.Type.bf16 and concerns(node):
            numbers = instead(node.data.view(np.int16))
            fresh = opset13.constant(numbers, name=node.get_friendly_name(), shared_memory=True)
            names = node.output(0).get_names()
            for user in node.output(0).get_target_inputs():
                user.replace_source_output(fresh.output(0))
            fresh.output(0).get_tensor().set_names(names)
    model.validate_nodes_and_infer_types()


def _halved(numbers: npt.NDArray[np.int16]) -> npt.NDArray[np.float16]:
    """Numbers of bfloat16 as float16, as torch makes them."""
    import torch  # noqa: PLC0415 - a model that is IR already needs none

    halved: npt.NDArray[np.float16] = torch.from_numpy(_writable(numbers)).view(torch.bfloat16).half().numpy()
    return halved


def _disguised(numbers: npt.NDArray[np.int16], held: dict[int, Any], lent: Collection[int]) -> npt.NDArray[np.float16]:
    """The same bytes as if they were float16."""
    if numbers.ctypes.data in lent:
        # Copied here and not later: they are known as bfloat16 by their address.
        numbers = numbers.copy()
    held[numbers.ctypes.data] = numbers
    return _writable(numbers).view(np.float16)


def _writable(numbers: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The same memory: OpenVINO and torch share no array that they may not write to, though here they never do."""
    memory = (ctypes.c_int16 * numbers.size).from_address(numbers.ctypes.data)
    return np.ctypeslib.as_array(memory).reshape(numbers.shape)
