"""What may be asked of the Pipeline Zoo's models."""

from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class PipelineZooOptions(Spec, frozen=True):
    """A download has no choices of its own."""

    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


PIPELINE_ZOO = HubPlugin(
    name="pipeline-zoo-models",
    description="Downloads models of the DL Streamer Pipeline Zoo, with their large files from Git LFS.",
    options=PipelineZooOptions,
    formats=frozenset({Format.ARCHIVE}),
    implementation="worker.hubs.pipeline_zoo:PipelineZooHub",
    name_pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    settings=frozenset({"PIPELINE_ZOO_URL", "PIPELINE_ZOO_API_URL"}),
    listing_filters=frozenset({"search"}),
    several=frozenset({"all"}),
    shows_folder=True,
)
