"""What may be asked of the models of the health and life sciences suites."""

from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format, ModelType


class HlsOptions(Spec, frozen=True):
    """What the model is for decides where it comes from."""

    model_type: ModelType | None = None
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


def _place(_name: str, _revision: str | None, options: HlsOptions) -> str:
    return options.model_type.value if options.model_type else "hls"


HLS = HubPlugin(
    name="hls",
    description="Downloads the models of the health and life sciences suites.",
    options=HlsOptions,
    formats=frozenset({Format.OPENVINO}),
    implementation="worker.hubs.hls:HlsHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset(
        {"HLS_3D_POSE_CHECKPOINT_URL", "HLS_ECG_BASE_URL", "HLS_RPPG_MODEL_URL", "MODELFERRY_MAX_UNPACKED_MB"}
    ),
    place=_place,
    shows_folder=True,
)
