"""A plugin of somebody else: installed as any package, found by its entry point, held to the contract, and at work."""

import ast
import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
    TokenInvalid,
)
from common.plugins import Access, HubPlugin, TransferLimits
from common.settings import Settings, WorkerSettings, with_variables
from common.spec import Manifest, Source
from tests.e2e.service import Service
from tests.fakes.attempt import LocalAttempt
from tests.fakes.errand import Errand
from tests.fakes.faults import Fault, FaultKind, FlipBit, RedirectLoop, RewriteJson, Status, Throttle, rate_limited
from tests.fakes.shelf import FakeShelf
from tests.fakes.tiny_models import tiny_bert
from tests.fakes.traffic import Match

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/samples/modelferry-shelf"
MODULE = SAMPLE / "src/modelferry_shelf/__init__.py"
PAGE = ROOT / "docs/plugins.md"
CONTRACT = "tests/contract/test_hub_contract.py"
TOKEN = "shelf-token-of-the-operator"
BLOCK = 256 * 1024
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=20, spare_bytes=0, connections=2)
WEIGHTS = hashlib.shake_128(b"weights").digest(9 * BLOCK + 5)
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "sub dir/vocab.txt": b"a\n"}


class Environment:
    """A Python environment of its own, which shares the libraries of this one."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin/python"
        (packages,) = folder.glob("lib/python3*/site-packages")
        shared = sysconfig.get_path("purelib")
        # The project is among them, by a .pth file that only `addsitedir` reads.
        (packages / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")

    def install(self, package: Path) -> None:
        """From its sources, as an operator would, but without a registry."""
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        assert uv is not None, "uv, which `make setup` installs, is not there"
        command = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--no-cache",
            "--no-deps",
            "--no-index",
            "--python",
            str(self.python),
        ]
        subprocess.run([*command, str(package)], check=True, cwd=package)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )


class ServiceElsewhere(Service):
    """The processes of the service, all in another environment."""

    def __init__(self, environment: Environment, folder: Path, **arguments: Any) -> None:
        self._python = environment.python
        super().__init__(folder, **arguments)

    def _command(self, name: str) -> tuple[list[str], dict[str, str]]:
        command, own = super()._command(name)
        return [str(self._python) if part == sys.executable else part for part in command], own


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(SAMPLE)
    return environment


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubPlugin[Any]]:
    """The descriptor, from the sources."""
    monkeypatch.syspath_prepend(str(SAMPLE / "src"))
    import modelferry_shelf

    yield modelferry_shelf.SHELF
    sys.modules.pop("modelferry_shelf")


@pytest.fixture
def shelf() -> Iterator[FakeShelf]:
    with FakeShelf(TOKEN) as shelf:
        shelf.add("org/model", MODEL)
        yield shelf


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


def access_to(shelf: FakeShelf, token: str = TOKEN) -> Access:
    return Access(settings={"SHELF_URL": shelf.url}, secrets={"SHELF_TOKEN": token} if token else {})


def resolve(
    plugin: HubPlugin[Any], shelf: FakeShelf, *, token: str = TOKEN, revision: str | None = None, **raw: object
) -> Manifest:
    source = Source(hub="shelf", name="org/model", revision=revision)
    return plugin.load(access_to(shelf, token)).resolve(source, plugin.bind(raw))


def fetch(plugin: HubPlugin[Any], shelf: FakeShelf, manifest: Manifest, attempt: LocalAttempt) -> dict[str, bytes]:
    plugin.load(access_to(shelf)).fetch(manifest, plugin.bind({}), attempt)
    return {file.path: (attempt.workspace / file.path).read_bytes() for file in manifest.files}


def trouble(shelf: FakeShelf, kind: FaultKind, path: str = "*") -> None:
    shelf.add_fault(Fault(kind=kind, match=Match(path)))


class TestThePage:
    def test_it_is_the_sample(self) -> None:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert ("python", MODULE.read_text(encoding="utf-8")) in blocks
        places = (ROOT / "tests/fakes/shelf.py").read_text(encoding="utf-8")
        assert [kind for kind, text in blocks if kind == "python" and text in places] == ["python"]
        assert ("toml", (SAMPLE / "pyproject.toml").read_text(encoding="utf-8")) in blocks

    def test_descriptor_and_class_are_fifty_lines(self) -> None:
        source = MODULE.read_text(encoding="utf-8")
        lines = source.splitlines()
        parts = [
            node
            for node in ast.parse(source).body
            if (isinstance(node, ast.ClassDef) and node.name == "ShelfHub")
            or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "SHELF")
        ]
        assert len(parts) == 2
        code = [line for node in parts for line in lines[node.lineno - 1 : node.end_lineno] if line.strip()]
        assert len(code) <= 50

    def test_what_it_says_of_other_names_is_there(self) -> None:
        for path in re.findall(r"`((?:tests|docs|common|worker)/[\w./-]+)`", PAGE.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), path


class TestInstalled:
    def test_it_is_found_by_its_entry_point(self, environment: Environment) -> None:
        code = "from common.catalog.registry import Catalog; print(sorted(Catalog.installed({!r}).hubs))"
        for named in ("all", "shelf", "huggingface,shelf"):
            found = environment.run("-c", code.format(named))
            assert found.returncode == 0, found.stderr
            assert "'shelf'" in found.stdout
        others = environment.run("-c", code.format("huggingface"))
        assert others.stdout.strip() == "['huggingface']"

    def test_it_passes_the_tests_that_every_hub_passes(self, environment: Environment) -> None:
        place = "tests.fakes.shelf:shelf_place"
        # What configures the run around this one is none of its business.
        ended = environment.run("-m", "pytest", "-p", "no:cacheprovider", CONTRACT, HUB_PLACES=place, PYTEST_ADDOPTS="")
        assert ended.returncode == 0, ended.stdout[-8000:]
        told = re.search(r"(\d+) passed in", ended.stdout)
        assert told is not None, "nothing may be skipped: this hub can do everything"
        assert int(told[1]) >= 18

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("good", "bad", "complaint"),
        [
            ("description=", 'name_pattern=r"[^,]+", description=', "test_hostile_names_are_refused"),
            ('f"{name}@{revision or options.channel}".replace("/", "--")', "name", "test_no_model_lies_inside_another"),
            ("names[query.offset :]", "names", "test_pages_have_no_gaps_and_no_repeats"),
            ("bring(manifest.files,", "bring(manifest.files[1:],", "test_twice_leaves_the_same_bytes"),
        ],
    )
    def test_one_that_breaks_a_promise_does_not(
        self, environment: Environment, tmp_path: Path, good: str, bad: str, complaint: str
    ) -> None:
        source = MODULE.read_text(encoding="utf-8")
        assert good in source
        (tmp_path / "modelferry_shelf").mkdir()
        (tmp_path / "modelferry_shelf/__init__.py").write_text(source.replace(good, bad, 1), encoding="utf-8")
        ended = environment.run(
            # With a seed: what breaks a promise only for some names must be found each time.
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=3", CONTRACT, "-k", complaint, "-x",
            HUB_PLACES="tests.fakes.shelf:shelf_place", PYTEST_ADDOPTS="", PYTHONPATH=str(tmp_path),
        )  # fmt: skip
        assert ended.returncode == 1, ended.stdout[-4000:]
        assert complaint in ended.stdout


class TestTheHub:
    def test_it_brings_the_files(self, plugin: HubPlugin[Any], shelf: FakeShelf, attempt: LocalAttempt) -> None:
        manifest = resolve(plugin, shelf)
        assert manifest.revision == "1"
        assert manifest.total_bytes == sum(map(len, MODEL.values()))
        assert fetch(plugin, shelf, manifest, attempt) == MODEL

    def test_options_and_revisions(self, plugin: HubPlugin[Any], shelf: FakeShelf) -> None:
        shelf.add("org/model", {"config.json": b"{2}"}, revision="2", channel="preview")
        assert resolve(plugin, shelf, channel="preview").revision == "2"
        assert resolve(plugin, shelf, revision="1").revision == "1"
        with pytest.raises(RevisionNotFound, match="in revision '1' only"):
            resolve(plugin, shelf, revision="2")

    def test_it_must_be_told_where_the_shelf_is(self, plugin: HubPlugin[Any]) -> None:
        with pytest.raises(InvalidParameters, match="SHELF_URL"):
            plugin.load(Access())

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            (Status(401), TokenInvalid),
            (Status(403), SourcePrivateOrMissing),
            (Status(404), SourceNotFound),
            (rate_limited(7), RateLimited),
            (Status(503), HubUnavailable),
            (RedirectLoop(), HubUnavailable),
            (RewriteJson(lambda _: {"revision": "1", "files": {}}), SourceUnsafe),
            (RewriteJson(lambda _: {"revision": "1", "files": {"../x": [1, {"algorithm": "sha256", "value": "0" * 64}]}}), SourceUnsafe),
            (RewriteJson(lambda _: {"revision": "1", "files": {"x": [-1, {"algorithm": "sha256", "value": "0" * 64}]}}), SourceUnsafe),
            (RewriteJson(lambda _: {"revision": "1", "files": {"x": [1, {"algorithm": "sha256", "value": "0"}]}}), SourceUnsafe),
            (RewriteJson(lambda _: ["what?"]), SourceUnsafe),
        ],
    )  # fmt: skip
    def test_refusals(self, plugin: HubPlugin[Any], shelf: FakeShelf, kind: FaultKind, error: type[StageError]) -> None:
        trouble(shelf, kind)
        with pytest.raises(error):
            resolve(plugin, shelf)

    @pytest.mark.parametrize(
        ("kind", "error"), [(FlipBit(3 * BLOCK), IntegrityMismatch), (Status(404), SourceNotFound)]
    )
    def test_what_arrives_is_looked_at(
        self, plugin: HubPlugin[Any], shelf: FakeShelf, attempt: LocalAttempt, kind: FaultKind, error: type[StageError]
    ) -> None:
        manifest = resolve(plugin, shelf)
        trouble(shelf, kind, "*.safetensors")
        with pytest.raises(error):
            fetch(plugin, shelf, manifest, attempt)
        assert not (attempt.workspace / "model.safetensors").exists()

    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_size_that_is_not_true(
        self, plugin: HubPlugin[Any], shelf: FakeShelf, attempt: LocalAttempt, by: int
    ) -> None:
        manifest = resolve(plugin, shelf)
        lying = tuple(msgspec.structs.replace(file, size=(file.size or 0) + by) for file in manifest.files)
        with pytest.raises((IntegrityMismatch, HubUnavailable)):
            fetch(plugin, shelf, msgspec.structs.replace(manifest, files=lying), attempt)

    def test_kill_9_in_the_middle(
        self, environment: Environment, plugin: HubPlugin[Any], shelf: FakeShelf, attempt: LocalAttempt
    ) -> None:
        """What a killed process has brought is not fetched again."""
        shelf.add("org/model", {"weights": WEIGHTS * 3}, revision="2")
        slow = shelf.add_fault(Fault(kind=Throttle(1_000_000), match=Match("*weights")))
        errand = Errand(
            hub="shelf",
            source=Source(hub="shelf", name="org/model"),
            access=access_to(shelf),
            raw={},
            root=str(attempt.root),
            workspace="killed",
        )
        command = [str(environment.python), "-m", "tests.fakes.errand"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT) as child:
            assert child.stdin is not None
            child.stdin.write(msgspec.json.encode(errand))
            child.stdin.close()
            while shelf.requests.bytes_served("*weights") < 8 * BLOCK:
                assert child.poll() is None
                time.sleep(0.01)
            child.kill()
            assert child.wait() == -signal.SIGKILL
        shelf.faults.remove(slow)
        assert fetch(plugin, shelf, resolve(plugin, shelf), attempt) == {"weights": WEIGHTS * 3}
        assert attempt.reports[-1].bytes_resumed > 0
        assert shelf.requests.bytes_served("*weights") < 2 * len(WEIGHTS * 3)


class TestVariables:
    def test_those_that_a_plugin_names_are_read_and_no_others(self) -> None:
        env = {
            "SHELF_URL": "http://shelf",
            "SHELF_TOKEN": TOKEN,
            "HF_TOKEN": "other",
            "MODELFERRY_SPARE_MB": "1",
            "X": "y",
        }
        named = {"SHELF_URL", "HF_ENDPOINT", "MODELFERRY_SPARE_MB", "SHELF_COLOUR"}
        settings = with_variables(Settings(hf_token="hf_own"), named, {"SHELF_TOKEN", "HF_TOKEN"}, env)
        assert settings.other_settings == {"SHELF_URL": "http://shelf"}
        assert settings.plugin_secrets == {"SHELF_TOKEN": TOKEN, "HF_TOKEN": "hf_own"}
        assert settings.plugin_settings["SHELF_URL"] == "http://shelf"
        assert settings.plugin_settings["HF_ENDPOINT"] == Settings().hf_endpoint
        assert isinstance(settings, WorkerSettings)
        assert settings.spare_mb == Settings().spare_mb
        assert TOKEN not in repr(settings)


class TestAtWork:
    def test_a_service_downloads_through_it(self, environment: Environment, shelf: FakeShelf, tmp_path: Path) -> None:
        variables = {"ENABLED_PLUGINS": "shelf", "SHELF_URL": shelf.url, "SHELF_TOKEN": TOKEN, "HUB_PLACES": ""}
        processes = ("redis", "api", "download", "reconcile")
        with ServiceElsewhere(environment, tmp_path, run=processes, **variables) as service:
            self._is_offered(service)
            self._downloads(service)
            self._lists(service)
            self._takes_a_token_of_a_request(service)
            assert "'huggingface' is not available" in self._refusal(
                service, {"name": "org/model", "hub": "huggingface"}
            )
            assert "Invalid model name" in self._refusal(service, {"name": "../model", "hub": "shelf"})
            config = {"channel": "secret"}
            assert "channel" in self._refusal(service, {"name": "org/model", "hub": "shelf", "config": config})
            self._survives(service, shelf)
            assert TOKEN not in service.log.read_text(encoding="utf-8")
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
        assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]

    @pytest.mark.slow
    def test_a_model_of_it_is_converted_as_any_other(
        self, environment: Environment, shelf: FakeShelf, tmp_path: Path
    ) -> None:
        tiny_bert(tmp_path / "bert")
        files = {path.name: path.read_bytes() for path in (tmp_path / "bert").iterdir()}
        shelf.add("tiny/bert", files)
        (tmp_path / "service").mkdir()
        with ServiceElsewhere(environment, tmp_path / "service", SHELF_URL=shelf.url, SHELF_TOKEN=TOKEN) as service:
            wish = {"name": "tiny/bert", "hub": "shelf", "is_ovms": True, "type": "embeddings"}
            [job_id] = service.submit(wish, download_path="edge")
            job = service.wait(job_id, 100)
        assert job["status"] == "completed", job
        assert (Path(job["path"]) / "openvino_model.xml").is_file()

    def _is_offered(self, service: Service) -> None:
        plugins = service.get("/api/v1/plugins").json()["available_plugins"]["downloader"]
        by_name = {plugin["name"]: plugin for plugin in plugins}
        assert by_name["shelf"]["available"]
        assert not by_name["huggingface"]["available"]
        assert "SHELF_TOKEN" in json.dumps(by_name["shelf"])

    def _downloads(self, service: Service) -> None:
        [job_id] = service.submit({"name": "org/model", "hub": "shelf"}, download_path="edge")
        job = service.wait(job_id)
        assert job["status"] == "completed", job
        assert (job["hub"], job["plugin_name"]) == ("shelf", "shelf")
        folder = service.models_dir / "edge/shelf/org--model@released"
        for name, content in MODEL.items():
            assert (folder / name).read_bytes() == content

    def _lists(self, service: Service) -> None:
        page = service.post("/api/v1/models/list", {"hub": "shelf", "search": "mod", "limit": 5}).json()
        assert [item["name"] for item in page["items"]] == ["org/model"]

    def _takes_a_token_of_a_request(self, service: Service) -> None:
        wrong = base64.b64encode(b"a-wrong-token").decode()
        wish = {"name": "org/model", "hub": "shelf", "override_credentials": {"SHELF_TOKEN": wrong}}
        [job_id] = service.submit(wish, download_path="other")
        job = service.wait(job_id)
        assert job["status"] == "failed"
        assert "The shelf answers 401" in json.dumps(job)
        checked = {"models": [{**wish, "validate_credentials": True}]}
        answer = service.post("/api/v1/models/download", checked, download_path="other")
        assert answer.status_code == 400
        assert "shelf_auth" in answer.text
        assert "a-wrong-token" not in service.log.read_text(encoding="utf-8")

    def _refusal(self, service: Service, wish: dict[str, Any]) -> str:
        answer = service.post("/api/v1/models/download", {"models": [wish]}, download_path="edge")
        assert answer.status_code == 400, answer.text
        return str(answer.json()["detail"])

    def _survives(self, service: Service, shelf: FakeShelf) -> None:
        """kill -9 of the worker in the middle of a download."""
        shelf.add("org/large", {"weights": WEIGHTS * 3})
        slow = shelf.add_fault(Fault(kind=Throttle(500_000), match=Match("*weights")))
        [job_id] = service.submit({"name": "org/large", "hub": "shelf"}, download_path="edge")
        service.wait_until(lambda: shelf.requests.bytes_served("*weights") > BLOCK, 30, "downloading")
        service.restart("download")
        shelf.faults.remove(slow)
        assert service.wait(job_id)["status"] == "completed"
        assert (service.models_dir / "edge/shelf/org--large@released/weights").read_bytes() == WEIGHTS * 3
