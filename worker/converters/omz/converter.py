"""Makes the IR of public models of Open Model Zoo as its own tools would, and proves it."""

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor

from common.catalog.omz import CONVERTED, OmzOptions
from common.errors import InvalidParameters, OutputIncomplete
from common.plugins import Access, Attempt, Converter, Order
from common.spec import Evidence, Progress, Target
from common.vocabulary import Phase
from worker.converters.omz import mobilenet
from worker.networks import TOOLS, answers_of, carry, load_state, prove, to_ir

_CHECKPOINT = "mobilenet_v2-b0353104.pth"
_NAME = "mobilenet-v2-pytorch"
_TOLERANCES = {"FP16": 2e-2, "FP32": 1e-3}
"""How far an IR may be off, relative to its largest answer: rounded weights cost something."""
_OUR_NETWORKS = "1"
"""A change of the networks that are built here makes another number."""


class OmzConverter:
    """Converts what hub `omz` delivers as a checkpoint, and leaves the rest as it is."""

    def __init__(self, access: Access) -> None:
        del access

    def convert(
        self, model: Path, orders: Sequence[Order[OmzOptions]], attempt: Attempt
    ) -> tuple[Evidence | None, ...]:
        """Leave the files in the folder of the first order; there are no other forms of them. Safe to repeat.

        Raises ConversionFailed where the weights are not those of the published network, VerificationFailed where the
        IR answers differently, InvalidParameters, OutputIncomplete; or JobCancelled.
        """
        first, *others = orders
        shutil.rmtree(first.folder, ignore_errors=True)
        first.folder.mkdir(parents=True)
        attempt.progress(Progress(phase=Phase.CONVERTING))
        attempt.checkpoint()
        checkpoints = sorted(file for file in model.rglob(_CHECKPOINT) if file.is_file())
        if not checkpoints:
            raise OutputIncomplete(f"No checkpoint of {', '.join(sorted(CONVERTED))} was fetched")
        for file in sorted(file for file in model.rglob("*") if file.is_file() and file not in checkpoints):
            carry(file, first.folder / file.relative_to(model))
        checks: list[str] = []
        for checkpoint in checkpoints:
            attempt.checkpoint()
            into = first.folder / checkpoint.parent.relative_to(model)
            checks += _make_mobilenet(checkpoint, into, first.options.precision)
        return Evidence(engine="network", profile="default", checks=tuple(checks)), *(None for _ in others)

    def serve(self, folder: Path, name: str, target: Target, serving: Mapping[str, object]) -> None:
        """No model server is told about these models."""

    def register(self, folder: Path, name: str) -> None:
        """No model server lists these models."""

    def versions(self, options: OmzOptions) -> dict[str, str]:  # noqa: ARG002 - all precisions are made by the same
        """The tools whose versions decide the bytes of a result."""
        return {"networks": _OUR_NETWORKS} | {name: importlib.metadata.version(name) for name in TOOLS}


def _make_mobilenet(checkpoint: Path, into: Path, wanted: str | None) -> list[str]:
    precisions = [one for one in _TOLERANCES if wanted is None or one == wanted.upper()]
    if not precisions:
        raise InvalidParameters(f"'{_NAME}' is made in {' and '.join(_TOLERANCES)}, not in '{wanted}'")
    network = mobilenet.MobileNetV2()
    load_state(network, checkpoint)
    picture = torch.rand(mobilenet.SHAPE, generator=torch.Generator().manual_seed(0)) * 255
    expected = answers_of(network, [_normalised(picture)])
    checks = ["the weights fit the published network"]
    for precision in precisions:
        # Writing it down may change a model: each one is made anew.
        converted = _with_preparation(to_ir(network, {mobilenet.INPUT: picture}, [mobilenet.SHAPE]))
        xml = into / precision / f"{_NAME}.xml"
        ov.save_model(converted, xml, compress_to_fp16=precision == "FP16")
        worst = prove(xml, [picture.numpy()], expected, tolerance=_TOLERANCES[precision])
        checks.append(f"{precision} answers as the network does, within {worst:.1g}")
    return checks


def _with_preparation(model: ov.Model) -> ov.Model:
    """Let the model take pictures as cameras give them, as the zoo's own IR does: blue first, from 0 to 255."""
    prepared = PrePostProcessor(model)
    prepared.input().tensor().set_element_type(ov.Type.f32).set_layout(ov.Layout("NCHW"))
    prepared.input().model().set_layout(ov.Layout("NCHW"))
    steps = prepared.input().preprocess().reverse_channels()
    steps.mean(list(mobilenet.MEAN)).scale(list(mobilenet.SCALE))
    built = prepared.build()
    built.input().set_names({mobilenet.INPUT})
    built.output().set_names({mobilenet.OUTPUT})
    return built


def _normalised(picture: torch.Tensor) -> torch.Tensor:
    """What the network itself wants to see of such a picture."""
    mean, scale = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (mobilenet.MEAN, mobilenet.SCALE))
    return (picture.flip(1) - mean) / scale


_contract: type[Converter[OmzOptions]] = OmzConverter
