"""What may be asked of Ultralytics' official models. Weights and library are AGPL-3.0: the operator opts in."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from common.errors import InvalidSpec
from common.plugins import ConverterPlugin, HubPlugin
from common.spec import MemoryRule, Spec, Target
from common.vocabulary import Format, ModelType, Precision

LICENCE = "AGPL-3.0"

PROFILE = "ultralytics"
"""The Python environment that has the library. The worker's own has not: see docs/hubs/ultralytics.md."""
PACKAGES = {
    "matplotlib": "3.11.2",
    "opencv-python-headless": "5.0.0.93",
    "torchvision": "0.28.0",
    "ultralytics": "8.4.190",
}
"""The packages of that environment whose releases decide what an export comes to. All are in constraints-*.txt."""

CALIBRATION = "calibration"
"""The folder, beside the weights, of the pictures that an INT8 model is calibrated with."""

Task = Literal["classify", "detect", "obb", "pose", "segment"]

_NAMES = Path(__file__).parent / "data" / "ultralytics.json"
_SUFFIX = ".pt"
_DETECTION: Task = "detect"
_EVERY, _EVERY_DETECTOR = "all", "yolo_all"
_GB = 1024**3


class UltralyticsOptions(Spec, frozen=True):
    """How to export."""

    quantize: Literal["", "coco", "coco8", "coco128"] | None = None
    """Also make an INT8 model, calibrated with these pictures. Some clients send an empty text for none."""
    extra: dict[str, object] = {}
    """What a client sent that an export has no use for."""

    def __post_init__(self) -> None:
        if not self.quantize:
            msgspec.structs.force_setattr(self, "quantize", None)


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of the options decides the exported bytes; whatever else there is changes nothing."""

    quantize: Literal["coco", "coco8", "coco128"] | None = None


class NoServing(Spec, frozen=True):
    """A model server is told nothing of these models."""


class OfficialModel(Spec, frozen=True):
    """One of the models that Ultralytics offers weights for."""

    name: str
    family: str
    task: Task


@functools.cache
def official_models() -> Mapping[str, OfficialModel]:
    """All of them by name, in the order of their names; scripts/dump_ultralytics.py has taken them from the library."""
    models = msgspec.json.decode(_NAMES.read_bytes(), type=list[OfficialModel])
    return {model.name: model for model in models}


def names_in(wish: str) -> tuple[str, ...]:
    """The models that a request's name means, each once: one, several with commas, or one of the words for many.

    A name may end with `.pt`. Nobody has looked yet whether there is such a model.
    """
    models = official_models()
    if wish == _EVERY:
        return tuple(models)
    if wish == _EVERY_DETECTOR:
        return tuple(name for name, model in models.items() if model.task == _DETECTION)
    return tuple(dict.fromkeys(name.removesuffix(_SUFFIX) for name in wish.split(",")))


def _place(name: str, _revision: str | None, _options: UltralyticsOptions) -> str:
    return f"ultralytics/public/{name.removesuffix(_SUFFIX)}"


def _memory(_target: Target, options: Mapping[str, object]) -> MemoryRule:
    # As measured from yolov8n to yolov8x. The archive of pictures weighs nothing there, but counts as source.
    if options.get("quantize") == "coco":
        return MemoryRule(base_bytes=4 * _GB, per_byte=0)
    return MemoryRule(base_bytes=_GB, per_byte=12)


def _normalise(_type: ModelType | None, _device: str, _config: Mapping[str, object]) -> NoReturn:
    raise InvalidSpec("The export of hub 'ultralytics' belongs to its downloads and cannot be asked for by itself")


ULTRALYTICS = HubPlugin(
    name="ultralytics",
    description=f"Fetches Ultralytics' official weights and exports them to OpenVINO. Licence: {LICENCE}.",
    options=UltralyticsOptions,
    formats=frozenset({Format.PYTORCH}),
    implementation="worker.hubs.ultralytics:UltralyticsHub",
    folder="ultralytics/public",
    name_pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    settings=frozenset(
        {"MODELFERRY_PROFILES", "ULTRALYTICS_ASSETS_URL", "ULTRALYTICS_COCO_URL", "ULTRALYTICS_RELEASES_URL"}
    ),
    listing_filters=frozenset({"search"}),
    several=frozenset({_EVERY, _EVERY_DETECTOR}),
    place=_place,
    finish=lambda _name, _options: PROFILE,
    opt_in=True,
)

EXPORT = ConverterPlugin(
    name="ultralytics",
    description=f"Exports the weights of hub 'ultralytics' to OpenVINO, in an environment of its own. {LICENCE}.",
    options=ExportOptions,
    serving=NoServing,
    normalise=_normalise,
    reads=frozenset({Format.PYTORCH}),
    writes=Format.OPENVINO,
    model_types=frozenset({ModelType.VISION}),
    precisions=frozenset({Precision.FP32, Precision.FP16, Precision.INT8}),
    implementation="worker.converters.ultralytics.converter:UltralyticsExporter",
    extra="openvino",
    settings=frozenset({"MODELFERRY_MAX_UNPACKED_MB", "MODELFERRY_PROFILES"}),
    memory=_memory,
    finishes=True,
    opt_in=True,
)
