"""Ollama: models straight from a registry, as a folder that Ollama reads, or pulled by an Ollama server that runs."""

from common.catalog.ollama import OllamaName, OllamaOptions
from common.errors import InvalidParameters, InvalidSpec
from common.plugins import Access, Attempt, Hub
from common.spec import Manifest, Source
from worker.hubs.ollama.pulling import Registry
from worker.hubs.ollama.server import Server


class OllamaHub:
    """The registry, or the server at OLLAMA_HOST where the operator has named one."""

    def __init__(self, access: Access) -> None:
        host = access.settings.get("OLLAMA_HOST")
        self._way = Server(host, access) if host else Registry(access)

    def resolve(self, source: Source, options: OllamaOptions) -> Manifest:  # noqa: ARG002 - a pull has no choices
        """Pin the source to a manifest of the registry; a server only tells later what it has pulled."""
        try:
            name = OllamaName.of(source.name, source.revision)
        except InvalidSpec as error:
            raise InvalidParameters(str(error), hint="Give the tag once: in the name, or as revision.") from error
        facts: dict[str, object] = {}
        if source.revision is not None:
            facts["model_name"] = source.name if ":" in source.name else f"{source.name}:{source.revision}"
        return self._way.resolve(source, name, facts)

    def fetch(self, manifest: Manifest, options: OllamaOptions, attempt: Attempt) -> None:  # noqa: ARG002
        """Bring the files of the manifest, or have the server pull the model and write down what it has then."""
        self._way.fetch(manifest, OllamaName.of(manifest.source.name, manifest.source.revision), attempt)


_contract: type[Hub[OllamaOptions]] = OllamaHub
