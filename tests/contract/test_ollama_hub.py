"""Ollama's models straight from a registry, and through a server that runs; and what holds their stand-ins to it."""

import hashlib
import json
import logging
import multiprocessing
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import ollama
import pytest

from common.artefacts.blobs import BlobStore
from common.artefacts.layout import Volume
from common.artefacts.manifest import ArtefactStore
from common.artefacts.publish import Description, PublicationPlan, publish
from common.catalog.ollama import OLLAMA, OllamaName, OllamaOptions
from common.catalog.registry import Catalog
from common.clock import utc_now
from common.errors import (
    DiskFull,
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    JobCancelled,
    NothingToFetch,
    OutputIncomplete,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TransferStalled,
    UnsupportedModel,
)
from common.planning import FetchWork, Wish, plan
from common.plugins import Access, NetworkRules, TransferLimits
from common.spec import Manifest, Progress, Source
from common.vocabulary import Format, Phase
from tests.contract.test_hub_contract import Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.exchange import Reply, Request, reply_with
from tests.fakes.faults import (
    Cut,
    Drop,
    Fault,
    FaultKind,
    FlipBit,
    Gzip,
    RedirectLoop,
    RedirectTo,
    Stall,
    Status,
    Throttle,
    rate_limited,
)
from tests.fakes.ollama_registry import IMAGE, MANIFEST, FakeOllamaRegistry, StoredModel, a_model, sha256
from tests.fakes.ollama_server import FakeOllamaServer, Offer
from tests.fakes.traffic import Match
from worker.hubs.ollama.pulling import Registry
from worker.stages.fetch import fetch as fetch_stage
from worker.stages.tools import Tools

KIB = 1024
BLOCK = 256 * KIB
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=20, spare_bytes=0)
WEIGHTS = b"GGUF" + bytes(range(256)) * 8000
LICENCE = b"\n  LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nRelease date ...\n"
PARTS = [
    ("model", WEIGHTS),
    ("template", b"{{ .Prompt }}"),
    ("license", LICENCE),
    ("license", b"Acceptable Use Policy\n"),
    ("params", b'{"stop":["<|eot|>"]}'),
]
DEFAULT_HOST = "registry.ollama.ai"


@dataclass(frozen=True)
class OllamaPlace(Place):
    """A registry with the model `org/model`; `model` is what a fetch of it leaves."""

    model: Mapping[str, bytes]


@contextmanager
def ollama_place(_tmp_path: Path) -> Iterator[OllamaPlace]:
    """What the contract of all hubs is tried with."""
    with FakeOllamaRegistry() as registry:
        stored = registry.add_model("org/model", PARTS)
        access = Access(settings={"OLLAMA_REGISTRY": registry.endpoint})
        yield OllamaPlace(OLLAMA, access, {}, stored.folder(DEFAULT_HOST, "org", "model", "latest"))


@pytest.fixture
def registry() -> Iterator[FakeOllamaRegistry]:
    with FakeOllamaRegistry() as registry:
        registry.add_model("llama3.2", PARTS, tag="3b")
        yield registry


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


def access_to(registry: FakeOllamaRegistry) -> Access:
    return Access(settings={"OLLAMA_REGISTRY": registry.endpoint})


def resolve(access: Access, name: str = "llama3.2", revision: str | None = "3b") -> Manifest:
    return OLLAMA.load(access).resolve(Source(hub="ollama", name=name, revision=revision), OllamaOptions())


def fetch(access: Access, manifest: Manifest, attempt: LocalAttempt) -> None:
    assert OLLAMA.load(access).fetch(manifest, OllamaOptions(), attempt) is None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults_of_folder(folder: Path, ours: tuple[str, ...] = (".modelferry.json",)) -> list[str]:
    """What an `ollama serve` with this folder as OLLAMA_MODELS would not accept, or would remove at its start."""
    wrong = [f"{path.name} beside blobs and manifests" for path in folder.iterdir() if path.is_file()]
    wrong = [fault for fault in wrong if fault.split()[0] not in ours]
    wrong += [f"folder {path.name}" for path in folder.iterdir() if path.is_dir() and path.name not in LAYOUT]
    named: set[str] = set()
    for path in (folder / "manifests").rglob("*"):
        levels = len(path.relative_to(folder / "manifests").parts)
        if path.is_dir() != (levels < 4) or levels > 4:
            wrong.append(f"{path.name} is at level {levels}")
        elif levels == 4:
            named |= _named_by(path, folder / "blobs", wrong)
    if not named:
        wrong.append("no manifest")
    for path in (folder / "blobs").iterdir():
        if not re.fullmatch(r"sha256-[0-9a-f]{64}", path.name) or not path.is_file():
            wrong.append(f"stray {path.name} in blobs")
        elif path.name not in named:
            wrong.append(f"{path.name} is in no manifest: removed at the next start")
        elif path.stat().st_mode & 0o444 != 0o444:
            wrong.append(f"{path.name} is not for everyone to read")
    return wrong


LAYOUT = {"blobs", "manifests"}


def _named_by(manifest: Path, blobs: Path, wrong: list[str]) -> set[str]:
    document = json.loads(manifest.read_bytes())
    names = set()
    for layer in [document["config"], *document["layers"]]:
        name = layer["digest"].replace(":", "-")
        names.add(name)
        blob = blobs / name
        if not blob.is_file():
            wrong.append(f"{name} is missing")
        elif blob.stat().st_size != layer["size"] or f"sha256-{sha256(blob.read_bytes())}" != name:
            wrong.append(f"{name} has another content")
    return names


class VolumeAttempt(LocalAttempt):
    """An attempt on a volume with a content store, as a worker's is."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume.workspace("stage.1"), LIMITS)
        self.volume = volume
        self._blobs = BlobStore(volume)

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def last(self) -> Progress | None:
        return self.reports[-1] if self.reports else None

    def stored(self, sha256: str) -> Path | None:
        return self._blobs.stored(sha256)

    def store(self, file: Path, sha256: str) -> Path:
        return self._blobs.take(file, sha256)

    def link(self, sha256: str, path: str) -> Path:
        return self._blobs.link(sha256, self.workspace / path)


def published(settings: dict[str, str], models_dir: Path, wish: Wish) -> tuple[Path, dict[str, Any]]:
    """Plan, fetch and publish as a worker does: the model's folder, and what the fetch tells."""
    volume = Volume(models_dir)
    volume.prepare()
    catalog = Catalog(hubs={"ollama": OLLAMA}, converters={}, disabled_hubs={}, disabled_converters={})
    store, attempt = ArtefactStore(volume), VolumeAttempt(volume)
    tools = Tools(
        catalog=catalog, store=store, attempt=cast("Any", attempt), settings=settings, secrets={}, now=utc_now
    )
    spec = plan(wish, catalog)
    done = fetch_stage(FetchWork(hub=spec.hub, source=spec.source, options=spec.hub_options), tools)
    artefact = store.load(str(done.artefact))
    assert artefact is not None
    description = Description(name=spec.source.name, hub=spec.hub, requested_revision=spec.source.revision)
    plan_of_it = PublicationPlan(artefact=artefact, destination=spec.destination, description=description)
    return publish(store, plan_of_it, fence=lambda: None).path, done.result


class TestTheStandIn:
    """The registry of the tests against the protocol, as clients that are not ours see it."""

    def test_a_model_can_be_pulled_by_hand(self, registry: FakeOllamaRegistry) -> None:
        base = f"{registry.endpoint}/v2/library/llama3.2"
        answer = httpx.get(f"{base}/manifests/3b", headers={"Accept": MANIFEST})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, MANIFEST)
        assert answer.headers["Docker-Content-Digest"] == f"sha256:{sha256(answer.content)}"
        document = answer.json()
        assert document["schemaVersion"] == 2
        assert httpx.get(f"{base}/manifests/sha256:{sha256(answer.content)}", headers={"Accept": MANIFEST}) != answer
        for layer in [document["config"], *document["layers"]]:
            blob = f"{base}/blobs/{layer['digest']}"
            assert httpx.head(blob).headers["Content-Length"] == str(layer["size"])
            led = httpx.get(blob)
            assert led.status_code == 307
            location = httpx.URL(led.headers["Location"])
            assert location.port != httpx.URL(registry.endpoint).port
            part = httpx.get(location, headers={"Range": f"bytes=1-{layer['size'] - 1}"})
            assert part.status_code == 206
            whole = httpx.get(location).content
            assert (part.content, f"sha256:{sha256(whole)}") == (whole[1:], layer["digest"])
            assert httpx.get(location, headers={"Authorization": "Bearer x"}).status_code == 400
            assert httpx.get(location.copy_with(query=b"")).status_code == 403

    @pytest.mark.parametrize("path", ["library/none/manifests/3b", "library/llama3.2/manifests/none"])
    def test_what_it_does_not_have_it_says_in_the_registrys_words(
        self, registry: FakeOllamaRegistry, path: str
    ) -> None:
        answer = httpx.get(f"{registry.endpoint}/v2/{path}", headers={"Accept": MANIFEST})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
        assert httpx.get(f"{registry.endpoint}/v2/library/llama3.2/manifests/3b").status_code == 404

    def test_a_closed_door_names_the_place_of_its_tokens(self) -> None:
        with FakeOllamaRegistry(door="anonymous") as registry:
            registry.add_model("m", PARTS)
            url = f"{registry.endpoint}/v2/library/m/manifests/latest"
            refused = httpx.get(url)
            told = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers["WWW-Authenticate"]))
            assert (refused.status_code, told["scope"]) == (401, "repository:library/m:pull")
            token = httpx.get(told["realm"], params={"service": told["service"], "scope": told["scope"]}).json()[
                "token"
            ]
            assert httpx.get(url, headers={"Authorization": f"Bearer {token}", "Accept": MANIFEST}).status_code == 200


class TestResolving:
    def test_case_47_a_tag_is_pinned_to_the_bytes_of_its_manifest(self, registry: FakeOllamaRegistry) -> None:
        stored = registry.add_model("llama3.2", PARTS, tag="3b")
        manifest = resolve(access_to(registry))
        assert manifest.revision == stored.id
        assert manifest.format is Format.GGUF
        assert manifest.facts == {"model_name": "llama3.2:3b"}
        assert manifest.licence == "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT, Acceptable Use Policy"
        folder = stored.folder(DEFAULT_HOST, "library", "llama3.2", "3b")
        assert {file.path: file.size for file in manifest.files} == {path: len(data) for path, data in folder.items()}
        assert all(file.digest and file.digest.value == sha256(folder[file.path]) for file in manifest.files)

    def test_no_weights_are_moved(self, registry: FakeOllamaRegistry) -> None:
        resolve(access_to(registry))
        assert registry.requests.bytes_served() < 4 * KIB

    @pytest.mark.parametrize(
        ("name", "revision", "told"),
        [
            ("llama3.2:3b", None, None),
            ("llama3.2:3b", "3b", "llama3.2:3b"),
            ("library/llama3.2", "3b", "library/llama3.2:3b"),
        ],
    )
    def test_a_tag_may_stand_in_the_name(
        self, registry: FakeOllamaRegistry, name: str, revision: str | None, told: str | None
    ) -> None:
        assert resolve(access_to(registry), name, revision).facts.get("model_name") == told

    def test_two_tags_are_refused(self, registry: FakeOllamaRegistry) -> None:
        with pytest.raises(InvalidParameters):
            resolve(access_to(registry), "llama3.2:1b", "3b")
        assert len(registry.requests) == 0

    def test_the_operators_registry_stands_for_ollamas_own(self, registry: FakeOllamaRegistry) -> None:
        manifest = resolve(access_to(registry), "registry.ollama.ai/library/llama3.2")
        assert f"manifests/{DEFAULT_HOST}/library/llama3.2/3b" in {file.path for file in manifest.files}

    def test_the_operators_registry_may_be_named(self, registry: FakeOllamaRegistry) -> None:
        manifest = resolve(access_to(registry), f"{registry.authority}/library/llama3.2")
        assert f"manifests/{registry.authority}/library/llama3.2/3b" in {file.path for file in manifest.files}

    @pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "2130706433:{port}"])
    def test_a_host_that_only_the_request_names_is_not_inside(self, registry: FakeOllamaRegistry, host: str) -> None:
        name = f"{host.format(port=registry.authority.rpartition(':')[2])}/library/llama3.2"
        with pytest.raises(SourceUnsafe, match="private network"):
            resolve(Access(), name)
        given = Access(settings={"OLLAMA_REGISTRY": registry.endpoint}, given=frozenset({"OLLAMA_REGISTRY"}))
        with pytest.raises(SourceUnsafe, match="private network"):
            resolve(given)
        assert len(registry.requests) == 0

    def test_an_operator_may_allow_such_a_host(self, registry: FakeOllamaRegistry) -> None:
        rules = NetworkRules(private_hosts=frozenset({"127.0.0.1"}))
        given = Access(
            settings={"OLLAMA_REGISTRY": registry.endpoint}, given=frozenset({"OLLAMA_REGISTRY"}), network=rules
        )
        assert resolve(given).revision

    @pytest.mark.parametrize("address", ["mirror:5000", "ftp://mirror", "http://[::"])
    def test_a_setting_that_is_no_address_is_named(self, address: str) -> None:
        with pytest.raises(InvalidParameters, match="OLLAMA_REGISTRY names no registry"):
            resolve(Access(settings={"OLLAMA_REGISTRY": address}))

    def test_a_model_of_hugging_face(self, attempt: LocalAttempt) -> None:
        with FakeOllamaRegistry(style="huggingface") as hub:
            stored = hub.add_model("user/Repo-GGUF", PARTS, tag="Q4_K_M")
            access = Access(settings={"HF_ENDPOINT": hub.endpoint})
            manifest = resolve(access, "hf.co/user/Repo-GGUF:Q4_K_M", None)
            fetch(access, manifest, attempt)
            assert contents(attempt.workspace) == stored.folder("hf.co", "user", "Repo-GGUF", "Q4_K_M")
            with pytest.raises(RevisionNotFound):
                resolve(access, "hf.co/user/Repo-GGUF", "Q9")
            with pytest.raises(NothingToFetch):
                resolve(access, "hf.co/user/Repo-GGUF", None)
            with pytest.raises(SourcePrivateOrMissing):
                resolve(access, "hf.co/user/other", None)

    @pytest.mark.parametrize(("name", "revision"), [("nobody", None), ("llama3.2", "99b"), ("org/nowhere", None)])
    def test_what_is_not_there_is_not_found(
        self, registry: FakeOllamaRegistry, name: str, revision: str | None
    ) -> None:
        with pytest.raises(SourceNotFound):
            resolve(access_to(registry), name, revision)

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), SourcePrivateOrMissing),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (Status(410), SourceNotFound),
            (Status(418), HubUnavailable),
            (rate_limited(7, header="Retry-After"), RateLimited),
            (Status(500), HubUnavailable),
            (Status(503), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
            (Drop(), HubUnavailable),
            (RedirectTo("file:///etc/passwd"), SourceUnsafe),
            (RedirectTo("http://169.254.169.254/latest/meta-data"), SourceUnsafe),
            (Gzip(), SourceUnsafe),
        ],
    )
    def test_each_trouble_has_its_code(
        self, registry: FakeOllamaRegistry, kind: FaultKind, error: type[StageError]
    ) -> None:
        registry.add_fault(Fault(kind=kind, match=Match(path="*/manifests/*")))
        with pytest.raises(error):
            resolve(access_to(registry))

    def test_a_licence_without_a_short_line_is_none(self, registry: FakeOllamaRegistry) -> None:
        registry.add_model("wordy", [("model", WEIGHTS), ("license", b"word " * 100), ("license", b"x" * 70_000)])
        assert resolve(access_to(registry), "wordy", None).licence is None


def document_of(model: StoredModel) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(model.manifest))


def edited(**changes: object) -> bytes:
    return json.dumps({**document_of(a_model(PARTS)), **changes}).encode()


def with_layer(**changes: object) -> bytes:
    document = document_of(a_model(PARTS))
    document["layers"][0].update(changes)
    return json.dumps(document).encode()


def doubled(**changes: object) -> bytes:
    document = document_of(a_model(PARTS))
    document["layers"].append({**document["layers"][0], **changes})
    return json.dumps(document).encode()


class TestManifests:
    @pytest.mark.parametrize(
        ("manifest", "error"),
        [
            (b"<html>maintenance</html>", HubUnavailable),
            (b"[]", HubUnavailable),
            (b"[" * 100_000, HubUnavailable),
            (b"\xff\xfe", HubUnavailable),
            (edited(schemaVersion=1), UnsupportedModel),
            (edited(schemaVersion=None), HubUnavailable),
            (edited(manifests=[]), UnsupportedModel),
            (edited(mediaType="application/vnd.docker.distribution.manifest.list.v2+json"), UnsupportedModel),
            (edited(mediaType="application/vnd.oci.image.index.v1+json"), UnsupportedModel),
            (edited(mediaType="application/vnd.docker.distribution.manifest.v1+json"), UnsupportedModel),
            (edited(layers=[]), UnsupportedModel),
            (edited(layers=None), UnsupportedModel),
            (edited(config=None), HubUnavailable),
            (with_layer(mediaType=f"{IMAGE}tensor"), UnsupportedModel),
            (with_layer(mediaType=f"{IMAGE}json"), UnsupportedModel),
            (with_layer(mediaType=f"{IMAGE}draft"), UnsupportedModel),
            (with_layer(digest="sha256:" + "A" * 64), SourceUnsafe),
            (with_layer(digest="sha256:abc"), SourceUnsafe),
            (with_layer(digest="sha512:" + "a" * 128), SourceUnsafe),
            (with_layer(digest="../../../etc/passwd"), SourceUnsafe),
            (with_layer(digest="sha256:../" + "a" * 61), SourceUnsafe),
            (with_layer(size=-1), SourceUnsafe),
            (with_layer(size=9 * 1024**4), SourceUnsafe),
            (with_layer(size=10**40), SourceUnsafe),
            (with_layer(size="7"), HubUnavailable),
            (with_layer(size=True), HubUnavailable),
            (with_layer(size=1.5), HubUnavailable),
            (doubled(size=3), SourceUnsafe),
            (b" " * (1024 * 1024 + 1), SourceUnsafe),
        ],
    )
    def test_what_is_no_model_is_refused(
        self, registry: FakeOllamaRegistry, manifest: bytes, error: type[StageError]
    ) -> None:
        registry.put("odd", StoredModel(manifest, a_model(PARTS).blobs))
        with pytest.raises(error):
            resolve(access_to(registry), "odd", None)

    def test_too_many_layers_are_refused(self, registry: FakeOllamaRegistry) -> None:
        parts = [("model", WEIGHTS), *(("params", str(number).encode()) for number in range(1001))]
        registry.add_model("many", parts)
        with pytest.raises(SourceUnsafe, match="more than 1000 layers"):
            resolve(access_to(registry), "many", None)

    def test_a_model_of_the_cloud_is_told_from_others(self, registry: FakeOllamaRegistry) -> None:
        registry.add_model("big", [("template", b"x")], tag="cloud", config={"remote_host": "https://ollama.com:443"})
        with pytest.raises(UnsupportedModel, match="runs in a cloud only"):
            resolve(access_to(registry), "big", "cloud")

    def test_a_content_that_is_listed_twice_is_one_file(
        self, registry: FakeOllamaRegistry, attempt: LocalAttempt
    ) -> None:
        registry.put("twice", StoredModel(doubled(), a_model(PARTS).blobs))
        manifest = resolve(access_to(registry), "twice", None)
        fetch(access_to(registry), manifest, attempt)
        assert len(manifest.files) == len({file.path for file in manifest.files}) == 7
        assert faults_of_folder(attempt.workspace) == []


class TestFetching:
    def test_the_folder_is_what_ollama_reads(self, registry: FakeOllamaRegistry, attempt: LocalAttempt) -> None:
        stored = registry.add_model("llama3.2", PARTS, tag="3b")
        for _ in range(2):
            fetch(access_to(registry), resolve(access_to(registry)), attempt)
            assert contents(attempt.workspace) == stored.folder(DEFAULT_HOST, "library", "llama3.2", "3b")
        assert faults_of_folder(attempt.workspace) == []
        assert registry.requests.bytes_served(origin="storage") < len(WEIGHTS) + 2 * KIB

    def test_case_47_it_is_published_whole_and_with_nothing_of_ours_among_the_blobs(
        self, registry: FakeOllamaRegistry, tmp_path: Path
    ) -> None:
        wish = Wish(name="llama3.2", hub="ollama", root="shop", revision="3b")
        folder, told = published({"OLLAMA_REGISTRY": registry.endpoint}, tmp_path / "models", wish)
        assert folder == tmp_path / "models/shop/ollama/llama3.2/3b"
        assert faults_of_folder(folder) == []
        assert {path.name for path in folder.iterdir()} == {"blobs", "manifests", ".modelferry.json"}
        assert told["told"] == {"model_name": "llama3.2:3b"}
        again, told = published({"OLLAMA_REGISTRY": registry.endpoint}, tmp_path / "models", wish)
        assert (again, told["reused"]) == (folder, True)

    def test_a_tag_that_moves_meanwhile_changes_nothing(
        self, registry: FakeOllamaRegistry, attempt: LocalAttempt
    ) -> None:
        stored = registry.add_model("moving", PARTS)
        manifest = resolve(access_to(registry), "moving", None)
        registry.add_model("moving", [*PARTS, ("system", b"You are another.")])
        fetch(access_to(registry), manifest, attempt)
        assert contents(attempt.workspace) == stored.folder(DEFAULT_HOST, "library", "moving", "latest")
        assert resolve(access_to(registry), "moving", None).revision != stored.id

    def test_a_second_fetch_leaves_stored_content_as_it_is(
        self, registry: FakeOllamaRegistry, attempt: LocalAttempt
    ) -> None:
        registry.add_model("m", PARTS, tag="a")
        registry.add_model("m", [*PARTS, ("system", b"Another")], tag="b")
        fetch(access_to(registry), resolve(access_to(registry), "m", "a"), attempt)
        registry.add_model("m", [*PARTS, ("system", b"Third")], tag="a")
        fetch(access_to(registry), resolve(access_to(registry), "m", "a"), attempt)
        for blob in (attempt.root / "blobs").iterdir():
            assert sha256(blob.read_bytes()) == blob.name

    def test_one_flipped_bit_is_refused(self, registry: FakeOllamaRegistry, attempt: LocalAttempt) -> None:
        registry.add_fault(Fault(kind=FlipBit(700_000), match=Match(origin="storage")))
        manifest = resolve(access_to(registry))
        with pytest.raises(IntegrityMismatch):
            fetch(access_to(registry), manifest, attempt)
        assert not (attempt.workspace / "manifests").exists()

    @pytest.mark.parametrize("size", [1, len(WEIGHTS) - 1, len(WEIGHTS) + 1, 10 * len(WEIGHTS)])
    def test_a_lying_size_is_refused(self, registry: FakeOllamaRegistry, attempt: LocalAttempt, size: int) -> None:
        registry.put("liar", StoredModel(with_layer(size=size), a_model(PARTS).blobs))
        manifest = resolve(access_to(registry), "liar", None)
        with pytest.raises(IntegrityMismatch):
            fetch(access_to(registry), manifest, attempt)
        assert not (attempt.workspace / "manifests").exists()

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), SourcePrivateOrMissing),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (rate_limited(120, header="Retry-After"), RateLimited),
            (RedirectTo("ftp://127.0.0.1/x"), SourceUnsafe),
            (RedirectTo("http://169.254.169.254/latest/meta-data"), SourceUnsafe),
        ],
    )
    def test_each_refusal_of_a_content_has_its_code(
        self, registry: FakeOllamaRegistry, attempt: LocalAttempt, kind: FaultKind, error: type[StageError]
    ) -> None:
        manifest = resolve(access_to(registry))
        registry.add_fault(Fault(kind=kind, match=Match(path="*/blobs/*", origin="registry")))
        with pytest.raises(error):
            fetch(access_to(registry), manifest, attempt)

    @pytest.mark.parametrize("kind", [Status(500), Drop(), Cut(300_000), Stall(0.3)])
    def test_what_passes_is_borne(self, registry: FakeOllamaRegistry, attempt: LocalAttempt, kind: FaultKind) -> None:
        manifest = resolve(access_to(registry))
        registry.add_fault(Fault(kind=kind, match=Match(origin="storage"), count=2))
        fetch(access_to(registry), manifest, attempt)
        assert faults_of_folder(attempt.workspace) == []

    def test_an_expired_address_is_asked_for_anew(self, attempt: LocalAttempt) -> None:
        with FakeOllamaRegistry(signed_url_uses=2) as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            fetch(access_to(registry), resolve(access_to(registry)), attempt)
        assert faults_of_folder(attempt.workspace) == []

    def test_a_cancel_is_heard_within_a_second(self, registry: FakeOllamaRegistry, attempt: LocalAttempt) -> None:
        manifest = resolve(access_to(registry))
        registry.add_fault(Fault(kind=Throttle(200_000), match=Match(origin="storage")))
        threading.Timer(0.5, attempt.cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(JobCancelled):
            fetch(access_to(registry), manifest, attempt)
        assert time.monotonic() - started < 0.5 + 1
        assert not (attempt.workspace / "manifests").exists()

    def test_kill_9_costs_at_most_a_block_per_connection(self, tmp_path: Path) -> None:
        limits = msgspec.structs.replace(LIMITS, connections=4)
        weights = hashlib.shake_128(b"weights").digest(24 * BLOCK)
        with FakeOllamaRegistry(bytes_per_s=1_500_000) as registry:
            stored = registry.add_model("llama3.2", [("model", weights)], tag="3b")
            for _ in range(3):
                before = registry.requests.bytes_served(origin="storage")
                child = a_child_that_pulls(registry.endpoint, tmp_path, limits)
                while child.is_alive() and registry.requests.bytes_served(origin="storage") < before + 4 * BLOCK:
                    time.sleep(0.01)
                child.kill()
                child.join()
            attempt = LocalAttempt(tmp_path, limits)
            fetch(access_to(registry), resolve(access_to(registry)), attempt)
            served = registry.requests.bytes_served(origin="storage")
        assert contents(attempt.workspace) == stored.folder(DEFAULT_HOST, "library", "llama3.2", "3b")
        assert attempt.reports[-1].bytes_resumed > 0
        assert 0 <= served - len(weights) <= 3 * limits.connections * BLOCK + 64 * KIB


def pull(endpoint: str, root: Path, limits: TransferLimits) -> None:
    access = Access(settings={"OLLAMA_REGISTRY": endpoint})
    fetch(access, resolve(access), LocalAttempt(root, limits, "killed"))


def a_child_that_pulls(endpoint: str, root: Path, limits: TransferLimits) -> Any:
    child = multiprocessing.get_context("spawn").Process(target=pull, args=(endpoint, root, limits), daemon=True)
    child.start()
    return child


@dataclass(frozen=True)
class _Says(FaultKind):
    """Answers with this document."""

    document: str

    def meet(self, request: Request) -> Reply:  # noqa: ARG002 - whatever is asked
        return reply_with(200, self.document.encode(), {"Content-Type": "application/json"})


class TestTokens:
    def test_an_anonymous_token_opens_what_is_public(self, attempt: LocalAttempt) -> None:
        with FakeOllamaRegistry(door="anonymous") as registry:
            stored = registry.add_model("llama3.2", PARTS, tag="3b")
            manifest = resolve(access_to(registry))
            fetch(access_to(registry), manifest, attempt)
            assert contents(attempt.workspace) == stored.folder(DEFAULT_HOST, "library", "llama3.2", "3b")
            assert len(registry.tokens.issued) == 2
            assert not any(request.had_authorization for request in registry.requests.matching(origin="storage"))
            assert not any(request.had_authorization for request in registry.requests.matching("/token"))

    def test_a_token_that_expires_during_a_transfer_is_renewed(self, attempt: LocalAttempt) -> None:
        with FakeOllamaRegistry(door="anonymous", signed_url_uses=1) as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            manifest = resolve(access_to(registry))
            registry.tokens.uses = 5
            Registry(access_to(registry), young_s=0.0).fetch(manifest, OllamaName.of("llama3.2:3b"), attempt)
            assert len(registry.tokens.issued) > 3
        assert faults_of_folder(attempt.workspace) == []

    def test_a_new_token_that_opens_nothing_is_the_end(self, attempt: LocalAttempt) -> None:
        with FakeOllamaRegistry(door="anonymous") as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            manifest = resolve(access_to(registry))
            registry.tokens.uses = 0
            with pytest.raises(SourcePrivateOrMissing, match="is not public"):
                fetch(access_to(registry), manifest, attempt)
            with pytest.raises(SourcePrivateOrMissing, match="is not public"):
                resolve(access_to(registry))

    @pytest.mark.parametrize("door", ["signed", "elsewhere"])
    def test_what_is_not_for_everybody_is_private(self, door: Any) -> None:
        with FakeOllamaRegistry(door=door) as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            with pytest.raises(SourcePrivateOrMissing, match="is not public"):
                resolve(access_to(registry))
            assert registry.requests.count(origin="storage") == 0

    @pytest.mark.parametrize(
        "challenge",
        ["Basic realm=x", "Bearer", "Bearer realm=", 'Bearer realm="file:///etc/passwd"', 'Bearer realm="http://[::"'],
    )
    def test_an_odd_challenge_is_a_refusal(self, registry: FakeOllamaRegistry, challenge: str) -> None:
        registry.add_fault(Fault(kind=Status(401, {"WWW-Authenticate": challenge})))
        with pytest.raises(SourcePrivateOrMissing):
            resolve(access_to(registry))

    @pytest.mark.parametrize("token", ["a b", "x\r\nHost: y", "", 7, None, ["t"], "ü", "t" * 20_000])
    def test_an_odd_token_is_not_used(self, token: object) -> None:
        with FakeOllamaRegistry(door="anonymous") as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            body = json.dumps({"token": token})
            registry.add_fault(Fault(kind=_Says(body), match=Match(path="/token")))
            with pytest.raises(SourcePrivateOrMissing):
                resolve(access_to(registry))

    def test_no_token_is_logged(self, attempt: LocalAttempt, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with FakeOllamaRegistry(door="anonymous") as registry:
            registry.add_model("llama3.2", PARTS, tag="3b")
            fetch(access_to(registry), resolve(access_to(registry)), attempt)
            assert registry.tokens.issued
            assert not any(token in caplog.text for token in registry.tokens.issued)


@pytest.fixture
def server() -> Iterator[FakeOllamaServer]:
    with FakeOllamaServer() as server:
        server.offers["llama3.2:3b"] = Offer()
        yield server


def through(server: FakeOllamaServer) -> Access:
    return Access(settings={"OLLAMA_HOST": server.endpoint})


def pulled(server: FakeOllamaServer, attempt: LocalAttempt, limits: TransferLimits = LIMITS) -> dict[str, Any]:
    """The note that a pull leaves."""
    attempt.limits = limits
    fetch(through(server), resolve(through(server)), attempt)
    return cast("dict[str, Any]", json.loads((attempt.workspace / "ollama.json").read_bytes()))


@pytest.fixture
def client(server: FakeOllamaServer) -> Iterator[ollama.Client]:
    """Ollama's own client."""
    with ollama.Client(server.endpoint) as client:
        yield client


class TestTheServersStandIn:
    """Ollama's own client for Python against the server of the tests."""

    def test_it_pulls_and_lists(self, client: ollama.Client) -> None:
        heard = list(client.pull("llama3.2:3b", stream=True))
        assert [heard[0].status, heard[-1].status] == ["pulling manifest", "success"]
        layers = {line.digest: line for line in heard if line.digest}
        assert len(layers) == 3
        assert all(line.completed == line.total for line in layers.values())
        (listed,) = client.list().models
        assert (listed.model, len(listed.digest or "")) == ("llama3.2:3b", 64)

    def test_it_pulls_without_telling_how_far_it_is(self, server: FakeOllamaServer, client: ollama.Client) -> None:
        assert client.pull("llama3.2:3b").status == "success"
        assert list(server.models) == ["llama3.2:3b"]

    def test_a_failure_is_a_line_of_its_own(self, server: FakeOllamaServer, client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            list(client.pull("nobody", stream=True))
        assert server.models == {}

    def test_a_client_that_leaves_ends_the_pull(self, server: FakeOllamaServer, client: ollama.Client) -> None:
        server.offers["llama3.2:3b"] = Offer(ticks=100, every_s=0.05)
        heard = client.pull("llama3.2:3b", stream=True)
        for _ in range(3):
            next(heard)
        cast("Any", heard).close()
        wait_until_it_has_ended(server)
        assert server.models == {}


def wait_until_it_has_ended(server: FakeOllamaServer) -> None:
    """Return as soon as the server no longer answers any pull. A pull that goes on would take longer."""
    deadline = time.monotonic() + 1
    while not all(request.finished for request in server.requests.matching("/api/pull")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestThroughAServer:
    def test_the_note_names_what_the_server_has(
        self, server: FakeOllamaServer, client: ollama.Client, attempt: LocalAttempt
    ) -> None:
        server.models["other:latest"] = {**a_listed("other:latest"), "digest": "0" * 64}
        note = pulled(server, attempt)
        (listed,) = (model for model in client.list().models if model.model == "llama3.2:3b")
        assert note == {
            "server": server.endpoint,
            "model": "llama3.2:3b",
            "digest": f"sha256:{listed.digest}",
            "size": int(listed.size or 0),
        }

    def test_it_is_published_and_each_job_pulls(self, server: FakeOllamaServer, tmp_path: Path) -> None:
        wish = Wish(name="llama3.2", hub="ollama", root="", revision="3b")
        for number in (1, 2):
            folder, told = published({"OLLAMA_HOST": server.endpoint}, tmp_path, wish)
            assert contents(folder).keys() == {"ollama.json", ".modelferry.json"}
            assert (told["reused"], told["told"]) == (False, {"model_name": "llama3.2:3b"})
            assert server.requests.count("/api/pull") == number
            server.models.clear()

    def test_the_progress_is_the_servers(self, server: FakeOllamaServer, attempt: LocalAttempt) -> None:
        pulled(server, attempt)
        total = sum(Offer().layers)
        assert (attempt.reports[-1].bytes_done, attempt.reports[-1].bytes_total) == (total, total)
        phases = [report.phase for report in attempt.reports]
        assert phases == sorted(phases, key=[Phase.RESOLVING, Phase.DOWNLOADING, Phase.VERIFYING].index)
        done = [report.bytes_done for report in attempt.reports]
        assert done == sorted(done)

    def test_a_second_attempt_leaves_stored_content_as_it_is(
        self, server: FakeOllamaServer, attempt: LocalAttempt
    ) -> None:
        (attempt.root / "blobs" / "x").write_bytes(b"stored")
        (attempt.workspace / "ollama.json").hardlink_to(attempt.root / "blobs" / "x")
        pulled(server, attempt)
        assert (attempt.root / "blobs" / "x").read_bytes() == b"stored"

    @pytest.mark.parametrize(
        ("offer", "error"),
        [
            (None, SourceNotFound),
            (Offer(fails_with="pull model manifest: file does not exist"), SourceNotFound),
            (Offer(fails_with="pull model manifest: unauthorized"), SourcePrivateOrMissing),
            (Offer(fails_with="write /root/.ollama/models: no space left on device"), DiskFull),
            (Offer(fails_with='max retries exceeded: Get "https://s.example/x?sig=secret": EOF'), HubUnavailable),
            (Offer(ends_early=True), HubUnavailable),
            (Offer(gets_lost=True), OutputIncomplete),
        ],
    )
    def test_success_is_only_what_the_server_has(
        self, server: FakeOllamaServer, attempt: LocalAttempt, offer: Offer | None, error: type[StageError]
    ) -> None:
        server.offers = {} if offer is None else {"llama3.2:3b": offer}
        with pytest.raises(error) as caught:
            pulled(server, attempt)
        assert "sig=" not in str(caught.value)
        assert not (attempt.workspace / "ollama.json").exists()

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(400), InvalidParameters),
            (Status(401), SourcePrivateOrMissing),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), HubUnavailable),
            (Status(500), HubUnavailable),
            (rate_limited(5), RateLimited),
            (RedirectLoop(), HubUnavailable),
            (RedirectTo("http://169.254.169.254/"), StageError),
            (Drop(), HubUnavailable),
            (Cut(200), HubUnavailable),
            (_Says("<html>"), HubUnavailable),
            (_Says("[1]"), HubUnavailable),
            (_Says("x" * 70_000), SourceUnsafe),
            (_Says('{"status":"success"'), HubUnavailable),
            (_Says(""), HubUnavailable),
        ],
    )
    def test_each_trouble_has_its_code(
        self, server: FakeOllamaServer, attempt: LocalAttempt, kind: FaultKind, error: type[StageError]
    ) -> None:
        server.add_fault(Fault(kind=kind, match=Match(path="/api/pull")))
        with pytest.raises(error):
            pulled(server, attempt)

    @pytest.mark.parametrize(
        "said", ["{", "[]", '{"models": 7}', '{"models":[{"name":"llama3.2:3b","digest":"../x"}]}']
    )
    def test_a_list_that_makes_no_sense_proves_nothing(
        self, server: FakeOllamaServer, attempt: LocalAttempt, said: str
    ) -> None:
        server.add_fault(Fault(kind=_Says(said), match=Match(path="/api/tags")))
        with pytest.raises(HubUnavailable):
            pulled(server, attempt)

    def test_a_server_that_is_not_there_is_an_error(self, server: FakeOllamaServer) -> None:
        server.stop()
        with pytest.raises(HubUnavailable):
            resolve(through(server))

    def test_something_else_at_its_address_is_an_error(self, registry: FakeOllamaRegistry) -> None:
        with pytest.raises(HubUnavailable, match="no Ollama server"):
            resolve(Access(settings={"OLLAMA_HOST": registry.endpoint}))

    @pytest.mark.parametrize("host", ["ftp://x", "http://h:port", "http://[::", "h:99999"])
    def test_an_address_that_is_none_is_an_error(self, host: str) -> None:
        with pytest.raises(InvalidParameters, match="OLLAMA_HOST names no server"):
            resolve(Access(settings={"OLLAMA_HOST": host}))

    @pytest.mark.parametrize("offer", [Offer(ticks=100, every_s=0.1), Offer(checking_s=30), Offer(ticks=2, every_s=30)])
    def test_a_cancel_is_heard_within_a_second_and_ends_the_pull(
        self, server: FakeOllamaServer, attempt: LocalAttempt, offer: Offer
    ) -> None:
        server.offers["llama3.2:3b"] = offer
        threading.Timer(0.6, attempt.cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(JobCancelled):
            pulled(server, attempt)
        assert time.monotonic() - started < 0.6 + 1
        assert server.models == {}
        assert server.requests.count("/api/tags") == 0
        if offer.every_s + offer.checking_s < 1:
            wait_until_it_has_ended(server)

    def test_a_pull_of_which_nothing_is_heard_has_stalled(
        self, server: FakeOllamaServer, attempt: LocalAttempt
    ) -> None:
        server.offers["llama3.2:3b"] = Offer(ticks=2, every_s=30)
        with pytest.raises(TransferStalled, match="said nothing"):
            pulled(server, attempt, msgspec.structs.replace(LIMITS, stall_s=0.5))

    def test_a_pull_that_talks_and_gets_no_further_has_stalled(
        self, server: FakeOllamaServer, attempt: LocalAttempt
    ) -> None:
        server.offers["llama3.2:3b"] = Offer(layers=(3,), ticks=1000, every_s=0.02)
        with pytest.raises(TransferStalled, match="no further"):
            pulled(server, attempt, msgspec.structs.replace(LIMITS, stall_s=0.5))

    def test_checking_may_take_longer_than_a_stall(self, server: FakeOllamaServer, attempt: LocalAttempt) -> None:
        server.offers["llama3.2:3b"] = Offer(checking_s=1.2)
        assert pulled(server, attempt, msgspec.structs.replace(LIMITS, stall_s=0.5))["model"] == "llama3.2:3b"

    def test_no_thread_is_left(self, server: FakeOllamaServer, attempt: LocalAttempt) -> None:
        pulled(server, attempt)
        assert not [thread for thread in threading.enumerate() if thread.name == "lines"]


def a_listed(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": 1, "modified_at": "2026-08-01T10:00:00Z", "details": {}}
