"""Every hub, led to a server of an attacker's; and every hub before a fake of its own, whose documents are spoilt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.catalog.registry import Catalog
from common.errors import StageError
from common.plugins import Access, NetworkRules, TransferLimits
from common.spec import Manifest, check_distinct, check_file_path
from tests.contract.places import Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.omz import FakeOmz

LIMITS = TransferLimits(connect_s=5.0, read_s=10.0, stall_s=20.0, spare_bytes=0)
HASTY = TransferLimits(connect_s=1.0, read_s=0.3, stall_s=0.3, spare_bytes=0)
"""For transfers that end because nothing arrives: with the patience of a test."""
TOKEN = "hf_QmFzdGlvblRva2VuT2ZPdXJz"
PROFILES = json.dumps({"ultralytics": "/profile"})


@dataclass(frozen=True)
class Door:
    """How a plugin is led to a server: which of its settings name it, and what is asked for there."""

    hub: str
    name: str
    settings: Mapping[str, str]
    """`{url}` stands for the server."""
    raw: dict[str, object] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False
    believes: bool = False
    """Whether nobody tells it what the bytes must be."""

    def place(self, url: str, folder: Path, certificate: Path | None = None) -> Place:
        """The hub, led to this address."""
        settings = {name: _led(value, url) for name, value in self.settings.items()}
        raw = {name: _led(value, url) if isinstance(value, str) else value for name, value in self.raw.items()}
        if self.hub == "omz":
            settings["OMZ_CATALOGUE"] = str(_catalogue(folder))
        network = NetworkRules()
        if self.tls:
            hosts = frozenset({url.partition("://")[2]})
            network = NetworkRules(ca_bundle=str(certificate), private_hosts=hosts)
        access = Access(settings=settings, secrets=dict(self.secrets), network=network)
        return Place(Catalog.installed(f"all,{self.hub}").hubs[self.hub], access, raw, name=self.name)


DOORS: Mapping[str, Door] = {
    "huggingface": Door("huggingface", "org/model", {"HF_ENDPOINT": "{url}"}, secrets={"HF_TOKEN": TOKEN}),
    "openvino": Door("openvino", "org/model", {"HF_ENDPOINT": "{url}"}, secrets={"HF_TOKEN": TOKEN}),
    "geti": Door("geti", "YOLOX", {"GETI_HOST": "{url}"}, secrets={"GETI_TOKEN": TOKEN}),
    "ollama": Door("ollama", "org/model", {"OLLAMA_REGISTRY": "{url}"}),
    "ollama-server": Door("ollama", "org/model", {"OLLAMA_HOST": "{url}"}),
    "pipeline-zoo-models": Door(
        "pipeline-zoo-models",
        "dbnet",
        {"PIPELINE_ZOO_URL": "{url}/owner/zoo", "PIPELINE_ZOO_API_URL": "{url}/api/v3"},
    ),
    "omz": Door("omz", "model", {"OMZ_URL": "{url}"}),
    "hls": Door(
        "hls",
        "mtts_can",
        {"HLS_RPPG_MODEL_URL": "{url}/mtts_can.hdf5", "MODELFERRY_MAX_UNPACKED_MB": "16"},
        {"model_type": "rppg"},
    ),
    "ultralytics": Door(
        "ultralytics",
        "yolov8n",
        {"ULTRALYTICS_ASSETS_URL": "{url}", "ULTRALYTICS_RELEASES_URL": "{url}/r", "MODELFERRY_PROFILES": PROFILES},
    ),
    "ultralytics-mirror": Door(
        "ultralytics",
        "yolov8n",
        {"ULTRALYTICS_ASSETS_URL": "{url}", "MODELFERRY_PROFILES": PROFILES, "MODELFERRY_MAX_UNPACKED_MB": "16"},
        believes=True,
    ),
    "remote-url": Door(
        "remote-url",
        "wind",
        {"EXTERNAL_SOURCES_URL_ALLOWLIST": "{host}/zoo/", "MODELFERRY_MAX_UNPACKED_MB": "16"},
        {"url": "{url}/zoo/model.tar"},
        tls=True,
    ),
}
"""Hub, or a way that one has beside another -> its door."""


def outcome(place: Place, attempt: LocalAttempt) -> str:
    """The code that a download ends with, or `done`. Everything but a StageError is a fault, and raised."""
    try:
        manifest = place.resolve()
        check_manifest(manifest)
        left = place.hub.fetch(manifest, place.plugin.bind(place.raw), attempt)
    except StageError as error:
        check_words(error)
        return error.code
    for path in left or ():
        check_file_path(path)
    return "done"


def check_manifest(manifest: Manifest) -> None:
    """Whether a manifest may go on to the tables and to the disk."""
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
    check_distinct([check_file_path(file.path) for file in manifest.files])
    assert all(file.size is None or 0 <= file.size < 2**62 for file in manifest.files)
    assert (manifest.total_bytes or 0) < 2**63
    assert len(msgspec.json.encode(manifest)) < 16 * 1024 * 1024


def check_words(error: StageError) -> None:
    """Whether an error may be shown: our own words, printable, short, and without what only we may know."""
    said = f"{error} {error.advice}"
    assert TOKEN not in said
    assert len(said) < 2000, said[:3000]
    assert str(error)
    said.encode()


def _led(text: str, url: str) -> str:
    return text.replace("{url}", url).replace("{host}", url.partition("://")[2])


def _catalogue(folder: Path) -> Path:
    zoo = FakeOmz()
    zoo.add_model("model", {"FP16/model.xml": b"<net/>" * 100, "FP16/model.bin": bytes(5000)})
    folder.mkdir(parents=True, exist_ok=True)
    return zoo.write_catalogue(folder / "omz.json")
