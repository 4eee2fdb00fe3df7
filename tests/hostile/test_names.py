"""Names, revisions, paths and configs that try to be commands or ways out: at the door, and where they are used."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.artefacts.layout import Volume
from common.catalog.registry import Catalog
from common.errors import DestinationInvalid, DestinationOutside, InvalidSpec, StageError
from common.planning import Wish, plan
from common.spec import Digest, JobSpec, Manifest, RemoteFile, Source, check_file_path
from common.vocabulary import DigestAlgorithm, Format, ModelType
from tests.fakes.attempt import LocalAttempt
from tests.hostile.attacks import FLAGS, MARKER, NAMES
from tests.hostile.doors import DOORS, LIMITS, check_manifest, check_words
from tests.hostile.raw import RawServer, Visit
from tests.web import Web, web

CATALOG = Catalog.installed("all,ultralytics")
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOME_FOLDERS = {
    "huggingface": "huggingface",
    "openvino": "openvino",
    "ollama": "ollama",
    "geti": "geti",
    "ultralytics": "ultralytics",
    "pipeline-zoo-models": "pipeline-zoo-models",
    "omz": "omz",
    "remote-url": "remote-url",
}
"""Hub -> the folder below which all its models are. That of hub hls is the type of the model."""
HARMLESS = {"percent-format", "decomposed", "compatibility", "kelvin", "cyrillic"}
JOINTS = [
    "..",
    ".",
    "/",
    "//",
    "\\",
    ":",
    "@",
    ",",
    "%2e",
    "-",
    "_",
    "\0",
    "\n",
    " ",
    "\u2215",
    "\uff0e",
    "~",
    "$",
    ";",
    "x",
]
PIECES = st.lists(st.sampled_from(JOINTS) | st.text(max_size=4), max_size=8).map("".join)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """A server that knows nothing, for hubs to ask; and a folder of its own for whatever is written where it must not."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with RawServer(lambda visit: visit.send("HTTP/1.1 404 Not Found", "Content-Length: 0")) as server:
        yield server


def planned(hub: str, name: str, revision: str | None = None, **config: Any) -> JobSpec:
    if hub == "remote-url":
        config.setdefault("url", "https://files.example/{name}.tar")
    kind = ModelType.RPPG if hub == "hls" else None
    wish = Wish(name=name, hub=hub, root="x", revision=revision, config=config, model_type=kind)
    return plan(wish, CATALOG)


def folders_of(spec: JobSpec) -> list[str]:
    return [folder for folder in (spec.destination.folder, spec.shelf) if folder]


class TestAtTheDoor:
    """The real application: nothing is stored, or what is stored lies below the folder of the models."""

    @pytest.mark.parametrize("hub", CATALOG.hubs)
    @pytest.mark.parametrize("attack", NAMES)
    def test_a_name(self, service: Web, hub: str, attack: str) -> None:
        body = {"name": NAMES[attack], "hub": hub} | ({"type": "rppg"} if hub == "hls" else {})
        self._is_answered(service, body)

    @pytest.mark.parametrize("attack", NAMES)
    def test_a_revision(self, service: Web, attack: str) -> None:
        for hub in ("huggingface", "ollama", "geti", "pipeline-zoo-models"):
            self._is_answered(service, {"name": "model", "hub": hub, "revision": NAMES[attack]})

    @pytest.mark.parametrize("attack", FLAGS)
    def test_a_config(self, service: Web, attack: str) -> None:
        for hub, kind in (("openvino", "llm"), ("openvino", "text2speech"), ("huggingface", None), ("geti", None)):
            body = {"name": "org/model", "hub": hub, "config": FLAGS[attack]}
            self._is_answered(service, body | ({"type": kind, "is_ovms": True} if kind else {}))

    @pytest.mark.parametrize("attack", NAMES)
    def test_a_value_of_a_config(self, service: Web, attack: str) -> None:
        for key in ("precision", "device", "cache_size", "extra_quantization_params", "export_type", "quantize", "url"):
            for hub in ("openvino", "geti", "omz", "remote-url"):
                body: dict[str, Any] = {"name": "model", "hub": hub, "config": {key: NAMES[attack]}}
                self._is_answered(service, body | ({"type": "llm", "is_ovms": True} if hub == "openvino" else {}))

    @pytest.mark.parametrize("attack", NAMES)
    def test_a_download_path(self, service: Web, attack: str) -> None:
        path = NAMES[attack]
        if "\ud800" in path:
            pytest.skip("cannot stand in a URL")
        self._is_answered(service, {"name": "org/model", "hub": "huggingface"}, path)

    @staticmethod
    def _is_answered(service: Web, model: dict[str, Any], path: str = "x") -> None:
        # By hand: what is no Unicode can still be written as JSON.
        content = ascii_json({"models": [model]})
        headers = {"Content-Type": "application/json"}
        answer = service.post("/models/download", params={"download_path": path}, content=content, headers=headers)
        assert answer.status_code in {200, 400, 422}, answer.text
        for job_id in answer.json().get("job_ids", []):
            where = Path(service.job(job_id)["output_dir"])
            assert where.is_relative_to(service.models_dir)
            assert ".." not in where.parts
            assert not where.is_relative_to(service.models_dir / ".modelferry")
        assert not list(service.models_dir.parent.rglob(f"*{MARKER}*"))


class TestWhereTheyAreUsed:
    """Somebody has come past the door: the plugins are asked directly."""

    @pytest.mark.parametrize("door", [door for door in DOORS if door not in {"remote-url", "openvino"}])
    @pytest.mark.parametrize("what", ["name", "revision"])
    def test_nothing_else_is_asked_for(self, door: str, what: str, asked: RawServer, tmp_path: Path) -> None:
        place = DOORS[door].place(asked.own_url, tmp_path / "place")
        for attack, hostile in NAMES.items():
            if attack == "lone-surrogate":
                continue  # No door lets it in: it is no JSON.
            asked.requests.clear()
            name, revision = (hostile, None) if what == "name" else (DOORS[door].name, hostile)
            try:
                manifest = place.hub.resolve(
                    Source(hub=place.plugin.name, name=name, revision=revision), place.plugin.bind(place.raw)
                )
                check_manifest(manifest)
            except StageError as error:
                check_words(error)
            for visit in asked.requests:
                assert_is_below_home(visit, attack)
        assert not list(tmp_path.rglob(f"*{MARKER}*"))
        assert not any((tmp_path / "here").iterdir())

    @pytest.mark.parametrize("door", ["huggingface", "ollama", "pipeline-zoo-models", "omz", "hls"])
    def test_a_manifest_with_a_hostile_path_is_not_fetched(self, door: str, asked: RawServer, tmp_path: Path) -> None:
        """As if the row of a job had been tampered with."""
        place = DOORS[door].place(asked.own_url, tmp_path / "place")
        for number, (attack, hostile) in enumerate(NAMES.items()):
            attempt = LocalAttempt(tmp_path / f"attempt-{number}", LIMITS)
            if not is_unsafe(hostile):
                continue
            manifest = a_manifest(place.source(), hostile, asked.own_url)
            with pytest.raises(StageError) as told:
                place.hub.fetch(manifest, place.plugin.bind(place.raw), attempt)
            check_words(told.value)
            left = [
                path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "place")
            ]
            assert left == [], attack


class TestProperties:
    @pytest.mark.parametrize("hub", CATALOG.hubs)
    def test_any_name_that_is_taken_has_a_safe_folder(self, hub: str) -> None:
        """Those that the pattern makes, those that hostile pieces make, and any text."""
        pattern = re.compile(CATALOG.hubs[hub].name_pattern, re.ASCII)

        @MANY
        @given(st.one_of(st.from_regex(pattern, fullmatch=True), PIECES, st.sampled_from([*NAMES.values()])))
        def holds(name: str) -> None:
            try:
                spec = planned(hub, name)
            except InvalidSpec:
                return
            for folder in folders_of(spec):
                assert check_file_path(folder) == folder
                parts = folder.split("/")
                assert not any(part.startswith((".", "-")) or part != part.strip(" \t\r\n") for part in parts)
                assert parts[0] == HOME_FOLDERS.get(hub, parts[0])

        holds()

    @pytest.mark.parametrize("hub", CATALOG.hubs)
    def test_any_revision_that_is_taken_has_a_safe_folder(self, hub: str) -> None:
        name = {"hls": "mtts_can", "ultralytics": "yolov8n"}.get(hub, "model")

        @MANY
        @given(PIECES | st.sampled_from([*NAMES.values()]))
        def holds(revision: str) -> None:
            try:
                spec = planned(hub, name, revision)
            except InvalidSpec:
                return
            for folder in folders_of(spec):
                assert check_file_path(folder) == folder
                assert folder.split("/")[0] == HOME_FOLDERS.get(hub, folder.split("/")[0])
            assert ".." not in revision.split("/")
            assert not revision.startswith(("-", "/"))

        holds()

    def test_a_filter_of_geti_makes_no_folder_elsewhere(self) -> None:
        @MANY
        @given(st.dictionaries(PIECES, PIECES | st.integers() | st.none(), max_size=3), PIECES)
        def holds(extra: dict[str, Any], precision: str) -> None:
            try:
                spec = planned("geti", "YOLOX", precision=precision, **{f"k{key}": extra[key] for key in extra})
            except InvalidSpec:
                return
            folder = spec.destination.folder
            assert check_file_path(folder) == folder
            assert folder.startswith("geti/yolox/")

        holds()

    @pytest.mark.parametrize("attack", sorted(FLAGS.keys() - {"trust", "cache-dir"}))
    def test_a_flag_is_no_option(self, attack: str) -> None:
        """Of a conversion. What its contract names is taken, and is no more than a wish; all else is refused."""
        wish = Wish(
            name="org/x", hub="openvino", root="x", config=FLAGS[attack], model_type=ModelType.LLM, convert=True
        )
        with pytest.raises(InvalidSpec) as told:
            plan(wish, CATALOG)
        assert len(str(told.value)) < 1000

    def test_no_text_leads_out_of_the_models(self, tmp_path: Path) -> None:
        volume = Volume(tmp_path / "models")
        volume.root.mkdir()
        (volume.root / "out").symlink_to(tmp_path)

        @MANY
        @given(st.one_of(st.text(max_size=60), PIECES, st.sampled_from([*NAMES.values()]), PIECES.map("out/{}".format)))
        def holds(asked: str) -> None:
            try:
                root = volume.destination(asked)
            except (DestinationOutside, DestinationInvalid):
                return
            place = (volume.root / root).resolve()
            assert place.is_relative_to(volume.root.resolve())
            assert not place.is_relative_to(volume.private)

        holds()


def is_unsafe(path: str) -> bool:
    try:
        check_file_path(path)
    except StageError:
        return True
    return False


def a_manifest(source: Source, path: str, url: str) -> Manifest:
    digest = Digest(algorithm=DigestAlgorithm.SHA256, value="0" * 64)
    files = (RemoteFile(path=path, size=5, digest=digest, url=f"{url}/x"),)
    return Manifest(source=source, revision="0" * 40, format=Format.TRANSFORMERS, files=files)


def assert_is_below_home(visit: Visit, attack: str) -> None:
    """No part of the path climbs, and nothing is in the request line that would end it or begin another."""
    path = visit.target.partition("?")[0]
    assert not {".", ".."} & set(path.split("/")), (attack, visit.target)
    assert visit.target.isascii(), attack
    assert visit.head.count(b" HTTP/1.1\r\n") == 1, attack
    assert visit.header("Host") in visit.url, attack


def ascii_json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=True).encode()
