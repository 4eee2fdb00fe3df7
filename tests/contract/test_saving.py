"""What saves models in threads, held against OpenVINO's own function, byte for byte."""

import errno
import hashlib
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from worker.converters.openvino import saving
from worker.converters.openvino.saving import Saver, sizes_by_address

RANDOM = np.random.default_rng(0)
WIDTH = 256
KEPT: list[object] = []
"""A tensor of OpenVINO does not hold the array that it was made of."""


def weights(kind: ov.Type, *shape: int, scale: float = 1.0) -> ov.Node:
    """Random numbers of a kind, under a name of their own."""
    if kind == ov.Type.u4:
        packed = RANDOM.integers(0, 256, int(np.prod(shape)) // 2, dtype=np.uint8)
        KEPT.append(packed)
        return opset13.constant(ov.Tensor(packed, ov.Shape(shape), kind))
    numbers = RANDOM.standard_normal(shape).astype(np.float32) * scale
    if kind == ov.Type.bf16:
        halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        KEPT.append(halves)
        return opset13.constant(ov.Tensor(halves.view(np.float16), ov.Shape(shape), kind))
    return opset13.constant(numbers.astype(kind.to_dtype()))


def model(*layers: ov.Node, extra: bool = True) -> ov.Model:
    """A graph that goes through square weights one after the other, with small constants between them."""
    given = opset13.parameter([-1, WIDTH], ov.Type.f32, name="given")
    flow = given
    for number, layer in enumerate(layers):
        layer.output(0).get_tensor().set_names({f"weight {number}"})
        square = layer if layer.get_element_type() == ov.Type.f32 else opset13.convert(layer, "f32")
        flow = opset13.matmul(flow, square, transpose_a=False, transpose_b=True)
        if extra:
            flow = opset13.add(flow, opset13.constant(np.full((1, WIDTH), 0.1, np.float32)))
            flow = opset13.reshape(flow, opset13.constant(np.array([-1, WIDTH])), special_zero=False)
    return ov.Model([opset13.result(flow)], [given], "plain")


def square(kind: ov.Type, **more: float) -> ov.Node:
    return weights(kind, WIDTH, WIDTH, **more)


def repeated() -> ov.Model:
    """One weight twice, the same bytes again elsewhere, and two that differ in one number only."""
    one = square(ov.Type.f16)
    same = opset13.constant(one.data.copy())
    almost = one.data.copy()
    almost[WIDTH // 2, 77] += 1
    return model(one, one, same, opset13.constant(almost), square(ov.Type.f16))


def with_nothing_in_it() -> ov.Model:
    """Constants without a number, as shapes of scalars are, before and behind weights."""
    given = opset13.parameter([1], ov.Type.f32, name="given")
    none = [opset13.constant(np.array([], np.int64)) for _ in "abc"]
    flow = opset13.multiply(opset13.reshape(given, none[0], special_zero=False), weights(ov.Type.f32, 64))
    flow = opset13.add(opset13.reshape(given, none[1], special_zero=False), flow)
    last = opset13.concat([opset13.constant(np.array([], np.float32)), flow], 0)
    return ov.Model([opset13.result(last), opset13.result(opset13.reshape(given, none[2], False))], [given], "empty")


def with_a_branch() -> ov.Model:
    """Constants within the bodies of an If, which stand elsewhere in the graph."""
    which = opset13.parameter([], ov.Type.boolean, name="which")
    given = opset13.parameter([1, WIDTH], ov.Type.f32, name="given")
    bodies = [ov.Model([opset13.result(opset13.constant(RANDOM.random((1, WIDTH)), ov.Type.f32))], []) for _ in "ab"]
    either = opset13.if_op(which)
    either.set_then_body(bodies[0])
    either.set_else_body(bodies[1])
    chosen = either.set_output(bodies[0].results[0], bodies[1].results[0])
    return ov.Model([opset13.result(opset13.add(given, chosen))], [which, given], "branch")


MODELS: dict[str, Callable[[], ov.Model]] = {
    "nothing": lambda: model(extra=False),
    "f32": lambda: model(square(ov.Type.f32), square(ov.Type.f32)),
    "f16": lambda: model(square(ov.Type.f16), square(ov.Type.f16)),
    "bf16": lambda: model(square(ov.Type.bf16), square(ov.Type.bf16)),
    "u8": lambda: model(square(ov.Type.u8, scale=40)),
    "u4": lambda: model(square(ov.Type.u4), square(ov.Type.u4)),
    "repeated": repeated,
    "branch": with_a_branch,
    "empty": with_nothing_in_it,
    "beyond float16": lambda: model(square(ov.Type.f32, scale=1e6), square(ov.Type.f16)),
}


def saved(given: ov.Model, path: Path, **how: bool) -> list[str | None]:
    told: list[str | None] = []
    with Saver(lambda _, sha256: told.append(sha256)) as saver:
        saving = saver.save(given, path, **how)
        if saving is not None:
            saving.result(timeout=30)
    return told


def pair(path: Path) -> tuple[str, bytes]:
    return path.read_text(), path.with_suffix(".bin").read_bytes()


@pytest.mark.parametrize("compress_to_fp16", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_both_files_are_those_of_openvino(tmp_path: Path, name: str, compress_to_fp16: bool) -> None:
    given = MODELS[name]()
    (sha256,) = saved(given, tmp_path / "ours.xml", compress_to_fp16=compress_to_fp16)
    ov.save_model(given, tmp_path / "theirs.xml", compress_to_fp16)
    assert pair(tmp_path / "ours.xml") == pair(tmp_path / "theirs.xml")
    assert sha256 in {None, hashlib.sha256(pair(tmp_path / "ours.xml")[1]).hexdigest()}


@pytest.mark.parametrize("name", ["f16", "bf16", "u8", "u4", "repeated"])
def test_the_digest_is_told_for_what_is_saved_in_threads(tmp_path: Path, name: str) -> None:
    (sha256,) = saved(MODELS[name](), tmp_path / "ours.xml")
    assert sha256 == hashlib.sha256((tmp_path / "ours.bin").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["f32", "branch"])
def test_openvino_saves_what_the_layout_is_not_known_of(tmp_path: Path, name: str) -> None:
    assert saved(MODELS[name](), tmp_path / "ours.xml", compress_to_fp16=True) == [None]


def test_bfloat16_becomes_float16_as_it_is_written(tmp_path: Path) -> None:
    import torch

    kinds = [square(ov.Type.bf16), square(ov.Type.bf16, scale=1e30), square(ov.Type.bf16, scale=1e-30)]
    small = weights(ov.Type.bf16, 1, WIDTH)
    given = model(*kinds, extra=False)
    halved = [torch.from_numpy(node.data.view(np.int16).copy()).view(torch.bfloat16).half().numpy() for node in kinds]
    expected = model(*map(opset13.constant, halved), extra=False)
    assert small.data.nbytes < saving._LARGE_BYTES <= kinds[0].data.nbytes
    before = [node.data.tobytes() for node in kinds]
    saved(given, tmp_path / "ours.xml", halve=True)
    ov.save_model(expected, tmp_path / "theirs.xml", compress_to_fp16=False)
    assert pair(tmp_path / "ours.xml")[1] == pair(tmp_path / "theirs.xml")[1]
    assert [node.data.tobytes() for node in kinds] == before
    read = ov.Core().read_model(tmp_path / "ours.xml")
    found = [node for node in read.get_ordered_ops() if node.get_type_name() == "Constant"]
    assert all(np.array_equal(node.data, numbers) for node, numbers in zip(found, halved, strict=True))


def test_bfloat16_that_is_lent_becomes_float16_too(tmp_path: Path) -> None:
    given = model(square(ov.Type.bf16), extra=False)
    saved(given, tmp_path / "own.xml", halve=True)
    with Saver(lambda *_: None) as saver:
        saver.save(given, tmp_path / "lent.xml", halve=True, lent=sizes_by_address(given))
    assert pair(tmp_path / "lent.xml") == pair(tmp_path / "own.xml")


def test_small_weights_that_become_equal_share_a_place(tmp_path: Path) -> None:
    import torch

    tiny = [weights(ov.Type.bf16, WIDTH, WIDTH // 8, scale=scale) for scale in (1e-30, 1e-20)]
    given = ov.Model([opset13.result(opset13.convert(node, "f32")) for node in tiny], [], "tiny")
    saved(given, tmp_path / "ours.xml", halve=True)
    halved = [torch.from_numpy(node.data.view(np.int16).copy()).view(torch.bfloat16).half().numpy() for node in tiny]
    assert np.array_equal(np.abs(halved[0]), np.abs(halved[1]))
    expected = ov.Model([opset13.result(opset13.convert(opset13.constant(one), "f32")) for one in halved], [], "tiny")
    ov.save_model(expected, tmp_path / "theirs.xml", compress_to_fp16=False)
    assert pair(tmp_path / "ours.xml")[1] == pair(tmp_path / "theirs.xml")[1]


def test_what_is_lent_may_be_overwritten_at_once(tmp_path: Path) -> None:
    mine = RANDOM.standard_normal((WIDTH, WIDTH)).astype(np.float16)
    given = model(opset13.constant(mine, shared_memory=True), extra=False)
    assert mine.ctypes.data in sizes_by_address(given)
    expected = mine.tobytes()
    release = threading.Event()
    with Saver(lambda *_: None) as saver:
        saver._saving.submit(release.wait)
        saver.save(given, tmp_path / "ours.xml", lent=sizes_by_address(given))
        mine[:] = 0
        release.set()
    assert expected in (tmp_path / "ours.bin").read_bytes()


def test_other_versions_of_openvino_save_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_WRITTEN_FOR", "1.0")
    assert saved(MODELS["f16"](), tmp_path / "ours.xml") == [None]
    ov.save_model(MODELS["nothing"](), tmp_path / "theirs.xml")


def test_a_full_disk_is_told_when_the_future_is_asked(tmp_path: Path) -> None:
    given = MODELS["f16"]()
    told: list[Path] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignoring = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Saver(lambda path, _: told.append(path)) as saver:
        resource.setrlimit(resource.RLIMIT_FSIZE, (WIDTH * WIDTH, limits[1]))
        try:
            writing = saver.save(given, tmp_path / "ours.xml")
            assert writing is not None
            error = writing.exception(timeout=30)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignoring)
    assert isinstance(error, OSError)
    assert error.errno == errno.EFBIG
    assert told == []


def test_a_failure_beside_it_ends_the_writing(tmp_path: Path) -> None:
    told: list[Path] = []
    release = threading.Event()

    class Slow:
        def blocks(self) -> Iterator[saving.Bytes]:
            yield np.ones(1000, np.uint8)
            assert release.wait(30)
            yield np.ones(1000, np.uint8)

    def fail() -> None:
        with Saver(lambda path, _: told.append(path)) as saver:
            saver._saving.submit(saver._write, tmp_path / "ours.xml", Slow())
            threading.Timer(0.2, release.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert told == []
    assert (tmp_path / "ours.bin").stat().st_size == 1000


def test_no_link_to_nowhere_is_left(tmp_path: Path) -> None:
    for name, given in MODELS.items():
        saved(given(), tmp_path / f"{name}.xml")
        assert not (tmp_path / f"{name}.bin").is_symlink()
    assert Path(os.devnull).is_char_device()
