"""What may be asked of Ultralytics' official models. Weights and library are AGPL-3.0: the operator opts in."""

from typing import Literal

from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class UltralyticsOptions(Spec, frozen=True):
    """How to export."""

    quantize: Literal["coco", "coco8", "coco128"] | None = None
    """Also make an INT8 model, calibrated with these images."""
    extra: dict[str, object] = {}
    """What a client sent that an export has no use for."""


ULTRALYTICS = HubPlugin(
    name="ultralytics",
    description="Fetches Ultralytics' official weights and exports them to OpenVINO. AGPL-3.0.",
    options=UltralyticsOptions,
    formats=frozenset({Format.OPENVINO}),
    implementation="worker.hubs.ultralytics:UltralyticsHub",
    extra="ultralytics",
    folder="ultralytics/public",
    name_pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    settings=frozenset({"ULTRALYTICS_ASSETS_URL"}),
    listing_filters=frozenset({"search"}),
    several=frozenset({"all", "yolo_all"}),
    finish=lambda _name, _options: "ultralytics",
    opt_in=True,
)
