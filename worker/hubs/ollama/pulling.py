"""Pulls straight from a registry: one manifest, and the contents that it names."""

import hashlib
import logging
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import NamedTuple, Self

from common.catalog.ollama import DEFAULT_HOST, DEFAULT_TAG, OllamaName
from common.errors import (
    HubUnavailable,
    InvalidParameters,
    NothingToFetch,
    RevisionNotFound,
    SourceNotFound,
    SourceUnsafe,
    StageError,
    TransientError,
)
from common.plugins import Access, Attempt, NetworkRules
from common.spec import Digest, Manifest, RemoteFile, Source, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm, Format
from worker.hubs.ollama.documents import MANIFEST, OCI_MANIFEST, Document, Layer, read_manifest, without_model
from worker.hubs.ollama.tokens import HINT_NAME, anonymous_token, refused, wants_token
from worker.net import Credential, HubClient, Origin, Reply
from worker.transfer import bring

log = logging.getLogger(__name__)

_HUGGING_FACE = frozenset({"hf.co", "huggingface.co"})
_KNOWN_BYTES = f"data:{MANIFEST};base64,"
"""How the address of a file begins that is in the address itself."""
_MOST_BYTES = 1024 * 1024
"""Of a manifest, or of a text that is read here."""
_MOST_TEXT_BYTES = 64 * 1024
_SHORT_LINE = 100
_MOST_LICENCES = 4


class Registry:
    """The registries that names lead to: the operator's, Hugging Face's, and any other public one."""

    def __init__(self, access: Access, *, young_s: float = 5.0) -> None:
        """A token that is refused at an age of less than `young_s` has not expired."""
        self._access = access
        self._young_s = young_s

    def resolve(self, source: Source, name: OllamaName, facts: dict[str, object]) -> Manifest:
        """Pin the name to the manifest that its tag leads to now, and list what that names."""
        with self._talk(name) as talk:
            body = talk.manifest()
            document = read_manifest(body, name.short)
            if not document.has_model:
                raise without_model(talk.text(document.config) or b"", name.short)
            licence = _licence(talk, document)
            files = [talk.remote_file(layer) for layer in document.contents]
        digest = hashlib.sha256(body).hexdigest()
        files.append(_known_file(f"manifests/{name.host}/{name.namespace}/{name.model}/{name.tag}", body, digest))
        check_distinct([check_file_path(file.path) for file in files])
        return Manifest(
            source=source, revision=digest, format=Format.GGUF, files=tuple(files), licence=licence, facts=facts
        )

    def fetch(self, manifest: Manifest, name: OllamaName, attempt: Attempt) -> None:
        """Bring the contents, and the manifest at last. Tokens are got as they are wanted, and may expire."""
        known = [file for file in manifest.files if file.url.startswith(_KNOWN_BYTES)]
        contents = [file for file in manifest.files if file not in known]
        with self._talk(name) as talk:
            while not self._bring(contents, talk, attempt):
                attempt.checkpoint()
        attempt.checkpoint()
        for file in known:
            _write(file, attempt)

    def _bring(self, files: list[RemoteFile], talk: "_Talk", attempt: Attempt) -> bool:
        """False where a new token is at hand, and there is more to bring. What has arrived is not fetched again."""
        try:
            bring(
                files,
                attempt,
                talk.credential,
                classify=talk.classify,
                network=self._access.network,
                trusted=talk.home.trusted,
            )
        except _TokenSpent as spent:
            talk.log_in(spent.challenge, talk.home.url)
            return False
        return True

    def _talk(self, name: OllamaName) -> "_Talk":
        return _Talk(self._home(name), name, self._access.network, self._young_s)

    def _home(self, name: OllamaName) -> "_Home":
        """Where the host of a name is. A host that only the request has named may not be inside a private network."""
        own, mirror = self._setting("OLLAMA_REGISTRY"), self._setting("HF_ENDPOINT")
        host = name.host.lower()
        if own is not None and host in {DEFAULT_HOST, Origin.of(own.url).authority}:
            return own
        if mirror is not None and host in _HUGGING_FACE:
            return mirror
        return _Home(f"https://{host}", trusted=host in {DEFAULT_HOST, *_HUGGING_FACE})

    def _setting(self, setting: str) -> "_Home | None":
        url = self._access.settings.get(setting)
        if not url:
            return None
        try:
            Origin.of(url)
        except SourceUnsafe as error:
            raise InvalidParameters(
                f"{setting} names no registry", hint=f"Set {setting} to an address such as https://host:port."
            ) from error
        return _Home(url.rstrip("/"), trusted=setting not in self._access.given)


class _Home(NamedTuple):
    """The address of a registry."""

    url: str
    trusted: bool


class _TokenSpent(TransientError):
    """The registry wants a token, or another one."""

    def __init__(self, challenge: str) -> None:
        super().__init__("The registry wants a new token")
        self.challenge = challenge


class _Talk:
    """Asks one registry about one model. The credential is a token for everybody, where the registry wants one."""

    def __init__(self, home: _Home, name: OllamaName, network: NetworkRules, young_s: float) -> None:
        self.home = home
        self.credential: Credential | None = None
        self._name = name
        self._network = network
        self._young_s = young_s
        self._client = self._make_client()
        self._logged_in_at: float | None = None
        self._base = f"v2/{name.namespace}/{name.model}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._client.__exit__(*failure)

    def manifest(self) -> bytes:
        """The manifest's bytes as they are: their sha256 is the model's id."""
        reply = self._get(f"{self._base}/manifests/{self._name.tag}", {"Accept": f"{MANIFEST}, {OCI_MANIFEST}"})
        if reply.status != 200:
            raise self._refusal(reply.status) or HubUnavailable(f"The registry answered {reply.status}")
        return reply.body

    def text(self, layer: Layer) -> bytes | None:
        """A short content; None where it is long, or not what its digest says. Fetching it will tell."""
        if layer.size > _MOST_TEXT_BYTES:
            return None
        reply = self._get(self._path_of(layer), {})
        good = reply.status == 200 and hashlib.sha256(reply.body).hexdigest() == layer.sha256().value
        return reply.body if good else None

    def remote_file(self, layer: Layer) -> RemoteFile:
        """A content, named as Ollama names it in its folder."""
        digest = layer.sha256()
        url = f"{self.home.url}/{self._path_of(layer)}"
        return RemoteFile(path=f"blobs/sha256-{digest.value}", size=layer.size, digest=digest, url=url)

    def classify(self, status: int, headers: Mapping[str, str]) -> StageError | None:
        """What the registry means by refusing a content."""
        if status == 401 and wants_token(headers):
            return _TokenSpent(headers["www-authenticate"])
        if status in {404, 410}:
            return SourceNotFound(f"The registry has lost a content that the manifest of '{self._name.short}' names")
        return self._refusal(status)

    def log_in(self, challenge: str, url: str) -> None:
        """Get a token. Raises SourcePrivateOrMissing where there is none, or a new one has opened nothing."""
        now = time.monotonic()
        if self._logged_in_at is not None and now - self._logged_in_at < self._young_s:
            raise refused(self._name.short)
        self.credential = None
        self._renew()
        self.credential = anonymous_token(self._client, challenge, url, self._name.short)
        self._renew()
        self._logged_in_at = time.monotonic()
        log.info("hub.token_received", extra={"host": self._name.host})

    def _get(self, path: str, headers: Mapping[str, str]) -> Reply:
        reply = self._client.get(path, headers=headers)
        if reply.status == 401 and wants_token(reply.headers):
            self.log_in(reply.headers["www-authenticate"], reply.url)
            reply = self._client.get(path, headers=headers)
        return reply

    def _path_of(self, layer: Layer) -> str:
        return f"{self._base}/blobs/sha256:{layer.sha256().value}"

    def _refusal(self, status: int) -> StageError | None:
        name, tag = self._name.short, self._name.tag
        if status in {401, 403}:
            return refused(name)
        if status in {404, 410}:
            return SourceNotFound(
                f"'{name}' was not found at its registry: it knows no such model, or no such tag", hint=HINT_NAME
            )
        if status == 400 and tag != DEFAULT_TAG:
            # As Hugging Face answers for a quantisation that a repository does not have.
            return RevisionNotFound(f"'{name}' was refused: the repository has no GGUF file for the tag '{tag}'")
        if status == 400:
            return NothingToFetch(f"'{name}' was refused: the repository holds no GGUF model for Ollama")
        return None

    def _renew(self) -> None:
        self._client.__exit__(None, None, None)
        self._client = self._make_client()

    def _make_client(self) -> HubClient:
        return HubClient(
            self.home.url,
            self._network,
            credential=self.credential,
            trusted=self.home.trusted,
            most_bytes=_MOST_BYTES,
        )


def _licence(talk: _Talk, document: Document) -> str | None:
    """The first lines of the licences, which name them, as far as they are short enough for names."""
    found: list[str] = []
    for layer in document.licences[:_MOST_LICENCES]:
        text = (talk.text(layer) or b"").decode("utf-8", "replace")
        line = next((line.strip() for line in text.splitlines() if line.strip()), "")
        if 0 < len(line) <= _SHORT_LINE and line.isprintable() and line not in found:
            found.append(line)
    return ", ".join(found) or None


def _known_file(path: str, content: bytes, sha256: str) -> RemoteFile:
    """A file whose content is known: it is its own address, so that a tag that moves meanwhile changes nothing."""
    return RemoteFile(
        path=path,
        size=len(content),
        digest=Digest(algorithm=DigestAlgorithm.SHA256, value=sha256),
        url=_KNOWN_BYTES + b64encode(content).decode(),
    )


def _write(file: RemoteFile, attempt: Attempt) -> None:
    """Store what is known of a file, and show it. Safe to repeat."""
    content = b64decode(file.url.removeprefix(_KNOWN_BYTES))
    sha256 = hashlib.sha256(content).hexdigest()
    if attempt.stored(sha256) is None:
        fresh = attempt.workspace / "manifest.fresh"
        fresh.write_bytes(content)
        attempt.store(fresh, sha256)
    attempt.link(sha256, check_file_path(file.path))
