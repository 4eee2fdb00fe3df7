"""Converts detectors of transformers, which upstream has no exporter for."""

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from optimum.intel import OVWeightQuantizationConfig
from optimum.intel.openvino.quantization import _weight_only_quantization
from transformers import AutoConfig, AutoModelForObjectDetection

from common.catalog.openvino import OpenVINOOptions
from common.errors import InvalidParameters, UnsupportedModel
from common.plugins import Order
from common.vocabulary import Precision
from worker.converters.openvino import strict
from worker.converters.openvino.completeness import complete_weights
from worker.converters.openvino.documents import read_json
from worker.converters.openvino.fast import write_settings
from worker.converters.openvino.faults import option_errors
from worker.converters.openvino.naming import save_reproducibly
from worker.converters.openvino.paths import Site
from worker.converters.openvino.reuse import reused_functions
from worker.converters.openvino.steps import Steps

MODEL = "openvino_model.xml"
TASK = "object-detection"
OUTPUTS = ("logits", "pred_boxes")

_CHANNELS = 3
_USUAL_SIDE = 800
_PREPROCESSOR = "preprocessor_config.json"
_MASK = "create_bidirectional_mask"


def export(site: Site, order: Order[OpenVINOOptions], steps: Steps) -> None:
    """Write the IR of a detector: any number of pictures of one size in, logits and boxes out.

    Raises UnsupportedModel or InvalidParameters, and whatever the tools raise.
    """
    settings = _settings(site, order)
    with steps.step("load"), complete_weights(TASK):
        detector = AutoModelForObjectDetection.from_pretrained(
            site.model, local_files_only=True, trust_remote_code=site.trusted, dtype=torch.float32
        )
    with steps.step("convert"):
        model = _traced(detector, picture_size(site.model))
    if settings is not None:
        with steps.step("compress"), reused_functions(), option_errors():
            model = _weight_only_quantization(model, settings)
        write_settings(order.folder, settings)
    with steps.step("save"):
        save_reproducibly(model, order.folder / MODEL, order.target.precision is Precision.FP16)
        detector.config.save_pretrained(order.folder)


def picture_size(model: Path) -> tuple[int, int]:
    """Height and width, in pixels, of the pictures that a detector's preprocessor makes.

    Where it keeps the proportions of a picture, that is the largest that may lie down: shortest by longest edge.
    """
    own = getattr(AutoConfig.from_pretrained(model, local_files_only=True), "image_size", None)
    told = read_json(model / _PREPROCESSOR).get("size")
    match own, told:
        case [int(height), int(width)], _:
            return height, width
        case int(side), _:
            return side, side
        case _, {"height": int(height), "width": int(width)}:
            return height, width
        case _, {"shortest_edge": int(shortest), "longest_edge": int(longest)}:
            return shortest, longest
        case _, int(side) | {"shortest_edge": int(side)}:
            return side, side
        case _:
            return _USUAL_SIDE, _USUAL_SIDE


class _Detector(torch.nn.Module):  # type: ignore[misc]  # torch is not looked into here
    """A detector that takes pictures only, and gives what a reader of its boxes needs."""

    def __init__(self, detector: torch.nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = self.detector(pixel_values=pixel_values)
        return tuple(getattr(answer, name) for name in OUTPUTS)


def _traced(detector: Any, size: tuple[int, int]) -> ov.Model:
    pictures = torch.rand(2, _CHANNELS, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _nothing_masked(detector):
        model = ov.convert_model(
            _Detector(detector.eval()),
            example_input={"pixel_values": pictures},
            input=[("pixel_values", ov.PartialShape([-1, _CHANNELS, *size]), ov.Type.f32)],
        )
    if len(model.outputs) != len(OUTPUTS):
        raise UnsupportedModel(f"This detector gives {len(model.outputs)} outputs, not {' and '.join(OUTPUTS)}")
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(importlib.metadata.version("transformers"), ["optimum", "transformers_version"])
    return model


@contextmanager
def _nothing_masked(detector: torch.nn.Module) -> Iterator[None]:
    """Pictures that fill their frame need no mask, and the making of one cannot be traced."""
    modules = {sys.modules[type(part).__module__] for part in detector.modules()}
    masking = {module: getattr(module, _MASK) for module in modules if hasattr(module, _MASK)}
    for module in masking:
        setattr(module, _MASK, lambda *_, **__: None)
    try:
        yield
    finally:
        for module, function in masking.items():
            setattr(module, _MASK, function)


def _settings(site: Site, order: Order[OpenVINOOptions]) -> OVWeightQuantizationConfig | None:
    """How the weights are compressed, in upstream's words. Raises InvalidParameters for what this cannot do."""
    if order.options.quant_mode is not None or order.options.dataset is not None:
        raise InvalidParameters("The weights of a detector can be compressed, but it cannot be calibrated with data")
    settings = strict.planned(site, order)["ov_config"].quantization_config
    if settings is not None and not isinstance(settings, OVWeightQuantizationConfig):
        raise InvalidParameters(f"The weights of a detector cannot be compressed to {order.target.precision}")
    return settings
