"""Models that Intel publishes in OpenVINO's form: under which name the hub may hold what is wanted."""

from collections.abc import Mapping

from common.catalog.openvino.options import normalise
from common.plugins import Dossier
from common.spec import Source, Target
from common.vocabulary import Precision

CONFIG = "openvino_config.json"

_HUB = "huggingface"
_OWNER = "OpenVINO"
_DEEPER = ("default_config", "weight_quantization_config")
_PUBLISHED = frozenset({Precision.INT4, Precision.INT8, Precision.FP16})


def ready_made(source: Source, target: Target, options: Mapping[str, object]) -> str | None:
    """The one repository that may hold this very result. None where the wish is for anything but the usual.

    A revision, and every option that is not the default, can only be had by converting.
    """
    owner, _, short = source.name.rpartition("/")
    if source.hub != _HUB or source.revision is not None or not owner or owner == _OWNER:
        return None
    if target.precision not in _PUBLISHED:
        return None
    _, usual, _ = normalise(target.model_type, target.device, {"precision": target.precision.value})
    if dict(options) != usual:
        return None
    channels = "-cw" if target.device == "NPU" else ""
    return f"{_OWNER}/{short}-{target.precision}{channels}-ov"


def precision_told(dossier: Dossier) -> Precision | None:
    """The precision of a converted model by the words of its own openvino_config.json; None where it tells of none."""
    config = dossier.documents.get(CONFIG)
    if not isinstance(config, Mapping):
        return None
    quantised = config.get("quantization_config")
    # Newer releases keep the weights' own part one level deeper.
    parts = [quantised, *(quantised.get(key) for key in _DEEPER)] if isinstance(quantised, Mapping) else []
    words = [str(_told_by(part)) for part in parts if isinstance(part, Mapping)]
    return next((Precision(word) for word in [*words, str(config.get("dtype"))] if word in set(Precision)), None)


def is_untold(dossier: Dossier) -> bool:
    """Whether a converted model was quantised, and its own words do not say to what."""
    config = dossier.documents.get(CONFIG)
    quantised = isinstance(config, Mapping) and isinstance(config.get("quantization_config"), Mapping)
    return quantised and precision_told(dossier) is None


def _told_by(part: Mapping[object, object]) -> object:
    if part.get("dtype"):
        return part["dtype"]
    # Upstream leaves out the bits of a plain recipe, be it of 4 or of 8: then only the weights themselves can tell.
    bits = part.get("bits")
    return {4: Precision.INT4, 8: Precision.INT8}.get(bits) if isinstance(bits, int) else None
