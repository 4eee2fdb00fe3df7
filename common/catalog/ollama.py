"""What may be asked of the Ollama registry."""

from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format


class OllamaOptions(Spec, frozen=True):
    """A pull has no choices of its own."""

    extra: dict[str, object] = {}
    """What a client sent that a pull has no use for."""


def _place(name: str, revision: str | None, _options: OllamaOptions) -> str:
    folder = f"ollama/{name.replace('/', '_')}"
    return folder if revision is None else f"{folder}/{revision}"


OLLAMA = HubPlugin(
    name="ollama",
    description="Pulls models from the Ollama registry, as a folder that Ollama reads.",
    options=OllamaOptions,
    formats=frozenset({Format.GGUF}),
    implementation="worker.hubs.ollama:OllamaHub",
    name_pattern=r"([A-Za-z0-9_][\w.:-]{0,349}/)?([A-Za-z0-9_][\w-]{0,79}/)?[A-Za-z0-9_][\w.-]{0,79}(:[A-Za-z0-9_][\w.-]{0,79})?",
    settings=frozenset({"OLLAMA_REGISTRY", "OLLAMA_HOST"}),
    place=_place,
)
