"""What may be asked of Open Model Zoo."""

from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class OmzOptions(Spec, frozen=True):
    """Which precisions to take."""

    precision: str | None = None
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


OMZ = HubPlugin(
    name="omz",
    description="Downloads models of Open Model Zoo.",
    options=OmzOptions,
    formats=frozenset({Format.OPENVINO}),
    implementation="worker.hubs.omz:OmzHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset({"OMZ_URL"}),
    several=frozenset(),
    shows_folder=True,
)
