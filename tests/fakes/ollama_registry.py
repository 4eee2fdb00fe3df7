"""A registry as Ollama pulls from: manifests and blobs on one port, the storage behind it on another.

It answers as the registry's protocol is described: Ollama's own style (a blob is a 307 to signed storage), or that of
Hugging Face (a 302, and refusals in its own words). No client in Python speaks this protocol, so what holds this
stand-in to it is `test_ollama_hub.TestTheStandIn`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.fakes.exchange import Pace, Reply, Request, reply_with, reply_with_file, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.signed_urls import UrlSigner
from tests.fakes.traffic import RequestLog

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
IMAGE = "application/vnd.ollama.image."

Style = Literal["ollama", "huggingface"]
Door = Literal["open", "anonymous", "signed", "elsewhere"]
"""Who may come in: everybody; whoever has fetched an anonymous token; only who signs with a known key; and one that
sends those who have no token to another host for it."""

Parts = Iterable[tuple[str, bytes]]
"""Kind and content of each layer, in order; a kind may come several times."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class StoredModel:
    """A manifest as bytes, and the contents that it names, by their digests."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def id(self) -> str:
        """What `ollama list` shows, in full."""
        return sha256(self.manifest)

    def folder(self, host: str, namespace: str, model: str, tag: str) -> dict[str, bytes]:
        """What Ollama keeps of it in its folder of models."""
        files = {f"blobs/sha256-{digest}": content for digest, content in self.blobs.items()}
        return {**files, f"manifests/{host}/{namespace}/{model}/{tag}": self.manifest}


def a_model(parts: Parts, config: Mapping[str, object] | None = None) -> StoredModel:
    """A model of these layers, its manifest written as Ollama writes it."""
    described = json.dumps(
        {"model_format": "gguf", "model_family": "llama", "model_type": "1B", "file_type": "Q4_0", **(config or {})}
    ).encode()
    blobs = {sha256(described): described}
    layers = []
    for kind, content in parts:
        blobs[sha256(content)] = content
        layers.append(_layer(IMAGE + kind, content))
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": _layer(CONFIG, described), "layers": layers}
    return StoredModel(json.dumps(document, separators=(",", ":")).encode(), blobs)


@dataclass
class Tokens:
    """Anonymous tokens, each for `uses` requests where that is set."""

    uses: int | None = None
    issued: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def issue(self) -> str:
        token = secrets.token_urlsafe(24)
        with self._lock:
            self.issued[token] = 0
        return token

    def opens(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        with self._lock:
            if token not in self.issued or (self.uses is not None and self.issued[token] >= self.uses):
                return False
            self.issued[token] += 1
            return True


class FakeOllamaRegistry(OnLoopback):
    """Serves models that live in memory. Start it, or use it as a context manager."""

    def __init__(
        self,
        *,
        style: Style = "ollama",
        door: Door = "open",
        bytes_per_s: int | None = None,
        signed_url_uses: int | None = None,
        token_uses: int | None = None,
        token_delay_s: float = 0.0,
    ) -> None:
        self.style: Style = style
        self.door: Door = door
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self.signer = UrlSigner(uses=signed_url_uses)
        self.tokens = Tokens(token_uses)
        self._token_delay_s = token_delay_s
        self._models: dict[tuple[str, str], dict[str, StoredModel]] = {}
        pace = Pace.of_rate(bytes_per_s) if bytes_per_s else None
        self._front = LoopbackServer("registry", self.faults.around(self._answer), self.requests)
        self._storage = LoopbackServer("storage", self.faults.around(self._answer_storage), self.requests, pace=pace)

    @property
    def endpoint(self) -> str:
        return f"http://{self._front.host}:{self._front.port}"

    @property
    def authority(self) -> str:
        """Host and port, as they may stand in the name of a model."""
        return f"{self._front.host}:{self._front.port}"

    def servers(self) -> tuple[LoopbackServer, ...]:
        return (self._front, self._storage)

    def add_model(
        self, name: str, parts: Parts, *, tag: str = "latest", config: Mapping[str, object] | None = None
    ) -> StoredModel:
        """Add a model as `model` or `namespace/model`; a tag that is there is moved."""
        return self.put(name, a_model(parts, config), tag=tag)

    def put(self, name: str, model: StoredModel, *, tag: str = "latest") -> StoredModel:
        namespace, _, model_name = name.rpartition("/")
        self._models.setdefault((namespace or "library", model_name), {})[tag] = model
        return model

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.method not in {"GET", "HEAD"}:
            return _error(405, "UNSUPPORTED", "the operation is unsupported")
        if request.path == "/token":
            return self._token(request)
        if self.door != "open" and not self.tokens.opens(request):
            return self._challenge(request)
        return self._route(request)

    def _route(self, request: Request) -> Reply:
        match request.segments:
            case ["v2", ""] | ["v2"]:
                return reply_with_json({})
            case ["v2", namespace, model, "manifests", reference]:
                return self._manifest(request, (namespace, model), reference)
            case ["v2", namespace, model, "blobs", digest]:
                return self._blob(request, (namespace, model), digest)
            case _:
                return _error(404, "NAME_UNKNOWN", "repository name not known to registry")

    def _manifest(self, request: Request, name: tuple[str, str], reference: str) -> Reply:
        tags = self._models.get(name, {})
        by_digest = {f"sha256:{model.id}": model for model in tags.values()}
        found = tags.get(reference) or by_digest.get(reference)
        if self.style == "huggingface" and found is None:
            return self._unknown_at_hugging_face(tags)
        if found is None or MANIFEST not in request.headers.get("accept", ""):
            # A registry has one form of manifest for each media type, and this one has no other.
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": f"sha256:{found.id}"}
        return reply_with(200, found.manifest, headers)

    def _unknown_at_hugging_face(self, tags: Mapping[str, StoredModel]) -> Reply:
        if not tags:
            return reply_with_json({"error": "Invalid username or password."}, status=401)
        return reply_with_json({"error": "The specified tag is not a valid quantization scheme."}, status=400)

    def _blob(self, request: Request, name: tuple[str, str], digest: str) -> Reply:
        content = self._content(name, digest)
        if content is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if request.method == "HEAD" and self.style == "ollama":
            return reply_with(200, headers={"Content-Length": str(len(content)), "Docker-Content-Digest": digest})
        host = request.address.rpartition(":")[0]
        signed = self.signer.sign(f"/{'/'.join(name)}/{digest}")
        status = 307 if self.style == "ollama" else 302
        return reply_with(status, headers={"Location": f"http://{host}:{self._storage.port}{signed}"})

    def _answer_storage(self, request: Request) -> Reply:
        if "authorization" in request.headers:
            return reply_with(
                400, b"<Error><Code>InvalidArgument</Code><Message>Only one way to log in</Message></Error>"
            )
        namespace, model, digest = [*request.segments, "", "", ""][:3]
        content = self._content((namespace, model), digest)
        if content is None or not self.signer.opens(request):
            return reply_with(403, b"<Error><Code>AccessDenied</Code></Error>")
        return reply_with_file(request, content, len(content), {"ETag": f'"{sha256(content)[:32]}"'})

    def _content(self, name: tuple[str, str], digest: str) -> bytes | None:
        wanted = digest.removeprefix("sha256:")
        held = (model.blobs.get(wanted) for model in self._models.get(name, {}).values())
        return next((content for content in held if content is not None), None)

    def _challenge(self, request: Request) -> Reply:
        realm = f"http://{request.address}/token"
        if self.door == "elsewhere":
            realm = f"http://{self._storage.host}:{self._storage.port}/token"
        repository = "/".join(request.segments[1:3])
        told = f'Bearer realm="{realm}",service="{request.address}",scope="repository:{repository}:pull"'
        return reply_with_json({"errors": [{"code": "UNAUTHORIZED"}]}, {"WWW-Authenticate": told}, 401)

    def _token(self, request: Request) -> Reply:
        signed = self.door == "signed" and "authorization" not in request.headers
        if signed or not request.asks("service") or not request.asks("scope"):
            return reply_with_json({"error": "unauthorized"}, status=401)
        time.sleep(self._token_delay_s)
        return reply_with_json({"token": self.tokens.issue(), "expires_in": 300})


def _layer(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{sha256(content)}", "size": len(content)}


def _error(status: int, code: str, message: str) -> Reply:
    return reply_with_json({"errors": [{"code": code, "message": message}]}, status=status)
