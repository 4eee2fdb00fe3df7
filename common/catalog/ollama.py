"""What may be asked of Ollama's registries, and what the names of their models mean."""

import re
from typing import Self

from common.errors import InvalidSpec
from common.plugins import HubPlugin
from common.spec import Spec
from common.vocabulary import Format

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = r"[A-Za-z0-9_][\w.-]{0,343}(?::[0-9]{1,5})?"
_NAMESPACE = r"[A-Za-z0-9_][\w-]{0,79}"
_PART = r"[A-Za-z0-9_][\w.-]{0,79}"
_NAME = rf"(?:(?:({_HOST})/)?({_NAMESPACE})/)?({_PART})(?::({_PART}))?"


class OllamaOptions(Spec, frozen=True):
    """A pull has no choices of its own."""

    extra: dict[str, object] = {}
    """What a client sent that a pull has no use for."""


class OllamaName(Spec, frozen=True):
    """A model's name in full, as the registry's addresses and the folders below `manifests` have it."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Self:
        """Read `[host/][namespace/]model[:tag]`; a revision is the tag, too. Raises InvalidSpec."""
        found = re.fullmatch(_NAME, name, re.ASCII)
        if found is None or ".." in name:
            raise InvalidSpec(f"Invalid model name for hub 'ollama': {name[:200]!r}")
        if revision is not None and (not re.fullmatch(_PART, revision, re.ASCII) or ".." in revision):
            raise InvalidSpec(f"Invalid revision for hub 'ollama': {revision[:200]!r} is no tag")
        host, namespace, model, tag = found.groups()
        if None not in {tag, revision} and tag != revision:
            raise InvalidSpec(f"The name has the tag '{tag}', but the revision is '{revision}': give one of them")
        return cls(
            host=host or DEFAULT_HOST,
            namespace=namespace or DEFAULT_NAMESPACE,
            model=model,
            tag=tag or revision or DEFAULT_TAG,
        )

    @property
    def short(self) -> str:
        """The name as Ollama shows it: without the host and the namespace that go without saying."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        owner = "" if self.namespace.lower() == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{owner}{self.model}:{self.tag}"

    def is_same(self, other: "OllamaName") -> bool:
        """Whether both mean one model. Ollama does not tell small letters from capital ones."""
        return self.short.lower() == other.short.lower()


def _place(name: str, revision: str | None, _options: OllamaOptions) -> str:
    OllamaName.of(name, revision)
    folder = f"ollama/{name.replace('/', '_')}"
    return folder if revision is None else f"{folder}/{revision}"


OLLAMA = HubPlugin(
    name="ollama",
    description="Pulls models from the Ollama registry, as a folder that Ollama reads.",
    options=OllamaOptions,
    formats=frozenset({Format.GGUF}),
    implementation="worker.hubs.ollama:OllamaHub",
    name_pattern=_NAME,
    settings=frozenset({"HF_ENDPOINT", "OLLAMA_HOST", "OLLAMA_REGISTRY"}),
    place=_place,
)
