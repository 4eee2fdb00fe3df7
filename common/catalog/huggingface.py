"""What may be asked of the Hugging Face hub, and of the pre-converted models that live there."""

from common.plugins import ConfigKey, HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class HuggingFaceOptions(Spec, frozen=True):
    """How to choose files. Patterns are those of fnmatch, where `*` crosses `/`."""

    include: tuple[str, ...] = ()
    """Fetch what one of these fits, and nothing else, instead of the preset's choice."""
    exclude: tuple[str, ...] = ()
    """Act as if the repository did not hold these."""
    variant: str | None = None
    """Which of several forms of the same weights, such as `fp16`; their names have this before the ending."""
    require_ir: bool = False
    """Fetch the model that is already in OpenVINO's form, and refuse a repository that holds none."""
    extra: dict[str, object] = {}
    """What a client sent that a download has no use for."""


_TOKEN = ConfigKey(name="HF_TOKEN", description="A token of the Hugging Face hub, for models that need one.")

HUGGINGFACE = HubPlugin(
    name="huggingface",
    description="Downloads models from the Hugging Face hub or a mirror of it.",
    options=HuggingFaceOptions,
    formats=frozenset({Format.TRANSFORMERS, Format.OPENVINO}),
    implementation="worker.hubs.huggingface:HuggingFaceHub",
    settings=frozenset({"HF_ENDPOINT"}),
    secrets=frozenset({"HF_TOKEN"}),
    config_keys=(_TOKEN,),
    checks_credentials=True,
    listing_filters=frozenset({"author", "search", "tags", "collection"}),
)

OPENVINO = HubPlugin(
    name="openvino",
    description="Downloads models that are already in OpenVINO's form, from the Hugging Face hub.",
    options=HuggingFaceOptions,
    formats=frozenset({Format.OPENVINO}),
    implementation="worker.hubs.huggingface:HuggingFaceHub",
    origin="huggingface",
    preset={"require_ir": True},
    settings=frozenset({"HF_ENDPOINT"}),
    secrets=frozenset({"HF_TOKEN"}),
    config_keys=(_TOKEN,),
    checks_credentials=True,
)
