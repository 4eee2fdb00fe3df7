"""Archives from outside, through every way by which one comes in: a refusal, and nothing is left of them."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from common.catalog.geti import GETI
from common.catalog.hls import HLS
from common.plugins import Access
from tests.contract.places import Place
from tests.fakes.attempt import LocalAttempt
from tests.fakes.geti import Export, FakeGeti2, Shelf, Training
from tests.fakes.tls import TlsFront
from tests.hostile.attacks import MARKER
from tests.hostile.doors import DOORS, LIMITS, outcome
from tests.hostile.raw import Play, RawServer, Visit
from tests.web import Web, web

MB = 1024 * 1024
IR = {"deployment/model/model.xml": b"<net/>", "deployment/model/model.bin": b"weights"}
CHECKPOINT = {"human-pose-estimation-3d-0001.pth": b"weights" * 300}
GOOD = {**IR, **CHECKPOINT}
"""What makes a model for each of the hubs, so that it is the attack alone that is refused."""


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member in (*GOOD.items(), *members):
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def odd(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(*members: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content, compress_type=method)
    return packed.getvalue()


def lying(field: int, value: int, *, width: str = "<I") -> bytes:
    """A zip whose last entry, the checkpoint, is not what the directory says."""
    packed = bytearray(zip_of())
    struct.pack_into(width, packed, packed.rindex(b"PK\x01\x02") + field, value)
    return bytes(packed)


EVIL = (f"{MARKER}", b"evil")

TARS: Mapping[str, Callable[[], bytes]] = {
    "climbs": lambda: tar_of((f"../../{MARKER}", b"evil")),
    "climbs-inside": lambda: tar_of((f"a/../../{MARKER}", b"evil")),
    "absolute": lambda: tar_of((f"/tmp/{MARKER}", b"evil")),
    "backslash": lambda: tar_of((f"..\\{MARKER}", b"evil")),
    "link": lambda: tar_of(odd(tarfile.SYMTYPE, "out", "/tmp"), (f"out/{MARKER}", b"evil")),
    "chain-of-links": lambda: tar_of(
        odd(tarfile.SYMTYPE, "a", ".."), odd(tarfile.SYMTYPE, "a/b", ".."), (f"a/b/{MARKER}", b"evil")
    ),
    "link-to-itself": lambda: tar_of(odd(tarfile.SYMTYPE, "a", "a")),
    "hard-link": lambda: tar_of(odd(tarfile.LNKTYPE, "a", "/etc/passwd")),
    "hard-link-inside": lambda: tar_of(odd(tarfile.LNKTYPE, "a", "deployment/model/model.bin")),
    "device": lambda: tar_of(odd(tarfile.CHRTYPE, "null")),
    "block-device": lambda: tar_of(odd(tarfile.BLKTYPE, "sda")),
    "pipe": lambda: tar_of(odd(tarfile.FIFOTYPE, "pipe")),
    "ours": lambda: tar_of((".modelferry.json", b"{}")),
    "ours-inside": lambda: tar_of((".modelferry/blobs/x", b"evil")),
    "of-a-hubs-client": lambda: tar_of((".cache/huggingface/x", b"evil")),
    "twins": lambda: tar_of(("Readme", b"1"), ("README", b"2")),
    "twins-decomposed": lambda: tar_of(("caf\u00e9", b"1"), ("cafe\u0301", b"2")),
    "file-and-folder": lambda: tar_of(("a", b"1"), ("a/b", b"2")),
    "over-long": lambda: tar_of(("x" * 300, b"1")),
    "control": lambda: tar_of(("a\x1b[2J", b"1")),
    "bomb-by-ratio": lambda: gzip.compress(tar_of(("zeros", bytes(12 * MB)))),
    "bomb-by-size": lambda: tar_of(("noise", os.urandom(MB) * 20)),
    "cut": lambda: tar_of(("noise", os.urandom(MB)))[:-600_000],
    "page": lambda: b"<!DOCTYPE html><html>Sign in</html>" * 100,
    "nothing": lambda: b"",
}

ZIPS: Mapping[str, Callable[[], bytes]] = {
    "zip-climbs": lambda: zip_of((f"../../{MARKER}", b"evil")),
    "zip-absolute": lambda: zip_of((f"/tmp/{MARKER}", b"evil")),
    "zip-drive": lambda: zip_of((f"c:\\{MARKER}", b"evil")),
    "zip-link": lambda: zip_of(("out", b"/tmp"), mode=stat.S_IFLNK | 0o777),
    "zip-device": lambda: zip_of(("null", b""), mode=stat.S_IFCHR | 0o666),
    "zip-ours": lambda: zip_of((".modelferry.json", b"{}")),
    "zip-twins": lambda: zip_of(("Readme", b"1"), ("README", b"2")),
    "zip-file-and-folder": lambda: zip_of(("a", b"1"), ("a/b", b"2")),
    "zip-bomb-by-ratio": lambda: zip_of(("zeros", bytes(12 * MB))),
    "zip-bomb-by-size": lambda: zip_of(("noise", os.urandom(MB) * 20), method=zipfile.ZIP_STORED),
    "zip-lies-of-size": lambda: lying(24, 2**31),
    "zip-lies-of-packed-size": lambda: lying(20, 1),
    "zip-lies-of-sum": lambda: lying(16, 0xDEADBEEF),
    "zip-lies-of-place": lambda: lying(42, 2**31),
    "zip-is-locked": lambda: lying(8, 1, width="<H"),
    "zip-of-an-unknown-method": lambda: lying(10, 97, width="<H"),
    "zip-cut": lambda: zip_of()[:-30],
}

BROKEN = frozenset(
    {
        "cut",
        "page",
        "nothing",
        "zip-lies-of-sum",
        "zip-lies-of-place",
        "zip-lies-of-packed-size",
        "zip-lies-of-size",
        "zip-cut",
    }
)
"""These are no archives, or torn ones; the others are made to harm."""


def serves(content: bytes) -> Play:
    def play(visit: Visit) -> None:
        if visit.target.endswith(".sha256"):
            visit.send("HTTP/1.1 404 Not Found", "Content-Length: 0")
            return
        body = b"" if visit.method == "HEAD" else content
        visit.send("HTTP/1.1 200 OK", f"Content-Length: {len(content)}", 'ETag: "1"', body=body)

    return play


def expected(attack: str) -> set[str]:
    return {"integrity_mismatch", "source_unsafe"} if attack in BROKEN else {"source_unsafe"}


def assert_nothing_is_left(folder: Path, attempt: LocalAttempt) -> None:
    """The archive itself may stay, as what was fetched; nothing that it held is anywhere."""
    held = {path.name for path in attempt.workspace.rglob("*")} - {
        "export.zip", ".remote-url-archive", "human-pose-estimation-3d.tar.gz"
    }  # fmt: skip
    assert held == set()
    assert not list(folder.rglob(f"*{MARKER}*"))
    assert not Path(f"/tmp/{MARKER}").exists()


@pytest.mark.parametrize("attack", [*TARS, *ZIPS])
def test_remote_url(attack: str, tls: tuple[RawServer, TlsFront], tmp_path: Path) -> None:
    server, front = tls
    server.play = serves({**TARS, **ZIPS}[attack]())
    attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
    place = DOORS["remote-url"].place(front.endpoint, tmp_path / "place", front.certificate)
    assert outcome(place, attempt) in expected(attack)
    assert_nothing_is_left(tmp_path, attempt)


@pytest.mark.parametrize("attack", [*TARS, *ZIPS])
def test_hls(attack: str, tmp_path: Path) -> None:
    """Only the checkpoint is taken out of it, but what lies beside it counts."""
    attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
    with RawServer(serves({**TARS, **ZIPS}[attack]())) as server:
        settings = {"HLS_3D_POSE_CHECKPOINT_URL": f"{server.own_url}/x.tar.gz", "MODELFERRY_MAX_UNPACKED_MB": "16"}
        place = Place(HLS, Access(settings=settings), {"model_type": "3d-pose"}, name="human-pose-estimation-3d-0001")
        # What is not wanted out of a zip is not even looked at.
        unread = {"done"} if attack == "zip-bomb-by-ratio" else set()
        ended = outcome(place, attempt)
    assert ended in expected(attack) | unread
    if ended != "done":
        assert_nothing_is_left(tmp_path, attempt)


@pytest.mark.parametrize("attack", [*TARS, *ZIPS])
def test_geti(attack: str, tmp_path: Path) -> None:
    attempt = LocalAttempt(tmp_path / "attempt", LIMITS)
    with FakeGeti2() as server:
        content = {**TARS, **ZIPS}[attack]()
        server.add(Shelf(name="A").add(Training(name="YOLOX", exports=[Export(content=content)])))
        settings = {"GETI_HOST": server.host, "MODELFERRY_MAX_UNPACKED_MB": "16"}
        access = Access(settings=settings, secrets={"GETI_TOKEN": server.token})
        assert outcome(Place(GETI, access, {}, name="YOLOX"), attempt) in expected(attack)
    assert_nothing_is_left(tmp_path, attempt)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web"), max_unpacked_mb=16) as running:
        yield running


@pytest.mark.parametrize("attack", [*TARS, *ZIPS])
def test_upload(attack: str, service: Web) -> None:
    content = {**TARS, **ZIPS}[attack]()
    answer = service.post("/models/upload", files={"file": ("model.zip", content)}, data={"model_name": "x"})
    assert answer.status_code == (413 if attack in {"zip-bomb-by-size", "zip-lies-of-size"} else 400), answer.text
    assert str(service.models_dir) not in answer.text
    assert service.get("/jobs").json() == {"jobs": []}
    files = [path for path in service.models_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not [path for path in files if not {"locks", "state"} & {*path.parts}]
    assert not list(service.models_dir.parent.rglob(f"*{MARKER}*"))


def test_the_good_ones_pass(tls: tuple[RawServer, TlsFront], tmp_path: Path) -> None:
    """So that it is the attack that is refused."""
    server, front = tls
    for number, content in enumerate((tar_of(), gzip.compress(tar_of()), zip_of())):
        server.play = serves(content)
        place = DOORS["remote-url"].place(front.endpoint, tmp_path / "place", front.certificate)
        assert outcome(place, LocalAttempt(tmp_path / str(number), LIMITS)) == "done"
    assert msgspec.json.encode(sorted(GOOD))
