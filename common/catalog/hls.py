"""What may be asked of the models of the health and life sciences suites."""

from collections.abc import Mapping
from typing import NoReturn

from common.errors import InvalidSpec
from common.plugins import ConverterPlugin, HubPlugin
from common.spec import MemoryRule, Spec, Target
from common.vocabulary import Format, ModelType, Precision

NAMES: Mapping[ModelType, tuple[str, ...]] = {
    ModelType.POSE_3D: ("human-pose-estimation-3d-0001",),
    ModelType.RPPG: ("mtts_can",),
    ModelType.AI_ECG: ("ecg_17920_ir10_fp16", "ecg_8960_ir10_fp16"),
}
"""The models of each type."""

CHECKPOINT = "human-pose-estimation-3d-0001.pth"
"""What the archive of type 3d-pose holds, among others."""

_MB = 1024 * 1024


class HlsOptions(Spec, frozen=True):
    """What the model is for decides where it comes from."""

    model_type: ModelType | None = None
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


class HlsServing(Spec, frozen=True):
    """Nothing: no model server is told about these models."""


def _place(_name: str, _revision: str | None, options: HlsOptions) -> str:
    return options.model_type.value if options.model_type else "hls"


def _not_by_itself(_type: ModelType | None, _device: str, _config: Mapping[str, object]) -> NoReturn:
    raise InvalidSpec("What hub 'hls' delivers is converted as part of the download. Set is_ovms to false.")


def _memory(_target: Target, _options: Mapping[str, object]) -> MemoryRule:
    # Measured: 600 MB with the libraries, for a network of 20 MB that is there several times while it is compared.
    return MemoryRule(base_bytes=1000 * _MB, per_byte=8.0)


HLS = HubPlugin(
    name="hls",
    description="Downloads the models of the health and life sciences suites.",
    options=HlsOptions,
    formats=frozenset({Format.ARCHIVE}),
    implementation="worker.hubs.hls:HlsHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset(
        {"HLS_3D_POSE_CHECKPOINT_URL", "HLS_ECG_BASE_URL", "HLS_RPPG_MODEL_URL", "MODELFERRY_MAX_UNPACKED_MB"}
    ),
    place=_place,
    shows_folder=True,
    finish=lambda _name, _options: "hls",
)

HLS_CONVERTER = ConverterPlugin(
    name="hls",
    description="Converts the models of the health and life sciences suites, and proves those that are IR already.",
    options=HlsOptions,
    serving=HlsServing,
    normalise=_not_by_itself,
    reads=frozenset({Format.PYTORCH, Format.ARCHIVE, Format.OPENVINO}),
    writes=Format.OPENVINO,
    model_types=frozenset(NAMES),
    precisions=frozenset({Precision.FP32, Precision.FP16}),
    implementation="worker.converters.hls.converter:HlsConverter",
    extra="openvino",
    memory=_memory,
    finishes=True,
)
