"""Makes the IR of the health and life sciences models, and proves it."""

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch

from common.catalog.hls import CHECKPOINT, NAMES, HlsOptions
from common.errors import InvalidParameters
from common.plugins import Access, Attempt, Converter, Order
from common.spec import Evidence, Progress, Target
from common.vocabulary import ModelType, Phase
from worker.converters.hls import keras, pose, rppg
from worker.networks import TOOLS, answers_of, carry, load_state, prove, read_back, to_ir

_TOLERANCE = 1e-3
_OUR_NETWORKS = "1"
"""A change of the networks that are built here makes another number."""
_KERAS = "mtts_can.hdf5"


class HlsConverter:
    """Converts what hub `hls` delivers. Needs no settings, no network, and loads no pickled programs."""

    def __init__(self, access: Access) -> None:
        del access

    def convert(
        self, model: Path, orders: Sequence[Order[HlsOptions]], attempt: Attempt
    ) -> tuple[Evidence | None, ...]:
        """Leave the model's files in the folder of the first order; there are no other forms of it. Safe to repeat.

        Raises ConversionFailed where the weights are not those of the published network, VerificationFailed where the
        IR answers differently, OutputIncomplete, InvalidParameters; or JobCancelled.
        """
        first, *others = orders
        make = _MAKERS.get(first.options.model_type)
        if make is None:
            raise InvalidParameters("Hub 'hls' has no model of this type")
        shutil.rmtree(first.folder, ignore_errors=True)
        first.folder.mkdir(parents=True)
        attempt.progress(Progress(phase=Phase.CONVERTING))
        attempt.checkpoint()
        checks = make(model, first.folder)
        attempt.progress(Progress(phase=Phase.CHECKING))
        return Evidence(engine="network", profile="default", checks=checks), *(None for _ in others)

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        """No model server is told about these models."""

    def register(self, folder: Path, name: str) -> None:
        """No model server lists these models."""

    def versions(self, options: HlsOptions) -> dict[str, str]:  # noqa: ARG002 - all types are made by the same
        """The tools whose versions decide the bytes of a result."""
        return {"networks": _OUR_NETWORKS} | {name: importlib.metadata.version(name) for name in TOOLS}


def _make_pose(model: Path, folder: Path) -> tuple[str, ...]:
    network = pose.PoseNetwork()
    load_state(network, model / CHECKPOINT, may_lack=pose.MAY_LACK)
    example = torch.rand(pose.SHAPE, generator=_same_numbers()) - 0.5
    converted = to_ir(network, {pose.INPUT: example}, [pose.SHAPE])
    return _written(converted, pose.OUTPUTS, network, [example], folder / "human-pose-estimation-3d-0001.xml")


def _make_rppg(model: Path, folder: Path) -> tuple[str, ...]:
    network = rppg.RppgNetwork()
    network.load_state_dict(keras.read_weights(model / _KERAS))
    network.eval()
    numbers = _same_numbers()
    shape = (rppg.FRAMES, rppg.PIXELS, rppg.PIXELS, rppg.COLOURS)
    examples = {name: torch.randn(shape, generator=numbers) for name in rppg.INPUTS}
    converted = to_ir(network, examples, [(-1, *shape[1:])] * len(examples))
    # Twice as many frames as were traced: what is shifted stays within its ten.
    frames = [torch.randn((2 * rppg.FRAMES, *shape[1:]), generator=numbers) for _ in examples]
    checks = _written(converted, rppg.OUTPUTS, network, frames, folder / "mtts_can.xml")
    carry(model / _KERAS, folder / _KERAS)
    return checks


def _make_ecg(model: Path, folder: Path) -> tuple[str, ...]:
    """What is IR already is opened and compiled once, and stays byte for byte as it came."""
    for name in NAMES[ModelType.AI_ECG]:
        for suffix in (".xml", ".bin"):
            carry(model / f"{name}{suffix}", folder / f"{name}{suffix}")
        read_back(folder / f"{name}.xml")
    return ("both models open and compile",)


_MAKERS: Mapping[ModelType | None, Callable[[Path, Path], tuple[str, ...]]] = {
    ModelType.POSE_3D: _make_pose,
    ModelType.RPPG: _make_rppg,
    ModelType.AI_ECG: _make_ecg,
}


def _written(
    converted: ov.Model,
    outputs: Sequence[str],
    network: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    xml: Path,
) -> tuple[str, ...]:
    for port, name in zip(converted.outputs, outputs, strict=True):
        port.set_names({name})
    # Not in 16 bits: nobody asked for another precision than the weights have.
    ov.save_model(converted, xml, compress_to_fp16=False)
    arrays: list[np.ndarray] = [one.numpy() for one in inputs]
    worst = prove(xml, arrays, answers_of(network, inputs), tolerance=_TOLERANCE)
    return ("the weights fit the published network", f"the IR answers as the network does, within {worst:.1g}")


def _same_numbers() -> torch.Generator:
    return torch.Generator().manual_seed(0)


_contract: type[Converter[HlsOptions]] = HlsConverter
