"""The Pipeline Zoo's hub against a forge with Git LFS."""

import hashlib
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.catalog.pipeline_zoo import PIPELINE_ZOO
from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    InvalidSpec,
    JobCancelled,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from common.plugins import Access, HubPlugin, ListPage, ListQuery, NetworkRules, TransferLimits
from common.spec import Manifest, Source
from common.vocabulary import DigestAlgorithm, Format
from tests.fakes.attempt import Errand, LocalAttempt
from tests.fakes.exchange import Request
from tests.fakes.faults import (
    Fault,
    FaultKind,
    FlipBit,
    RedirectLoop,
    RedirectTo,
    RewriteJson,
    SetHeader,
    Status,
    Throttle,
)
from tests.fakes.git_lfs import MEDIA_TYPE, FakeForge, file_at
from tests.fakes.hf_repository import Content
from tests.fakes.traffic import Match
from worker.hubs.pipeline_zoo import PipelineZooHub
from worker.hubs.pipeline_zoo.forge import Forge
from worker.hubs.pipeline_zoo.lfs import read_pointer
from worker.hubs.pipeline_zoo.licences import kind_of

BLOCK = 256 * 1024
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=20, spare_bytes=0)
APACHE = b"                 Apache License\n           Version 2.0, January 2004\n\n Copyright 2026 nobody\n"
MIT = b'Permission is hereby granted, free of charge, to any person ... THE SOFTWARE IS PROVIDED "AS IS", ...'
RANDOM = random.Random(7)
DBNET: dict[str, bytes] = {
    "FP16/dbnet.xml": b"<net name='dbnet' version='11'/>" * 40,
    "FP16/dbnet.bin": RANDOM.randbytes(5 * BLOCK + 3),
    "dbnet.json": b'{"json_schema_version": "2.2.0"}',
    "dbnet.labels": b"text\n",
    "LICENSE": APACHE,
}
YOLO: dict[str, bytes] = {
    "FP32/yolov5s.xml": b"<net name='yolov5s'/>",
    "FP32/yolov5s.bin": RANDOM.randbytes(2 * BLOCK),
    "FP16-INT8/yolov5s.xml": b"<net name='yolov5s' precision='int8'/>",
    "FP16-INT8/yolov5s.bin": RANDOM.randbytes(BLOCK),
    "yolov5s.json": b"{}",
}


def zoo() -> dict[str, Content]:
    """The files of a repository with two models."""
    files: dict[str, Content] = {"README.md": b"# Zoo\n", "LICENSE": MIT, "storage/README.md": b"models\n"}
    files |= {f"storage/dbnet/{path}": content for path, content in DBNET.items()}
    files |= {f"storage/yolov5s-416_INT8/{path}": content for path, content in YOLO.items()}
    return files


@dataclass(frozen=True)
class PipelineZooPlace:
    """A repository with models, and how to reach it."""

    plugin: HubPlugin[Any]
    access: Access
    forge: FakeForge
    name: str = "dbnet"
    model: dict[str, bytes] = field(default_factory=dict)

    def hub(self) -> PipelineZooHub:
        return PipelineZooHub(self.access)

    def resolve(self, name: str | None = None, revision: str | None = None) -> Manifest:
        source = Source(hub=self.plugin.name, name=name or self.name, revision=revision)
        return self.hub().resolve(source, self.plugin.bind({}))

    def fetch(self, manifest: Manifest, attempt: LocalAttempt) -> None:
        self.hub().fetch(manifest, self.plugin.bind({}), attempt)

    def list(self, limit: int = 50, offset: int = 0, **filters: object) -> ListPage:
        return self.hub().list(ListQuery(filters=filters, limit=limit, offset=offset))


@contextmanager
def pipeline_zoo_place(*, signed_url_seconds: float = 3600.0) -> Iterator[PipelineZooPlace]:
    """For the tests of every hub: `name` is a model, and `model` what it holds."""
    with FakeForge(zoo(), signed_url_seconds=signed_url_seconds) as forge:
        network = NetworkRules(private_hosts=frozenset({forge.storage_url.removeprefix("http://")}))
        access = Access(settings={"PIPELINE_ZOO_URL": forge.url}, network=network)
        yield PipelineZooPlace(PIPELINE_ZOO, access, forge, model=DBNET)


@pytest.fixture
def place() -> Iterator[PipelineZooPlace]:
    with pipeline_zoo_place() as place:
        yield place


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trouble(place: PipelineZooPlace, kind: FaultKind, path: str | None = None, origin: str | None = None) -> None:
    place.forge.add_fault(Fault(kind=kind, match=Match(path, origin)))


class TestResolve:
    def test_one_model(self, place: PipelineZooPlace) -> None:
        manifest = place.resolve()
        assert manifest.revision == place.forge.repository.sha
        assert manifest.format is Format.OPENVINO
        assert manifest.licence == "apache-2.0"
        assert {file.path: file.size for file in manifest.files} == {path: len(data) for path, data in DBNET.items()}
        for file in manifest.files:
            assert file.digest is not None
            large = file.path.endswith((".xml", ".bin", ".json"))
            assert file.digest.algorithm is (DigestAlgorithm.SHA256 if large else DigestAlgorithm.GIT_SHA1)

    def test_two_questions_of_the_quota_and_no_weights(self, place: PipelineZooPlace) -> None:
        place.resolve()
        assert place.forge.quota == 58
        assert place.forge.requests.count(origin="cdn") == 0
        assert len({request.path for request in place.forge.requests.matching("/raw/*")}) == len(DBNET)

    def test_some_models(self, place: PipelineZooPlace) -> None:
        manifest = place.resolve("yolov5s-416_INT8,dbnet")
        paths = {f"yolov5s-416_INT8/{path}" for path in YOLO} | {f"dbnet/{path}" for path in DBNET}
        assert {file.path for file in manifest.files} == paths
        assert manifest.licence is None, "they have two"
        assert {file.path for file in place.resolve("all").files} == paths

    def test_the_licence_of_the_repository(self, place: PipelineZooPlace) -> None:
        assert place.resolve("yolov5s-416_INT8").licence == "mit"

    def test_unknown_names(self, place: PipelineZooPlace) -> None:
        for name in ("nowhere", "README.md", "DBNET"):
            with pytest.raises(SourceNotFound) as caught:
                place.resolve(name)
            assert str(caught.value) == f"Pipeline-zoo model(s) not found in repository storage: {name}"
        with pytest.raises(SourceNotFound) as caught:
            place.resolve("zebra,dbnet,ape")
        assert str(caught.value) == "Pipeline-zoo model(s) not found in repository storage: zebra, ape"

    @pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "a..b", "", "dbnet,../x", "dbnet,", "a b", "ALL,/x"])
    def test_names_that_are_none(self, place: PipelineZooPlace, name: str) -> None:
        with pytest.raises(InvalidParameters, match="Invalid model name"):
            place.hub().resolve(Source(hub="pipeline-zoo-models", name=name), PIPELINE_ZOO.bind({}))
        assert len(place.forge.requests) == 0

    def test_revisions(self, place: PipelineZooPlace) -> None:
        repository = place.forge.repository
        first = repository.sha
        repository.tag("v1")
        second = repository.commit({"storage/dbnet/dbnet.labels": b"other\n"})
        repository.branch("feature/x", first)
        assert place.resolve().revision == second
        for named, meant in (("main", second), ("v1", first), (first, first), ("feature/x", first)):
            manifest = place.resolve(revision=named)
            assert manifest.revision == meant
        for unknown in ("v2", "0" * 40):
            with pytest.raises(RevisionNotFound):
                place.resolve(revision=unknown)

    def test_a_network_without_weights(self, place: PipelineZooPlace) -> None:
        place.forge.repository.commit({"storage/dbnet/FP16/dbnet.bin": None})
        with pytest.raises(IntegrityMismatch, match=r"FP16/dbnet\.xml has no \.bin"):
            place.resolve()
        assert place.resolve("yolov5s-416_INT8").files

    @pytest.mark.parametrize("mode", ["120000", "160000"])
    def test_links_are_refused(self, place: PipelineZooPlace, mode: str) -> None:
        place.forge.modes["storage/dbnet/dbnet.labels"] = mode
        with pytest.raises(SourceUnsafe):
            place.resolve()
        assert place.resolve("yolov5s-416_INT8").files

    @pytest.mark.parametrize("path", ["../../x", "a\\b", "FP16/DBNET.xml", ".modelferry.json"])
    def test_hostile_names(self, place: PipelineZooPlace, path: str) -> None:
        place.forge.repository.commit({f"storage/dbnet/{path}": b"x"})
        with pytest.raises((SourceUnsafe, IntegrityMismatch, SourceNotFound)):
            place.resolve()

    def test_a_listing_that_is_cut(self, place: PipelineZooPlace) -> None:
        place.forge.truncated = True
        with pytest.raises(SourceUnsafe, match="more files"):
            place.resolve()

    def test_a_pointer_that_is_not_the_commits(self, place: PipelineZooPlace) -> None:
        trouble(place, FlipBit(60), "/raw/*/dbnet.bin")
        with pytest.raises(IntegrityMismatch):
            place.resolve()

    def test_no_quota_is_left(self, place: PipelineZooPlace) -> None:
        place.forge.quota = 1
        with pytest.raises(RateLimited) as caught:
            place.resolve()
        assert caught.value.wait_s == 3600
        assert "GitHub" in caught.value.advice

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, SourcePrivateOrMissing),
            (403, SourcePrivateOrMissing),
            (404, SourceNotFound),
            (429, RateLimited),
            (500, HubUnavailable),
            (503, HubUnavailable),
        ],
    )
    @pytest.mark.parametrize("path", ["*/commits/*", "*/git/trees/*", "/raw/*"])
    def test_refusals(self, place: PipelineZooPlace, path: str, status: int, error: type[StageError]) -> None:
        trouble(place, Status(status), path)
        with pytest.raises(error) as caught:
            place.resolve()
        assert type(caught.value) is error

    @pytest.mark.parametrize("path", ["*/commits/*", "*/git/trees/*", "/raw/*"])
    def test_a_redirect_without_end(self, place: PipelineZooPlace, path: str) -> None:
        trouble(place, RedirectLoop(), path)
        with pytest.raises(HubUnavailable, match="redirects"):
            place.resolve()

    def test_a_redirect_to_the_metadata_of_a_cloud(self, place: PipelineZooPlace) -> None:
        trouble(place, RedirectTo("http://169.254.169.254/latest/meta-data/"), "*/git/trees/*")
        with pytest.raises(SourceUnsafe):
            place.resolve()

    def test_an_answer_that_makes_no_sense(self, place: PipelineZooPlace) -> None:
        trouble(place, RewriteJson(lambda _: {"tree": [{"path": 1}]}), "*/git/trees/*")
        with pytest.raises(HubUnavailable):
            place.resolve()


@dataclass(frozen=True)
class LateOnce(FaultKind):
    """Answer the first request only after a while, when what it came with may have expired."""

    seconds: float
    met: list[Request] = field(default_factory=list)

    def meet(self, request: Request) -> None:
        self.met.append(request)
        if len(self.met) == 1:
            time.sleep(self.seconds)


class TestFetch:
    def test_brings_the_files(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        for _ in range(2):
            place.fetch(place.resolve(), attempt)
            assert contents(attempt.workspace) == DBNET
        assert place.forge.requests.count("*/objects/batch") == 1, "the second time all is in the store"
        large = sum(len(data) for path, data in DBNET.items() if path.endswith((".xml", ".bin", ".json")))
        assert place.forge.requests.bytes_served(origin="cdn") == large

    def test_brings_all_models(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        place.fetch(place.resolve("all"), attempt)
        expected = {f"dbnet/{path}": data for path, data in DBNET.items()}
        expected |= {f"yolov5s-416_INT8/{path}": data for path, data in YOLO.items()}
        assert contents(attempt.workspace) == expected

    def test_more_files_than_one_question_takes(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        many = {f"storage/many/{number}.json": b"[%d]" % number for number in range(130)}
        place.forge.repository.commit(dict(many))
        place.fetch(place.resolve("many"), attempt)
        assert {f"storage/many/{path}": data for path, data in contents(attempt.workspace).items()} == many
        assert place.forge.requests.count("*/objects/batch") == 2

    def test_a_header_of_the_storage_stays_there(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        place.forge.header = {"Authorization": "RemoteAuth once", "Accept": "*/*"}
        place.fetch(place.resolve(), attempt)
        assert contents(attempt.workspace) == DBNET
        assert all(request.had_authorization for request in place.forge.requests.matching(origin="cdn"))
        assert not any(request.had_authorization for request in place.forge.requests.matching(origin="hub"))

    def test_more_headers_than_can_be_sent(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        place.forge.header = {"Authorization": "RemoteAuth once", "X-Other": "1"}
        with pytest.raises(HubUnavailable, match="more than one header"):
            place.fetch(place.resolve(), attempt)

    def test_addresses_that_expire_are_asked_for_again(self, tmp_path: Path) -> None:
        with pipeline_zoo_place(signed_url_seconds=1.0) as place:
            manifest = place.resolve()
            attempt = LocalAttempt(tmp_path, LIMITS)
            place.forge.add_fault(Fault(kind=LateOnce(1.2), match=Match(origin="cdn")))
            place.fetch(manifest, attempt)
            assert contents(attempt.workspace) == DBNET
            assert place.forge.requests.count("*/objects/batch") == 2

    def test_a_storage_that_refuses(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        trouble(place, Status(403), origin="cdn")
        with pytest.raises(SourcePrivateOrMissing):
            place.fetch(manifest, attempt)
        assert place.forge.requests.count("*/objects/batch") == 1

    @pytest.mark.parametrize(("code", "error"), [(404, SourceNotFound), (410, SourceNotFound), (500, HubUnavailable)])
    def test_a_large_file_with_trouble(
        self, place: PipelineZooPlace, attempt: LocalAttempt, code: int, error: type[StageError]
    ) -> None:
        manifest = place.resolve()
        place.forge.lost["storage/dbnet/FP16/dbnet.bin"] = code
        with pytest.raises(error):
            place.fetch(manifest, attempt)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, SourcePrivateOrMissing),
            (404, SourceNotFound),
            (429, RateLimited),
            (503, HubUnavailable),
            (509, HubUnavailable),
        ],
    )
    def test_refusals(
        self, place: PipelineZooPlace, attempt: LocalAttempt, status: int, error: type[StageError]
    ) -> None:
        manifest = place.resolve()
        trouble(place, Status(status), "*/objects/batch")
        with pytest.raises(error):
            place.fetch(manifest, attempt)

    def test_a_flipped_bit(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        trouble(place, FlipBit(3 * BLOCK), origin="cdn")
        with pytest.raises(IntegrityMismatch):
            place.fetch(manifest, attempt)
        assert "FP16/dbnet.bin" not in contents(attempt.workspace)

    def test_a_size_that_is_not_true(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        trouble(place, SetHeader("Content-Range", f"bytes 0-{BLOCK - 1}/{BLOCK}"), origin="cdn")
        with pytest.raises(IntegrityMismatch):
            place.fetch(manifest, attempt)

    def test_a_size_that_the_server_says_otherwise(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        lying = tuple(
            msgspec.structs.replace(file, size=(file.size or 0) + 1) if file.path.endswith(".bin") else file
            for file in manifest.files
        )
        with pytest.raises(IntegrityMismatch):
            place.fetch(msgspec.structs.replace(manifest, files=lying), attempt)

    def test_an_address_inside_a_private_network(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        outside = replace(place, access=msgspec.structs.replace(place.access, network=NetworkRules()))
        with pytest.raises(SourceUnsafe, match="private network"):
            outside.fetch(outside.resolve(), attempt)
        assert place.forge.requests.count(origin="cdn") == 0

    def test_a_cancel_and_a_second_attempt(self, place: PipelineZooPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        attempt.cancelled.set()
        with pytest.raises(JobCancelled):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}
        attempt.cancelled.clear()
        place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == DBNET

    def test_kill_9_in_the_middle(self, tmp_path: Path) -> None:
        """What a killed process has brought is not fetched again, although the addresses are new ones."""
        limits = msgspec.structs.replace(LIMITS, connections=2)
        attempt = LocalAttempt(tmp_path, limits)
        with pipeline_zoo_place() as place:
            weights = RANDOM.randbytes(24 * BLOCK)
            place.forge.repository.commit({"storage/dbnet/FP16/dbnet.bin": weights})
            manifest = place.resolve()
            loan = place.hub()._borrow(manifest.files, attempt)
            files = tuple(
                msgspec.structs.replace(file, url=loan.urls[file.digest.value])
                for file in manifest.files
                if file.digest is not None and file.digest.value in loan.urls
            )
            errand = Errand(root=str(tmp_path), files=files, limits=limits)
            slow = place.forge.add_fault(Fault(kind=Throttle(1_000_000), match=Match(origin="cdn")))
            command = [sys.executable, "-m", "tests.fakes.attempt"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
                assert child.stdin is not None
                child.stdin.write(msgspec.json.encode(errand))
                child.stdin.close()
                while place.forge.requests.bytes_served(origin="cdn") < 8 * BLOCK:
                    time.sleep(0.01)
                child.kill()
            place.forge.faults.remove(slow)
            place.fetch(manifest, attempt)
            served = place.forge.requests.bytes_served("*", origin="cdn")
        assert contents(attempt.workspace) == {**DBNET, "FP16/dbnet.bin": weights}
        assert served < len(weights) + sum(map(len, DBNET.values())) + 4 * BLOCK
        assert attempt.reports[-1].bytes_resumed > 2 * BLOCK


class TestList:
    def test_names_in_order(self, place: PipelineZooPlace) -> None:
        page = place.list()
        assert [(item.name, item.owner) for item in page.items] == [
            ("dbnet", "dlstreamer"),
            ("yolov5s-416_INT8", "dlstreamer"),
        ]
        assert (page.has_more, page.total) == (False, 2)
        assert place.forge.quota == 59

    def test_search(self, place: PipelineZooPlace) -> None:
        assert [item.name for item in place.list(search="YOLO").items] == ["yolov5s-416_INT8"]
        assert place.list(search="nothing").total == 0

    def test_pages(self, place: PipelineZooPlace) -> None:
        place.forge.repository.commit({f"storage/m{number}/{number}.json": b"{}" for number in range(5)})
        first, last = place.list(limit=3), place.list(limit=3, offset=6)
        assert [item.name for item in first.items] == ["dbnet", "m0", "m1"]
        assert (first.has_more, first.total) == (True, 7)
        assert ([item.name for item in last.items], last.has_more) == (["yolov5s-416_INT8"], False)

    def test_it_is_never_out_of_date(self, place: PipelineZooPlace) -> None:
        before = place.list().total
        place.forge.repository.commit({"storage/new/new.json": b"{}"})
        assert (before, place.list().total) == (2, 3)


class TestAddresses:
    def test_of_github(self) -> None:
        forge = Forge.of("https://github.com/dlstreamer/pipeline-zoo-models.git/")
        assert forge.repository == "https://github.com/dlstreamer/pipeline-zoo-models"
        assert forge.api == "https://api.github.com/repos/dlstreamer/pipeline-zoo-models"
        assert forge.raw == "https://raw.githubusercontent.com/dlstreamer/pipeline-zoo-models"
        assert forge.file("c" * 40, "storage/a b/c#.xml") == f"{forge.raw}/{'c' * 40}/storage/a%20b/c%23.xml"

    def test_of_a_mirror(self) -> None:
        forge = Forge.of("https://git.example/models/zoo")
        assert forge.api == "https://git.example/api/v3/repos/models/zoo"
        assert forge.raw == "https://git.example/raw/models/zoo"
        named = Forge.of("https://git.example/models/zoo", "https://api.git.example/")
        assert named.api == "https://api.git.example/repos/models/zoo"

    @pytest.mark.parametrize("url", ["", "github.com/a/b", "https://github.com", "https://github.com/a", "file:///a/b"])
    def test_of_nothing(self, url: str) -> None:
        with pytest.raises(SourceUnsafe):
            Forge.of(url)


def test_pointers() -> None:
    oid = hashlib.sha256(b"x").hexdigest()
    good = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12\n".encode()
    pointer = read_pointer(good)
    assert pointer is not None
    assert (pointer.oid, pointer.size) == (oid, 12)
    for bad in (b"", good + b"x", good.replace(b"sha256", b"sha1"), good.replace(b"12", b"-1"), b"text\n"):
        assert read_pointer(bad) is None


def test_licences() -> None:
    assert kind_of(APACHE.decode()) == "apache-2.0"
    assert kind_of(MIT.decode()) == "mit"
    assert kind_of("All rights reserved.") is None


def test_planning_refuses_names() -> None:
    assert PIPELINE_ZOO.names_several("a,b")
    assert PIPELINE_ZOO.names_several("all")
    with pytest.raises(InvalidSpec):
        PIPELINE_ZOO.bind({"extra": 1})


class TestTheStandIn:
    """The stand-in keeps to the published batch API."""

    def ask(self, forge: FakeForge, document: object, **headers: str) -> tuple[int, dict[str, Any]]:
        named = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE} | headers
        url = f"{forge.url}.git/info/lfs/objects/batch"
        request = urllib.request.Request(url, json.dumps(document).encode(), named, method="POST")
        try:
            with urllib.request.urlopen(request) as reply:
                assert reply.headers["Content-Type"] == MEDIA_TYPE
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def test_batch(self, place: PipelineZooPlace) -> None:
        data = file_at(place.forge.repository.head, "storage/dbnet/FP16/dbnet.xml")
        known, unknown = hashlib.sha256(data).hexdigest(), "0" * 64
        objects = [{"oid": known, "size": len(data)}, {"oid": unknown, "size": 1}]
        status, answer = self.ask(place.forge, {"operation": "download", "objects": objects})
        assert status == 200
        assert answer["transfer"] == "basic"
        first, second = answer["objects"]
        assert (first["oid"], first["size"]) == (known, len(data))
        with urllib.request.urlopen(first["actions"]["download"]["href"]) as reply:
            assert reply.read() == data
        assert second["error"]["code"] == 404
        assert "actions" not in second

    def test_a_client_of_another_house(self, place: PipelineZooPlace) -> None:
        lfs = pytest.importorskip("dulwich.lfs")
        client = lfs.LFSClient.from_url(f"{place.forge.url}.git/info/lfs")
        for path in ("FP16/dbnet.bin", "dbnet.json"):
            assert client.download(hashlib.sha256(DBNET[path]).hexdigest(), len(DBNET[path])) == DBNET[path]
        with pytest.raises(lfs.LFSError):
            client.download("0" * 64, 1)

    def test_refusals(self, place: PipelineZooPlace) -> None:
        question = {"operation": "download", "objects": []}
        assert self.ask(place.forge, question, Accept="text/html")[0] == 406
        assert self.ask(place.forge, {"operation": "upload", "objects": []})[0] == 422
        assert self.ask(place.forge, [])[0] == 422
        assert self.ask(place.forge, question | {"objects": [{"oid": "0" * 64, "size": 1}] * 101})[0] == 413
