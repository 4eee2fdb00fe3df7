"""What may be asked of Open Model Zoo."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from common.errors import InvalidSpec
from common.plugins import ConverterPlugin, HubPlugin
from common.spec import MemoryRule, Spec, Target
from common.vocabulary import Format, ModelType, Precision

CATALOGUE = Path(__file__).parent / "data" / "omz.json"
"""What the zoo offers; `scripts/omz_catalog.py` writes it."""

LABELS = Path(__file__).parent / "data" / "imagenet_2012.txt"
"""The names of ImageNet's classes, in the order of a network's answers."""

CONVERTED = frozenset({"mobilenet-v2-pytorch"})
"""The public models that are made of a checkpoint."""

_MB = 1024 * 1024


class OmzOptions(Spec, frozen=True):
    """Which precisions to take."""

    precision: str | None = None
    """As the zoo or a client writes it: FP32, fp16, FP16-INT8, int8; without one, all that there are."""
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


class OmzServing(Spec, frozen=True):
    """Nothing: no model server is told about these models."""


def _finish(name: str, _options: OmzOptions) -> str | None:
    return "omz" if CONVERTED & set(name.split(",")) else None


def _not_by_itself(_type: ModelType | None, _device: str, _config: Mapping[str, object]) -> NoReturn:
    raise InvalidSpec("What hub 'omz' delivers is converted as part of the download. Set is_ovms to false.")


def _memory(_target: Target, _options: Mapping[str, object]) -> MemoryRule:
    # Measured: 500 MB with the libraries, for a network of 14 MB that is there several times while it is compared.
    return MemoryRule(base_bytes=900 * _MB, per_byte=6.0)


OMZ = HubPlugin(
    name="omz",
    description="Downloads models of Open Model Zoo.",
    options=OmzOptions,
    formats=frozenset({Format.ARCHIVE}),
    implementation="worker.hubs.omz:OmzHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset({"OMZ_URL", "OMZ_CATALOGUE"}),
    several=frozenset(),
    shows_folder=True,
    finish=_finish,
)

OMZ_CONVERTER = ConverterPlugin(
    name="omz",
    description="Converts the public models of Open Model Zoo whose networks are known here.",
    options=OmzOptions,
    serving=OmzServing,
    normalise=_not_by_itself,
    reads=frozenset({Format.PYTORCH, Format.OPENVINO}),
    writes=Format.OPENVINO,
    model_types=frozenset(ModelType),
    precisions=frozenset({Precision.FP32, Precision.FP16}),
    implementation="worker.converters.omz.converter:OmzConverter",
    extra="openvino",
    memory=_memory,
    finishes=True,
)
