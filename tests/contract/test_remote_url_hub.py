"""Hub `remote-url` against a file server behind TLS, and its judgement of addresses."""

import gzip
import hashlib
import io
import random
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalog.remote_url import REMOTE_URL
from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    InvalidParameters,
    JobCancelled,
    NothingToFetch,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from common.plugins import Access, HubPlugin, NetworkRules, TransferLimits
from common.spec import Manifest, RemoteFile, Source
from common.vocabulary import Format
from tests.fakes.attempt import Errand, LocalAttempt
from tests.fakes.faults import Fault, FaultKind, FlipBit, OmitHeader, RedirectLoop, SetHeader, Status, Throttle
from tests.fakes.files import FakeFiles
from tests.fakes.tls import TlsFront
from tests.fakes.traffic import Match
from worker.hubs.remote_url import RemoteUrlHub
from worker.hubs.remote_url.addresses import COMPANIONS, Address, Allowlist, Judge

BLOCK = 256 * 1024
LIMITS = TransferLimits(block_bytes=BLOCK, connect_s=2, read_s=5, stall_s=20, spare_bytes=0)
ALLOWLIST = "EXTERNAL_SOURCES_URL_ALLOWLIST"
RANDOM = random.Random(11)
MODEL = {
    "model/udf.py": b"def run():\n    pass\n",
    "model/weights.onnx": RANDOM.randbytes(3 * BLOCK),
    "README.md": b"# A model\n",
}


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


TAR = tar_of(MODEL)
SHA256 = hashlib.sha256(TAR).hexdigest()


@dataclass(frozen=True)
class RemoteUrlPlace:
    """A server with the archive of a model, and how to reach it."""

    plugin: HubPlugin[Any]
    access: Access
    files: FakeFiles
    endpoint: str
    raw: dict[str, object]
    name: str = "wind"
    model: dict[str, bytes] = field(default_factory=dict)

    def resolve(self, name: str | None = None, revision: str | None = None, **options: object) -> Manifest:
        source = Source(hub=self.plugin.name, name=name or self.name, revision=revision)
        return RemoteUrlHub(self.access).resolve(source, self.plugin.bind(self.raw | options))

    def fetch(self, manifest: Manifest, attempt: LocalAttempt, **options: object) -> tuple[str, ...]:
        return RemoteUrlHub(self.access).fetch(manifest, self.plugin.bind(self.raw | options), attempt)

    def url(self, path: str) -> str:
        return f"{self.endpoint}{path}"

    def with_settings(self, **settings: str) -> "RemoteUrlPlace":
        access = msgspec.structs.replace(self.access, settings=self.access.settings | settings)
        return RemoteUrlPlace(self.plugin, access, self.files, self.endpoint, self.raw, model=self.model)


@contextmanager
def remote_url_place(folder: Path) -> Iterator[RemoteUrlPlace]:
    """For the tests of every hub: `name` is a model, and `model` what its archive holds."""
    folder.mkdir(parents=True, exist_ok=True)
    with FakeFiles({"/zoo/wind.tar": TAR}) as files:
        tls = TlsFront(folder, files.port)
        host = tls.endpoint.removeprefix("https://")
        access = Access(
            settings={ALLOWLIST: f"{host}/zoo/", "MODELFERRY_MAX_UNPACKED_MB": "16"},
            network=NetworkRules(ca_bundle=str(tls.certificate), private_hosts=frozenset({host})),
        )
        raw: dict[str, object] = {"url": f"{tls.endpoint}/zoo/{{name}}.tar"}
        yield RemoteUrlPlace(REMOTE_URL, access, files, tls.endpoint, raw, model=MODEL)
        tls.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[RemoteUrlPlace]:
    with remote_url_place(tmp_path / "tls") as place:
        yield place


@pytest.fixture
def attempt(tmp_path: Path) -> LocalAttempt:
    return LocalAttempt(tmp_path / "attempt", LIMITS)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if path != ".remote-url-archive"}


def trouble(place: RemoteUrlPlace, kind: FaultKind, path: str = "*", method: str | None = None) -> None:
    place.files.add_fault(Fault(kind=kind, match=Match(path, method=method)))


class TestResolve:
    def test_an_archive_that_nobody_vouches_for(self, place: RemoteUrlPlace) -> None:
        manifest = place.resolve()
        assert manifest == place.resolve()
        (archive,) = manifest.files
        assert (archive.size, archive.digest, archive.url) == (len(TAR), None, place.url("/zoo/wind.tar"))
        assert manifest.revision.startswith("etag-")
        assert manifest.format is Format.ARCHIVE
        assert "could not be verified" in str(manifest.facts["warnings"])
        assert place.files.requests.bytes_served("*.tar") == 0

    def test_a_sha256_of_the_request(self, place: RemoteUrlPlace) -> None:
        manifest = place.resolve(sha256=SHA256.upper())
        assert manifest.revision == SHA256
        assert manifest.facts == {}
        assert manifest.files[0].digest is not None
        assert place.files.requests.count("*.sha256") == 0
        assert place.resolve(sha256=SHA256, revision=SHA256) == msgspec.structs.replace(
            manifest, source=Source(hub="remote-url", name="wind", revision=SHA256)
        )

    @pytest.mark.parametrize("text", [SHA256, f"{SHA256}  wind.tar\n", f"\\{SHA256.upper()} *wind.tar\n"])
    def test_a_sha256_beside_the_archive(self, place: RemoteUrlPlace, text: str) -> None:
        place.files.files["/zoo/wind.tar.sha256"] = text.encode()
        manifest = place.resolve()
        assert (manifest.revision, manifest.facts) == (SHA256, {})

    @pytest.mark.parametrize("text", ["", "<html>not here</html>", SHA256[:63], f"{SHA256}0", "x" * 200_000])
    def test_what_is_beside_the_archive_is_no_sha256(self, place: RemoteUrlPlace, text: str) -> None:
        place.files.files["/zoo/wind.tar.sha256"] = text.encode()
        assert place.resolve().facts

    def test_identities(self, place: RemoteUrlPlace) -> None:
        with_etag = place.resolve().revision
        place.files.identified = ("Last-Modified",)
        with_date = place.resolve().revision
        assert with_date == place.resolve().revision
        assert with_date.startswith("modified-")
        place.files.files["/zoo/wind.tar"] = zip_of(MODEL)
        assert place.resolve().revision not in {with_etag, with_date}
        place.files.identified = ()
        unknown = place.resolve().revision
        assert unknown.startswith("unknown-")
        assert unknown != place.resolve().revision, "nothing says that it is the same archive"

    def test_an_etag_that_promises_little(self, place: RemoteUrlPlace) -> None:
        trouble(place, SetHeader("ETag", 'W/"1"'))
        assert place.resolve().revision.startswith("modified-")

    def test_the_url_is_part_of_the_identity(self, place: RemoteUrlPlace) -> None:
        place.files.files["/zoo/other.tar"] = TAR
        assert place.resolve().revision != place.resolve(url=place.url("/zoo/other.tar")).revision

    def test_a_revision_that_it_is_not(self, place: RemoteUrlPlace) -> None:
        with pytest.raises(RevisionNotFound):
            place.resolve(revision="v1")
        assert place.resolve(revision=place.resolve().revision).files

    def test_a_server_without_head(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        place.files.heads = False
        manifest = place.resolve(sha256=SHA256)
        assert manifest.files[0].size is None
        assert set(place.fetch(manifest, attempt)) == MODEL.keys()
        assert place.resolve().revision.startswith("unknown-")

    def test_the_name_is_escaped(self, place: RemoteUrlPlace) -> None:
        with pytest.raises(InvalidParameters):
            place.resolve("../../secret")
        place.files.files["/zoo/a?b.tar"] = TAR
        assert place.resolve("a?b").files[0].url.endswith("/zoo/a%3Fb.tar")

    def test_no_url(self, place: RemoteUrlPlace) -> None:
        for nothing in (None, ""):
            with pytest.raises(InvalidParameters) as caught:
                place.resolve(url=nothing)
            assert str(caught.value) == "hub 'remote-url' requires 'url' in the request config"

    def test_a_sha256_that_is_none(self, place: RemoteUrlPlace) -> None:
        with pytest.raises(InvalidParameters, match="64 hexadecimal"):
            place.resolve(sha256="abc")
        assert len(place.files.requests) == 0

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, SourcePrivateOrMissing),
            (403, SourcePrivateOrMissing),
            (404, SourceNotFound),
            (410, SourceNotFound),
            (418, HubUnavailable),
            (429, RateLimited),
            (500, HubUnavailable),
            (503, HubUnavailable),
        ],
    )
    def test_refusals(self, place: RemoteUrlPlace, status: int, error: type[StageError]) -> None:
        trouble(place, Status(status))
        with pytest.raises(error) as caught:
            place.resolve(sha256=SHA256)
        assert type(caught.value) is error

    def test_nothing_there(self, place: RemoteUrlPlace) -> None:
        with pytest.raises(SourceNotFound):
            place.resolve("nowhere")

    def test_an_archive_that_is_too_large(self, place: RemoteUrlPlace) -> None:
        trouble(place, SetHeader("Content-Length", str(17 * 1024 * 1024)), method="HEAD")
        with pytest.raises(SourceUnsafe, match="larger than 16 MiB"):
            place.resolve()


class TestPermission:
    def refused(self, place: RemoteUrlPlace, url: str, error: type[StageError] = InvalidParameters) -> str:
        """What is said of a URL that must not be asked; no request may be made."""
        with pytest.raises(error) as caught:
            place.resolve(url=url)
        assert len(place.files.requests) == 0
        return str(caught.value)

    def test_http(self, place: RemoteUrlPlace) -> None:
        url = f"{place.files.url}/zoo/wind.tar"
        assert self.refused(place, f"{url}?token=secret") == f"Runtime URL must use https scheme: {url}"
        said = self.refused(place, "http://user:secret@localhost/zoo/x")
        assert said == "Runtime URL must use https scheme: http://localhost/zoo/x"
        for other in ("file:///etc/passwd", "ftp://localhost/zoo/x", "//localhost/zoo/x", "localhost/zoo/x"):
            assert "must use https scheme" in self.refused(place, other)

    def test_a_login(self, place: RemoteUrlPlace) -> None:
        for login in ("user:secret@", "user@", "@", ":@"):
            url = place.url("/zoo/wind.tar").replace("https://", f"https://{login}")
            assert self.refused(place, url) == "Runtime URL must not contain embedded credentials"

    def test_no_list(self, place: RemoteUrlPlace) -> None:
        said = "No URL allowlist configured; runtime URL downloads are disabled."
        for text in ("", " , "):
            closed = place.with_settings(**{ALLOWLIST: text})
            assert self.refused(closed, closed.url("/zoo/wind.tar")) == said

    def test_off_the_list(self, place: RemoteUrlPlace) -> None:
        for url in (
            "https://example.com/zoo/wind.tar",
            place.url("/zoo/wind.tar").replace("localhost", "localhost.evil.org"),
            "https://localhost/zoo/wind.tar",
            place.url("/zoology/wind.tar"),
            place.url("/other/wind.tar"),
            place.url("/ZOO/wind.tar"),
            place.url("/"),
        ):
            assert "not on the allowlist" in self.refused(place, url)

    def test_a_request_narrows(self, place: RemoteUrlPlace) -> None:
        host = place.endpoint.removeprefix("https://")
        place.files.files["/zoo/in/wind.tar"] = TAR
        narrowed = place.with_settings(**{f"REQUESTED_{ALLOWLIST}": f"{host}/zoo/in/"})
        assert "not on the allowlist" in self.refused(narrowed, place.url("/zoo/wind.tar"))
        assert narrowed.resolve(url=place.url("/zoo/in/wind.tar"), sha256=SHA256).files

    @pytest.mark.parametrize("asked", ["{host}/", "example.com/", "{host}/zoo/,{host}/other/"])
    def test_a_request_never_widens(self, place: RemoteUrlPlace, asked: str) -> None:
        host = place.endpoint.removeprefix("https://")
        wide = place.with_settings(**{f"REQUESTED_{ALLOWLIST}": asked.format(host=host)})
        assert "not on the allowlist" in self.refused(wide, place.url("/other/wind.tar"))

    def test_a_list_of_a_request_is_not_the_operators(self, place: RemoteUrlPlace) -> None:
        access = msgspec.structs.replace(place.access, given=frozenset({ALLOWLIST}))
        mistaken = RemoteUrlPlace(REMOTE_URL, access, place.files, place.endpoint, place.raw)
        assert "No URL allowlist" in self.refused(mistaken, place.url("/zoo/wind.tar"))

    def test_a_private_network(self, place: RemoteUrlPlace) -> None:
        network = msgspec.structs.replace(place.access.network, private_hosts=frozenset())
        access = msgspec.structs.replace(place.access, network=network)
        outside = RemoteUrlPlace(REMOTE_URL, access, place.files, place.endpoint, place.raw)
        assert "private network" in self.refused(outside, place.url("/zoo/wind.tar"), SourceUnsafe)

    def test_redirects(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        place.files.redirects["/zoo/a.tar"] = place.url("/zoo/b.tar")
        place.files.redirects["/zoo/b.tar"] = "/zoo/wind.tar"
        manifest = place.resolve("a")
        assert set(place.fetch(manifest, attempt)) == MODEL.keys()

    @pytest.mark.parametrize(
        "target",
        [
            "{endpoint}/other/wind.tar",
            "/other/wind.tar",
            "/zoo/%2e%2e/other/wind.tar",
            "/zoo/..%2fother/wind.tar",
            "{plain}/zoo/wind.tar",
            "https://localhost:1/zoo/wind.tar",
            "https://raw.githubusercontent.com/a/b",
            "https://user@{host}/zoo/wind.tar",
            "file:///etc/passwd",
        ],
    )
    def test_redirects_elsewhere(self, place: RemoteUrlPlace, attempt: LocalAttempt, target: str) -> None:
        place.files.files["/other/wind.tar"] = TAR
        manifest = place.resolve()
        host = place.endpoint.removeprefix("https://")
        location = target.format(endpoint=place.endpoint, plain=place.files.url, host=host)
        place.files.redirects["/zoo/wind.tar"] = location
        with pytest.raises(SourceUnsafe):
            place.resolve()
        with pytest.raises(SourceUnsafe):
            place.fetch(manifest, attempt)
        assert place.files.requests.count("/other/*") == 0
        assert contents(attempt.workspace) == {}

    def test_a_redirect_without_end(self, place: RemoteUrlPlace) -> None:
        trouble(place, RedirectLoop(relative=True))
        with pytest.raises(HubUnavailable, match="redirects"):
            place.resolve()

    def test_a_sha256_elsewhere_is_none(self, place: RemoteUrlPlace) -> None:
        place.files.files["/other/x"] = SHA256.encode()
        place.files.redirects["/zoo/wind.tar.sha256"] = "/other/x"
        assert place.resolve().facts
        assert place.files.requests.count("/other/*") == 0


class TestFetch:
    @pytest.mark.parametrize("pack", [tar_of, zip_of, lambda files: gzip.compress(tar_of(files))])
    def test_unpacks_by_content(self, place: RemoteUrlPlace, attempt: LocalAttempt, pack: Any) -> None:
        place.files.files["/zoo/wind.tar"] = pack(MODEL)
        for _ in range(2):
            assert set(place.fetch(place.resolve(), attempt)) == MODEL.keys()
            assert contents(attempt.workspace) == MODEL

    def test_what_was_verified_is_not_fetched_twice(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        for _ in range(2):
            place.fetch(place.resolve(sha256=SHA256), attempt)
        assert place.files.requests.bytes_served("*.tar") == len(TAR)

    def test_what_changes_is_fetched_anew(self, place: RemoteUrlPlace, attempt: LocalAttempt, tmp_path: Path) -> None:
        place.fetch(place.resolve(), attempt)
        place.files.files["/zoo/wind.tar"] = tar_of({"new": b"new"})
        second = LocalAttempt(tmp_path / "attempt", LIMITS, "second")
        assert place.fetch(place.resolve(), second) == ("new",)
        assert contents(second.workspace) == {"new": b"new"}

    def test_what_changes_meanwhile_is_refused(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        changed = bytearray(TAR)
        changed[600] ^= 1
        place.files.files["/zoo/wind.tar"] = bytes(changed)
        with pytest.raises(HubUnavailable, match="changed"):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}

    def test_another_archive_than_was_promised(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve(sha256="0" * 64)
        with pytest.raises(IntegrityMismatch):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}

    def test_a_flipped_bit(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve(sha256=SHA256)
        trouble(place, FlipBit(2 * BLOCK), method="GET")
        with pytest.raises(IntegrityMismatch):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}

    def test_a_size_that_is_not_true(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        trouble(place, SetHeader("Content-Length", str(len(TAR) + 1)), method="HEAD")
        manifest = place.resolve(sha256=SHA256)
        with pytest.raises(IntegrityMismatch):
            place.fetch(manifest, attempt)

    def test_more_than_is_allowed(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        """A server that does not say how much it sends is stopped, too."""
        place.files.heads = False
        place.files.files["/zoo/wind.tar"] = bytes(30 * 1024 * 1024)
        trouble(place, Throttle(20_000_000), method="GET")
        trouble(place, OmitHeader("Content-Length"), method="GET")
        trouble(place, OmitHeader("Accept-Ranges"), method="GET")
        manifest = place.resolve(sha256=SHA256)
        with pytest.raises(SourceUnsafe, match="sends more than"):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (tar_of({"good": b"good", "../evil": b"evil"}), SourceUnsafe),
            (tar_of({"good": b"good", ".remote-url-archive": b"evil"}), SourceUnsafe),
            (gzip.compress(tar_of({"zeros": bytes(40_000_000)})), SourceUnsafe),
            (zip_of({"noise": RANDOM.randbytes(9_000_000), "more": RANDOM.randbytes(9_000_000)}), SourceUnsafe),
            (TAR[:-20_000], IntegrityMismatch),
            (b"<html>Sign in</html>" * 100, IntegrityMismatch),
            (tar_of({}), NothingToFetch),
        ],
        ids=["climbs", "reserved", "bomb", "large", "torn", "page", "empty"],
    )
    def test_archives_that_are_refused(
        self, place: RemoteUrlPlace, attempt: LocalAttempt, content: bytes, error: type[StageError]
    ) -> None:
        place.files.files["/zoo/wind.tar"] = content
        (attempt.workspace / "before").write_bytes(b"before")
        with pytest.raises(error):
            place.fetch(place.resolve(), attempt)
        assert contents(attempt.workspace) == {"before": b"before"}

    @pytest.mark.parametrize(
        ("status", "error"), [(403, SourcePrivateOrMissing), (404, SourceNotFound), (429, RateLimited)]
    )
    def test_refusals(self, place: RemoteUrlPlace, attempt: LocalAttempt, status: int, error: type[StageError]) -> None:
        manifest = place.resolve()
        trouble(place, Status(status, {"Retry-After": "1000"}))
        with pytest.raises(error):
            place.fetch(manifest, attempt)

    def test_a_cancel_and_a_second_attempt(self, place: RemoteUrlPlace, attempt: LocalAttempt) -> None:
        manifest = place.resolve()
        attempt.cancelled.set()
        with pytest.raises(JobCancelled):
            place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == {}
        attempt.cancelled.clear()
        place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == MODEL

    def test_kill_9_in_the_middle(self, place: RemoteUrlPlace, tmp_path: Path) -> None:
        """What a killed process has brought is not fetched again."""
        model = {"weights": RANDOM.randbytes(24 * BLOCK)}
        content = tar_of(model)
        place.files.files["/zoo/wind.tar"] = content
        limits = msgspec.structs.replace(LIMITS, connections=2)
        attempt = LocalAttempt(tmp_path / "attempt", limits)
        manifest = place.resolve(sha256=hashlib.sha256(content).hexdigest())
        url = f"{place.files.url}/zoo/wind.tar"
        files: tuple[RemoteFile, ...] = tuple(msgspec.structs.replace(file, url=url) for file in manifest.files)
        errand = Errand(root=str(attempt.root), files=files, limits=limits)
        slow = place.files.add_fault(Fault(kind=Throttle(1_000_000)))
        command = [sys.executable, "-m", "tests.fakes.attempt"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
            assert child.stdin is not None
            child.stdin.write(msgspec.json.encode(errand))
            child.stdin.close()
            while place.files.requests.bytes_served("*.tar") < 8 * BLOCK:
                time.sleep(0.01)
            child.kill()
        place.files.faults.remove(slow)
        place.fetch(manifest, attempt)
        assert contents(attempt.workspace) == model
        assert attempt.reports[-1].bytes_resumed > 2 * BLOCK
        assert place.files.requests.bytes_served("*.tar") < len(content) + 5 * BLOCK


class TestAddresses:
    def test_one_form(self) -> None:
        for url in ("https://Example.COM./a/b%2Ec", "https://example.com:443/a/b.c", "https://example.com/a/b.c#part"):
            assert Address.of(url).url == "https://example.com/a/b.c"
        assert (
            Address.of("https://b\u00fccher.example/\u00fc?x=%2F").url == "https://xn--bcher-kva.example/%C3%BC?x=%2F"
        )
        assert Address.of("https://[2001:DB8::1]:8443/a").url == "https://[2001:db8::1]:8443/a"
        assert Address.of("https://example.com").url == Address.of("https://example.com/").url
        assert Address.of("https://example.com/a/?q").place == "https://example.com/a/"

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com/a/../b", "https://example.com/a/%2e%2e/b", "https://example.com/a/.%2E/b",
            "https://example.com/a/./b", "https://example.com/a//b", "https://example.com//a", "https://example.com/a%2fb",
            "https://example.com/a%5cb", "https://example.com/a\\b", "https:\\\\example.com/a", "https://example.com/%252e%252e/b",
            "https://example.com/%", "https://example.com/%zz", "https://example.com/%ff", "https://example.com/%00",
            "https://example.com/a%0d%0ab", "https://example.com/a b", "https://example.com/\ta", "https://example.com/\u200b",
            "https://", "https:///a", "https://exa mple.com/", "https://example..com/", "https://example.com:x/",
            "https://example.com:99999/", "https://[::1/", "https://-/", "https://example.com/?\u00e9", "https://ex%61mple.com/",
        ],
    )  # fmt: skip
    def test_ambiguous(self, url: str) -> None:
        with pytest.raises(InvalidParameters):
            Address.of(url)

    @pytest.mark.parametrize(
        ("listed", "url"),
        [
            ("example.com", "https://example.com/a"),
            ("example.com/", "https://EXAMPLE.com./a"),
            ("example.com/a", "https://example.com/a"),
            ("example.com/a", "https://example.com/a/b"),
            ("example.com/a/", "https://example.com:443/a/b"),
            ("example.com:8443/a", "https://example.com:8443/a/b"),
            ("https://example.com/a/", "https://example.com/a/b?c=d"),
            ("x.org, example.com/a b/", "https://example.com/a%20b/c"),
            ("example.com/%61/", "https://example.com/a/c"),
        ],
    )
    def test_admitted(self, listed: str, url: str) -> None:
        if " b" in listed:
            listed = listed.replace("a b", "a%20b")
        assert Allowlist.of(listed).admits(Address.of(url))

    @pytest.mark.parametrize(
        ("listed", "url"),
        [
            ("example.com", "https://example.com.evil.org/a"),
            ("example.com", "https://evil-example.com/a"),
            ("example.com", "https://sub.example.com/a"),
            ("example.com", "https://example.com:8443/a"),
            ("example.com:8443", "https://example.com/a"),
            ("example.com/a", "https://example.com/ab"),
            ("example.com/a/", "https://example.com/A/"),
            ("example.com/a/b", "https://example.com/a"),
            ("", "https://example.com/a"),
        ],
    )
    def test_not_admitted(self, listed: str, url: str) -> None:
        assert not Allowlist.of(listed).admits(Address.of(url))

    @pytest.mark.parametrize("listed", ["http://example.com/", "user@example.com/", "example.com/../", "*"])
    def test_prefixes_that_are_none(self, listed: str) -> None:
        with pytest.raises(InvalidParameters, match=ALLOWLIST):
            Allowlist.of(listed)

    @given(st.text(max_size=40), st.text(max_size=10))
    def test_whatever_is_admitted_is_where_it_says(self, path: str, host: str) -> None:
        allowed = Allowlist.of("example.com/a/b/")
        for url in (
            f"https://example.com/{path}",
            f"https://{host}example.com{path}",
            f"https://example.com/a/b/{path}",
        ):
            try:
                address = Address.of(url)
            except InvalidParameters:
                continue
            assert Address.of(address.url) == address
            assert allowed.admits(address) == address.url.startswith("https://example.com/a/b/") or (
                address.url.partition("?")[0] == "https://example.com/a/b"
            )

    def test_github_keeps_its_files_elsewhere(self) -> None:
        judge = Judge([Allowlist.of("github.com/org/repo/")])
        start = judge.check("https://github.com/org/repo/raw/main/x.tar")
        for host in COMPANIONS["github.com"]:
            judge.check_redirect(start, f"https://{host}/anything/at%2Fall?X-Amz-Signature=1")
            for other in (
                f"https://{host}.evil.org/",
                f"http://{host}/",
                f"https://{host}:8443/",
                f"https://u@{host}/",
            ):
                with pytest.raises(SourceUnsafe):
                    judge.check_redirect(start, other)
        judge.check_redirect(start, "https://github.com/org/repo/other")
        with pytest.raises(SourceUnsafe):
            judge.check_redirect(start, "https://github.com/other/repo/")
        elsewhere = Judge([Allowlist.of("example.com/")])
        with pytest.raises(SourceUnsafe):
            elsewhere.check_redirect(elsewhere.check("https://example.com/x"), "https://raw.githubusercontent.com/a/b")
