"""The manifests of a registry: what one says, and which of them are models that Ollama can run from a folder."""

from collections.abc import Sequence

import msgspec

from common.errors import HubUnavailable, SourceUnsafe, UnsupportedModel
from common.spec import Digest
from common.vocabulary import DigestAlgorithm
from worker.net import NO_JSON

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LICENCE = "application/vnd.ollama.image.license"

_LISTS = frozenset(
    {
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
_MODEL = "application/vnd.ollama.image.model"
_TENSORS = frozenset(f"application/vnd.ollama.image.{kind}" for kind in ("tensor", "json", "draft"))
"""Models in safetensors, which come in hundreds of layers and run on Apple's machines only."""

_MOST_LAYERS = 1000
_MOST_BYTES = 8 * 1024**4
"""Larger than any model, in one layer or in all."""
_HINT = "Choose another tag of the model, one that comes as GGUF."


class Layer(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "mediaType"}):
    """One content of a model."""

    kind: str
    digest: str
    size: int

    def sha256(self) -> Digest:
        """The digest, checked. Raises SourceUnsafe."""
        algorithm, _, value = self.digest.partition(":")
        if algorithm != DigestAlgorithm.SHA256:
            raise SourceUnsafe(f"The registry names content by something else than a sha256: {self.digest[:80]!r}")
        return Digest(algorithm=DigestAlgorithm.SHA256, value=value)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a manifest."""

    config: Layer
    layers: tuple[Layer, ...] | None = None

    @property
    def contents(self) -> tuple[Layer, ...]:
        """Every content once; a licence may be there twice. The configuration is one of them."""
        known: dict[str, Layer] = {}
        for layer in (self.config, *(self.layers or ())):
            if known.setdefault(layer.digest, layer).size != layer.size:
                raise SourceUnsafe("The registry's manifest gives two sizes for one content")
        return tuple(known.values())

    @property
    def licences(self) -> tuple[Layer, ...]:
        """The texts under which the model may be used."""
        return tuple(layer for layer in self.layers or () if layer.kind == LICENCE)

    @property
    def has_model(self) -> bool:
        """Whether there are weights."""
        return any(layer.kind == _MODEL for layer in self.layers or ())


class _Form(msgspec.Struct, kw_only=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: object = None


class _Config(msgspec.Struct, kw_only=True):
    remote_host: str = ""


def read_manifest(body: bytes, name: str) -> Document:
    """What the manifest of a model says. Raises UnsupportedModel, SourceUnsafe, and HubUnavailable for nonsense."""
    try:
        _check_form(msgspec.json.decode(body, type=_Form), name)
        document = msgspec.json.decode(body, type=Document)
    except NO_JSON as error:
        raise HubUnavailable(f"The registry's answer about '{name}' is no manifest") from error
    contents = document.contents
    _check_sizes(contents)
    for layer in contents:
        layer.sha256()
    if any(layer.kind in _TENSORS for layer in contents):
        raise UnsupportedModel(
            f"'{name}' comes as safetensors in many layers (MLX), which is not usable here", hint=_HINT
        )
    return document


def without_model(config: bytes, name: str) -> UnsupportedModel:
    """Why a model without weights cannot be fetched, by its own configuration."""
    try:
        elsewhere = bool(msgspec.json.decode(config, type=_Config).remote_host)
    except NO_JSON:
        elsewhere = False
    if elsewhere:
        return UnsupportedModel(f"'{name}' runs in a cloud only: its registry has no weights to fetch", hint=_HINT)
    return UnsupportedModel(f"'{name}' holds no model for Ollama: none of its layers is one", hint=_HINT)


def _check_form(form: _Form, name: str) -> None:
    if form.media_type in _LISTS or form.manifests is not None:
        raise UnsupportedModel(f"'{name}' is a list of manifests, as container images have, and no model", hint=_HINT)
    if form.schema_version != 2 or form.media_type not in {"", MANIFEST, OCI_MANIFEST}:
        raise UnsupportedModel(
            f"'{name}' has a manifest of another form (schema {form.schema_version}) than Ollama's models have",
            hint=_HINT,
        )


def _check_sizes(contents: Sequence[Layer]) -> None:
    if len(contents) > _MOST_LAYERS:
        raise SourceUnsafe(f"The registry's manifest lists more than {_MOST_LAYERS} layers")
    sizes = [layer.size for layer in contents]
    if min(sizes) < 0 or sum(sizes) > _MOST_BYTES:
        raise SourceUnsafe("The registry's manifest lists an impossible size")
