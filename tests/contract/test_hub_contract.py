"""What every hub plugin promises, whoever wrote it: the same tests for ours and for a third party's."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.catalog.registry import Catalog
from common.errors import InvalidSpec, JobCancelled, SourceNotFound, SourcePrivateOrMissing
from common.plugins import Access, HubPlugin
from common.spec import Manifest, Source
from tests.fakes.attempt import LocalAttempt
from tests.fakes.huggingface import FakeHuggingFace

MODEL = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 8000, "sub/vocab.txt": b"a\nb\n"}
SECRET = "hf_contracttoken"


@dataclass(frozen=True)
class Place:
    """A hub with the model `org/model`, and how to reach it."""

    plugin: HubPlugin
    access: Access
    raw: dict[str, object]

    def resolve(self, name: str = "org/model") -> Manifest:
        source = Source(hub=self.plugin.origin or self.plugin.name, name=name)
        return self.plugin.load(self.access).resolve(source, self.plugin.bind(self.raw))

    def fetch(self, manifest: Manifest, attempt: LocalAttempt) -> None:
        self.plugin.load(self.access).fetch(manifest, self.plugin.bind(self.raw), attempt)


@pytest.fixture(params=["huggingface", "openvino", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "folder":
        monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "fakes" / "plugins"))
        for name, content in MODEL.items():
            path = tmp_path / "hub/org/model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Place(Catalog.installed("all").hubs["folder"], Access(), {"root": str(tmp_path / "hub")})
        sys.modules.pop("folder_hub", None)
        return
    with FakeHuggingFace() as hub:
        hub.tokens = {SECRET: {"org/model"}}
        hub.add_repo("org/model", MODEL)
        access = Access(settings={"HF_ENDPOINT": hub.endpoint}, secrets={"HF_TOKEN": SECRET})
        # The door to pre-converted models is tried with its preset off: the model here is any model.
        yield Place(Catalog.installed("all").hubs[request.param], access, {})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_descriptor_is_whole(place: Place) -> None:
    assert place.plugin.description
    assert place.plugin.formats
    assert "extra" not in place.plugin.options.__struct_fields__ or place.plugin.bind({"made_up": 1})
    with pytest.raises(InvalidSpec):
        place.plugin.bind({next(iter(place.plugin.options.__struct_fields__)): object()})


def test_resolve_pins_a_revision_and_is_pure(place: Place, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    first, second = place.resolve(), place.resolve()
    assert first == second
    assert first.revision
    assert {file.path for file in first.files} == MODEL.keys()
    assert first.total_bytes == sum(len(content) for content in MODEL.values())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_source_is_not_found(place: Place) -> None:
    with pytest.raises((SourceNotFound, SourcePrivateOrMissing)):
        place.resolve("org/nowhere")


def test_fetching_twice_leaves_the_same_bytes_in_the_workspace_only(place: Place, tmp_path: Path) -> None:
    attempt = LocalAttempt(tmp_path / "attempt")
    elsewhere = set(tmp_path.rglob("*"))
    for _ in range(2):
        place.fetch(place.resolve(), attempt)
        assert contents(attempt.workspace) == MODEL
    written = {path for path in set(tmp_path.rglob("*")) - elsewhere if not path.is_relative_to(attempt.root)}
    assert written == set()
    assert attempt.reports


def test_a_cancelled_fetch_stops_and_a_later_one_completes(place: Place, tmp_path: Path) -> None:
    attempt = LocalAttempt(tmp_path / "attempt")
    attempt.cancelled.set()
    with pytest.raises(JobCancelled):
        place.fetch(place.resolve(), attempt)
    assert contents(attempt.workspace).keys() < MODEL.keys()
    attempt.cancelled.clear()
    place.fetch(place.resolve(), attempt)
    assert contents(attempt.workspace) == MODEL


def test_no_secret_is_logged(place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place.fetch(place.resolve(), LocalAttempt(tmp_path / "attempt"))
    assert SECRET not in caplog.text
