"""Where the tests that every hub passes find hubs to pass them: each has a place, with one model in it.

A place is made by a context manager, `module:function`, that is called with an empty folder of its own. The variable
HUB_PLACES names some, with commas; then those are tried instead of ours.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from common.catalog.geti import GETI
from common.catalog.omz import OMZ
from common.catalog.registry import Catalog
from common.plugins import Access, Hub, HubPlugin
from common.spec import Manifest, Source
from tests.fakes.attempt import LocalAttempt
from tests.fakes.geti import FakeGeti2, Shelf, Training, zip_of
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.omz import FakeOmz

MODEL = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 8000, "sub/vocab.txt": b"a\nb\n"}
SECRET = "hf_contracttoken"

OURS = {
    "hls": "tests.contract.test_hls_hub:hls_place",
    "huggingface": "tests.contract.places:huggingface_place",
    "openvino": "tests.contract.places:openvino_place",
    "folder": "tests.contract.places:folder_place",
    "geti": "tests.contract.places:geti_place",
    "ollama": "tests.contract.test_ollama_hub:ollama_place",
    "omz": "tests.contract.places:omz_place",
    "pipeline-zoo-models": "tests.contract.test_pipeline_zoo_hub:pipeline_zoo_place",
    "remote-url": "tests.contract.test_remote_url_hub:remote_url_place",
    "ultralytics": "tests.contract.test_ultralytics_hub:ultralytics_place",
}
"""Hub -> what makes its place."""

PLUGINS = Path(__file__).parent.parent / "fakes" / "plugins"


@dataclass(frozen=True)
class Place:
    """A hub with the model `name`, and how to reach it. `model` is what a fetch of it leaves: path -> content."""

    plugin: HubPlugin[Any]
    access: Access
    raw: dict[str, object]
    """The options of the request."""
    model: Mapping[str, bytes] = field(default_factory=lambda: dict(MODEL))
    name: str = "org/model"

    @property
    def hub(self) -> Hub[Any]:
        """Made anew, as for each attempt."""
        return self.plugin.load(self.access)

    def source(self, name: str | None = None, revision: str | None = None) -> Source:
        return Source(hub=self.plugin.origin or self.plugin.name, name=name or self.name, revision=revision)

    def resolve(self, name: str | None = None) -> Manifest:
        return self.hub.resolve(self.source(name), self.plugin.bind(self.raw))

    def fetch(self, manifest: Manifest, attempt: LocalAttempt) -> dict[str, bytes]:
        """Fetch, and read what was left."""
        left = self.hub.fetch(manifest, self.plugin.bind(self.raw), attempt)
        paths = [file.path for file in manifest.files] if left is None else left
        return {path: (attempt.workspace / path).read_bytes() for path in paths}


def factories() -> list[str]:
    """What makes the places that are to be tried."""
    named = os.environ.get("HUB_PLACES", "")
    return [factory.strip() for factory in named.split(",") if factory.strip()] or list(OURS.values())


@contextmanager
def place_of(factory: str, folder: Path) -> Iterator[Place]:
    """The place that `module:function` makes. A hub's own tests may have made it with more in it, or with less."""
    module, _, name = factory.partition(":")
    make = getattr(importlib.import_module(module), name)
    wants_folder = any(p.default is p.empty for p in inspect.signature(make).parameters.values())
    with make(folder) if wants_folder else make() as made:
        known = {one.name: getattr(made, one.name) for one in fields(Place) if hasattr(made, one.name)}
        yield Place(**{"raw": {}, **known})


@contextmanager
def huggingface_place(_folder: Path, hub: str = "huggingface") -> Iterator[Place]:
    with FakeHuggingFace() as fake:
        fake.tokens = {SECRET: {"org/model"}}
        fake.add_repo("org/model", MODEL)
        for number in range(4):
            fake.add_repo(f"org/other-{number}", {"config.json": b"{}"})
        access = Access(settings={"HF_ENDPOINT": fake.endpoint}, secrets={"HF_TOKEN": SECRET})
        # The door to pre-converted models is tried with its preset off: the model here is any model.
        yield Place(Catalog.installed("all").hubs[hub], access, {})


@contextmanager
def openvino_place(folder: Path) -> Iterator[Place]:
    with huggingface_place(folder, "openvino") as place:
        yield place


@contextmanager
def geti_place(_folder: Path) -> Iterator[Place]:
    with FakeGeti2() as server:
        server.token = SECRET
        server.add(Shelf(name="Ships").add(Training(name="YOLOX S", base=zip_of(MODEL))))
        for number in range(4):
            server.add(Shelf(name=f"Project {number}").add(Training(name=f"Model {number}")))
        access = Access(settings={"GETI_HOST": server.host}, secrets={"GETI_TOKEN": SECRET})
        yield Place(GETI, access, {"export_type": "base"}, name="YOLOX S")


@contextmanager
def omz_place(folder: Path) -> Iterator[Place]:
    with FakeOmz() as zoo:
        zoo.add_model("model", MODEL)
        catalogue = zoo.write_catalogue(folder / "omz.json")
        access = Access(settings={"OMZ_URL": zoo.endpoint, "OMZ_CATALOGUE": str(catalogue)})
        yield Place(OMZ, access, {}, name="model")


@contextmanager
def folder_place(folder: Path) -> Iterator[Place]:
    for name, content in MODEL.items():
        path = folder / "org/model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    sys.path.insert(0, str(PLUGINS))
    try:
        access = Access(secrets={"FOLDER_TOKEN": "the-right-token"})
        yield Place(Catalog.installed("all").hubs["folder"], access, {"root": str(folder)})
    finally:
        sys.path.remove(str(PLUGINS))
        sys.modules.pop("folder_hub", None)
