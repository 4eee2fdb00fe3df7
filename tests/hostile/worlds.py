"""Hubs that speak their protocol, and lie in one field of one document at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec

from common.catalog.registry import Catalog
from common.errors import StageError
from common.plugins import Access, ListingHub, ListPage, ListQuery, NetworkRules
from tests.contract.places import Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.exchange import Reply, Request, read
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.geti import FakeGeti2, FakeGeti3, Shelf, Training
from tests.fakes.git_lfs import FakeForge
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.ollama_registry import FakeOllamaRegistry
from tests.fakes.ollama_server import FakeOllamaServer, Offer
from tests.fakes.ultralytics_assets import FakeUltralyticsAssets
from tests.hostile.doors import PROFILES, TOKEN, check_manifest, check_words

Step = str | int
Spot = tuple[str, tuple[Step, ...]]
"""A document by the path of its address, and a field in it."""

_README = b"---\nlicense: apache-2.0\nbase_model: org/base\ntags: [a, b]\n---\n# A model\n"


@dataclass
class Liar(FaultKind):
    """Writes `value` where `spot` is; remembers all spots that it meets."""

    spot: Spot | None = None
    value: object = None
    met: dict[Spot, None] = field(default_factory=dict)

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        if "ndjson" in (reply.header("Content-Type") or ""):
            return None
        body = b"".join(read(piece) for piece in reply.pieces)
        if reply.status != 200 or body[:1] not in {b"{", b"["}:
            return None
        try:
            document = json.loads(body)
        except ValueError:
            return None
        self.met |= {(request.path, steps): None for steps in _spots(document)}
        if self.spot is None or self.spot[0] != request.path:
            return None
        spoilt = json.dumps(_with(document, self.spot[1], self.value)).encode()
        return replace(reply.with_header("Content-Length", str(len(spoilt))), pieces=(spoilt,))


@dataclass(frozen=True)
class World:
    """A fake hub and the plugin that asks it."""

    place: Place
    liar: Liar
    fetched: tuple[str, ...] = ()
    """What the paths of documents hold that are asked for by a fetch only."""
    lists: bool = True
    """Whether it is asked for a listing, too."""

    def spots(self, attempt: LocalAttempt) -> list[Spot]:
        """Every field of every document that the hub is asked for."""
        self.liar.spot = None
        assert self.ask(attempt, fetches=bool(self.fetched)) == "done"
        return list(self.liar.met)

    def lie(self, spot: Spot, value: object, attempt: LocalAttempt) -> str:
        """What all the questions end with where the hub says this there."""
        self.liar.spot, self.liar.value = spot, value
        return self.ask(attempt, fetches=any(word in spot[0] for word in self.fetched))

    def ask(self, attempt: LocalAttempt, *, fetches: bool) -> str:
        codes = [_code(lambda: self._download(attempt, fetches=fetches))]
        if self.lists and self.place.plugin.listing_filters is not None and not fetches:
            codes.append(_code(self._list))
        return next((code for code in codes if code != "done"), "done")

    def _download(self, attempt: LocalAttempt, *, fetches: bool) -> None:
        manifest = self.place.resolve()
        check_manifest(manifest)
        if fetches:
            self.place.hub.fetch(manifest, self.place.plugin.bind(self.place.raw), attempt)
            assert all(report.bytes_done < 2**63 for report in attempt.reports)
            assert all((report.bytes_total or 0) < 2**63 for report in attempt.reports)

    def _list(self) -> None:
        page = cast("ListingHub", self.place.hub).list(ListQuery(limit=5))
        try:
            msgspec.json.decode(msgspec.json.encode(page), type=ListPage)
        except (TypeError, ValueError, msgspec.ValidationError, RecursionError):
            return  # The stage that asks refuses such a page as unsafe; tests/integration/test_api_listing.py.


def _code(ask: Callable[[], None]) -> str:
    try:
        ask()
    except StageError as error:
        check_words(error)
        return error.code
    return "done"


def _spots(value: object, before: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Every place in a document; of a list the first item stands for all."""
    yield before
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _spots(item, (*before, key))
    elif isinstance(value, list) and value:
        yield from _spots(value[0], (*before, 0))


def _with(document: Any, steps: tuple[Step, ...], value: object) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        return [_with(item, rest, value) if number == step else item for number, item in enumerate(document)]
    return {key: _with(item, rest, value) if key == step else item for key, item in document.items()}


@contextmanager
def _huggingface() -> Iterator[World]:
    with FakeHuggingFace(page_size=1000) as fake:
        fake.add_repo(
            "org/model",
            {"README.md": _README, "config.json": b"{}", "model.safetensors": bytes(5000)},
            facts={"downloads": 5, "likes": 1, "pipeline_tag": "text-generation", "library_name": "transformers"},
        )
        access = Access(settings={"HF_ENDPOINT": fake.endpoint}, secrets={"HF_TOKEN": TOKEN})
        fake.tokens[TOKEN] = set()
        yield _world(fake, "huggingface", access, {}, "org/model")


@contextmanager
def _geti2() -> Iterator[World]:
    with FakeGeti2() as fake:
        fake.add(Shelf(name="Ships").add(Training(name="YOLOX")))
        access = Access(settings={"GETI_HOST": fake.host}, secrets={"GETI_TOKEN": fake.token})
        # Its listing is that of version 3, and has a hundred fields to lie in.
        yield replace(_world(fake, "geti", access, {}, "YOLOX"), lists=False)


@contextmanager
def _geti3() -> Iterator[World]:
    with FakeGeti3() as fake:
        fake.add(Shelf(name="Ships").add(Training(name="YOLOX")))
        access = Access(settings={"GETI_HOST": fake.host}, secrets={"GETI_TOKEN": TOKEN})
        yield _world(fake, "geti", access, {}, "YOLOX")


@contextmanager
def _ollama() -> Iterator[World]:
    with FakeOllamaRegistry() as fake:
        fake.add_model("org/model", [("model", b"GGUF" * 100), ("license", b"MIT\n"), ("params", b"{}")])
        yield _world(fake, "ollama", Access(settings={"OLLAMA_REGISTRY": fake.endpoint}), {}, "org/model")


@contextmanager
def _ollama_server() -> Iterator[World]:
    with FakeOllamaServer() as fake:
        fake.offers["org/model:latest"] = Offer(layers=(500, 70), ticks=1)
        access = Access(settings={"OLLAMA_HOST": fake.endpoint})
        yield _world(fake, "ollama", access, {}, "org/model", "/api/")


@contextmanager
def _pipeline_zoo() -> Iterator[World]:
    files = {"LICENSE": b"Apache License Version 2.0", "storage/dbnet/FP16/dbnet.xml": b"<net/>" * 300}
    with FakeForge(files | {"storage/dbnet/FP16/dbnet.bin": bytes(3000)}) as fake:
        fake.quota = 10**9
        network = NetworkRules(private_hosts=frozenset({fake.storage_url.removeprefix("http://")}))
        access = Access(settings={"PIPELINE_ZOO_URL": fake.url}, network=network)
        yield _world(fake, "pipeline-zoo-models", access, {}, "dbnet", "/info/lfs/")


@contextmanager
def _ultralytics() -> Iterator[World]:
    with FakeUltralyticsAssets() as fake:
        fake.add({"yolov8n.pt": bytes(5000)})
        access = Access(settings={**fake.settings, "MODELFERRY_PROFILES": PROFILES})
        yield _world(fake, "ultralytics", access, {}, "yolov8n")


def _world(fake: Any, hub: str, access: Access, raw: dict[str, object], name: str, *fetched: str) -> World:
    liar = Liar()
    fake.faults.add(Fault(kind=liar))
    return World(Place(Catalog.installed(f"all,{hub}").hubs[hub], access, raw, name=name), liar, fetched)


WORLDS: Mapping[str, Callable[[], AbstractContextManager[World]]] = {
    "huggingface": _huggingface,
    "geti-2": _geti2,
    "geti-3": _geti3,
    "ollama": _ollama,
    "ollama-server": _ollama_server,
    "pipeline-zoo-models": _pipeline_zoo,
    "ultralytics": _ultralytics,
}
"""Hubs whose answers are documents. The others answer with files alone: see the table of wires."""
