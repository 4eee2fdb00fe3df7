"""Archives from outside: what is unpacked, what is refused, and that a refusal leaves nothing."""

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.archives import ArchiveLimits, unpack
from common.errors import DiskFull, IntegrityMismatch, JobCancelled, SourceUnsafe, StageError
from common.spec import check_distinct, check_file_path

LIMITS = ArchiveLimits(most_bytes=64 * 1024 * 1024)
FILES = {"a/model.xml": b"<net/>" * 300, "a/model.bin": os.urandom(1_100_000), "LICENSE": b"", "long" * 60: b"x" * 513}

Pack = Callable[[dict[str, bytes]], bytes]


def tar_of(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6777
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return packed.getvalue()


PACKERS: dict[str, Pack] = {
    "tar": tar_of,
    "tar, GNU": lambda files: tar_of(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
    "tar.xz, two streams": lambda files: (
        lzma.compress(tar_of(files)[:1000]) + bytes(8) + lzma.compress(tar_of(files)[1000:])
    ),
    "zip": zip_of,
    "zip, stored": lambda files: zip_of(files, zipfile.ZIP_STORED),
}


TAR_FORMS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def held(folder: Path) -> dict[str, bytes]:
    """All files below a folder, and none of them anything but a file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        assert not path.is_symlink()
        if not path.is_dir():
            assert stat.S_IMODE(path.lstat().st_mode) == 0o644
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def refused(archive: Path, content: bytes, into: Path, limits: ArchiveLimits = LIMITS) -> StageError:
    """The error with which the archive is refused; nothing of it may remain, and nothing else be touched."""
    archive.write_bytes(content)
    outside = {path for path in archive.parent.rglob("*") if into not in path.parents} - {into}
    with pytest.raises((SourceUnsafe, IntegrityMismatch)) as caught:
        unpack(archive, into, limits)
    assert held(into) == {}
    assert {path for path in archive.parent.rglob("*") if into not in path.parents} - {into} == outside
    assert isinstance(caught.value, StageError)
    return caught.value


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_comes_out_as_it_went_in(pack: Pack, archive: Path, into: Path) -> None:
    archive.write_bytes(pack(FILES))
    assert set(unpack(archive, into, LIMITS)) == set(FILES)
    assert held(into) == FILES
    assert set(unpack(archive, into, LIMITS)) == set(FILES), "a second attempt does the same"
    assert held(into) == FILES


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_members_go_where_they_are_sent(pack: Pack, archive: Path, into: Path) -> None:
    archive.write_bytes(pack(FILES))
    rename = {"a/model.xml": "b/c/net.xml", "LICENSE": "LICENSE"}.get
    assert set(unpack(archive, into, LIMITS, rename=rename)) == {"b/c/net.xml", "LICENSE"}
    assert held(into) == {"b/c/net.xml": FILES["a/model.xml"], "LICENSE": b""}


@pytest.mark.parametrize("to", ["../x", "/x", "a/../../x", "", "b\\c"])
def test_nothing_is_sent_outside(to: str, archive: Path, into: Path) -> None:
    archive.write_bytes(tar_of(FILES))
    with pytest.raises(SourceUnsafe):
        unpack(archive, into, LIMITS, rename=lambda _: to)
    assert held(into) == {}


def test_two_members_are_not_sent_to_one_place(archive: Path, into: Path) -> None:
    for pack in (tar_of, zip_of):
        archive.write_bytes(pack(FILES))
        with pytest.raises(SourceUnsafe):
            unpack(archive, into, LIMITS, rename=lambda _: "one")
        assert held(into) == {}


def test_what_was_there_before_stays(archive: Path, into: Path) -> None:
    into.mkdir()
    (into / "kept").write_bytes(b"kept")
    (into / "kept").chmod(0o644)
    archive.write_bytes(zip_of({"new": b"new", "../hostile": b""}))
    with pytest.raises(SourceUnsafe):
        unpack(archive, into, LIMITS)
    assert held(into) == {"kept": b"kept"}
    archive.write_bytes(zip_of({"new": b"new", "kept/below": b""}))
    with pytest.raises(OSError, match=r"kept"):
        unpack(archive, into, LIMITS)
    assert held(into) == {"kept": b"kept"}


def test_a_dot_as_tar_writes_it(archive: Path, into: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in (".", "./a", "./empty/"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        file = tarfile.TarInfo("./a/b")
        file.size = 2
        tar.addfile(file, io.BytesIO(b"xy"))
    archive.write_bytes(packed.getvalue())
    assert unpack(archive, into, LIMITS) == ("a/b",)
    assert held(into) == {"a/b": b"xy"}


HOSTILE_NAMES = [
    "../x", "/etc/x", "a/../../x", "a//b", "a/./b", "..", "a\\..\\x", "a\nb", "\u0085", "x" * 256, "/".join(["x" * 99] * 11),
    ".modelferry/x", ".modelferry.json", ".cache/x", ".unpacking/x", "././../x", "a/",
]  # fmt: skip


@pytest.mark.parametrize("pack", [tar_of, zip_of], ids=["tar", "zip"])
@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if not name.endswith("/")])
def test_dangerous_names_refuse_the_whole_archive(pack: Pack, name: str, archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, pack({"good": b"good", name: b"evil"}), into), SourceUnsafe)


@pytest.mark.parametrize("pack", [tar_of, zip_of], ids=["tar", "zip"])
@pytest.mark.parametrize(
    ("one", "other"),
    [("A.bin", "a.BIN"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE"), ("a", "a/b"), ("a/b", "A")],
)
def test_names_that_mean_one_file(pack: Pack, one: str, other: str, archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, pack({one: b"1", other: b"2"}), into), SourceUnsafe)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(archive: Path, into: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as twice:
        twice.writestr("a", b"1")
        twice.writestr("a", b"2")
    assert isinstance(refused(archive, packed.getvalue(), into), SourceUnsafe)
    doubled = tar_of({"a": b"1"})[:1024] + tar_of({"a": b"2"})
    assert isinstance(refused(archive, doubled, into), SourceUnsafe)


def odd_tar(kind: bytes, name: str = "odd", target: str = "good", then: str = "odd/through") -> bytes:
    """A tar with a member of this kind, and a file that would go through it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        good = tarfile.TarInfo("good")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        odd = tarfile.TarInfo(name)
        odd.type, odd.linkname = kind, target
        tar.addfile(odd)
        through = tarfile.TarInfo(then)
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    return packed.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"V",
    ],
)
def test_links_and_devices_refuse_the_whole_tar(kind: bytes, archive: Path, into: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    refused(archive, odd_tar(kind, target=str(outside)), into)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_refuse_the_whole_zip(kind: int, archive: Path, into: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as odd:
        odd.writestr("good", b"good")
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        odd.writestr(info, b"/etc/passwd")
    assert isinstance(refused(archive, packed.getvalue(), into), SourceUnsafe)


def test_a_sparse_tar_is_refused(archive: Path, into: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("huge")
        info.size = 512
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15)}
        tar.addfile(info, io.BytesIO(b"1\n1000000\n0\n".ljust(512, b"\x00")))
    refused(archive, packed.getvalue(), into)


def test_a_small_bomb(archive: Path, into: Path) -> None:
    bomb = zip_of({"zeros": bytes(50_000_000)})
    assert len(bomb) < 50_000
    assert "bytes come of each byte" in str(refused(archive, bomb, into))
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert "bytes come of each byte" in str(refused(archive, pack(tar_of({"zeros": bytes(50_000_000)})), into))


def test_a_bomb_in_what_is_left_out(archive: Path, into: Path) -> None:
    archive.write_bytes(gzip.compress(tar_of({"zeros": bytes(50_000_000), "wanted": b"x"})))
    with pytest.raises(SourceUnsafe):
        unpack(archive, into, LIMITS, rename=lambda name: None if name == "zeros" else name)
    assert held(into) == {}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_limits_on_size_and_number(pack: Pack, archive: Path, into: Path) -> None:
    total = sum(map(len, FILES.values()))
    archive.write_bytes(pack(FILES))
    assert unpack(archive, into, ArchiveLimits(total, most_files=len(FILES)))
    shutil.rmtree(into)
    assert "bytes" in str(refused(archive, pack(FILES), into, ArchiveLimits(total - 1)))
    assert "files" in str(refused(archive, pack(FILES), into, ArchiveLimits(total, most_files=len(FILES) - 1)))


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("share", [0.0001, 0.3, 0.9, 0.98])
def test_cut_short(pack: Pack, share: float, archive: Path, into: Path) -> None:
    whole = pack(FILES)
    refused(archive, whole[: int(len(whole) * share)], into)


def test_a_tar_cut_between_two_members(archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, tar_of({"a": b"1", "b": b"2"})[:1024], into), IntegrityMismatch)


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_something_behind_the_end(pack: Pack, archive: Path, into: Path) -> None:
    refused(archive, pack(FILES) + b"#!/bin/sh\n" * 100, into)


def test_zeros_behind_the_end_of_a_tar_are_padding(archive: Path, into: Path) -> None:
    archive.write_bytes(tar_of(FILES) + bytes(20480))
    assert set(unpack(archive, into, LIMITS)) == set(FILES)


def lying(content: bytes, size: int) -> bytes:
    """A zip of one file whose headers say another size than it has."""
    packed = bytearray(zip_of({"file": content}))
    directory = packed.index(b"PK\x01\x02")
    struct.pack_into("<I", packed, 22, size)
    struct.pack_into("<I", packed, directory + 24, size)
    return bytes(packed)


@pytest.mark.parametrize("size", [0, 1, 4999, 5001, 2**31])
def test_a_zip_that_lies_about_a_size(size: int, archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, lying(b"x" * 5000, size), into), IntegrityMismatch)


def test_a_zip_that_says_little_and_holds_much(archive: Path, into: Path) -> None:
    refused(archive, lying(bytes(50_000_000), 10), into)


def test_a_zip_with_two_names_for_one_file(archive: Path, into: Path) -> None:
    packed = bytearray(zip_of({"good": b"good"}))
    packed[30:34] = b"evil"
    assert isinstance(refused(archive, bytes(packed), into), IntegrityMismatch)


def test_a_zip_with_a_nul_in_a_name(archive: Path, into: Path) -> None:
    packed = zip_of({"good.xml_evil": b"x"}).replace(b"good.xml_evil", b"good.xml\x00evil")
    assert isinstance(refused(archive, packed, into), SourceUnsafe)


def test_a_flipped_bit(archive: Path, into: Path) -> None:
    for pack in (zip_of, PACKERS["tar.gz"], PACKERS["tar.xz"], PACKERS["zip, stored"]):
        packed = bytearray(pack(FILES))
        packed[len(packed) // 2] ^= 1
        assert isinstance(refused(archive, bytes(packed), into), IntegrityMismatch)


def test_an_encrypted_zip(archive: Path, into: Path) -> None:
    packed = bytearray(zip_of({"secret": b"secret"}))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in str(refused(archive, bytes(packed), into))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_would_be_unpacked_in_memory(method: int, archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, zip_of({"zeros": bytes(1000)}, method), into), SourceUnsafe)


def test_a_zip_directory_that_takes_all_memory(archive: Path, into: Path) -> None:
    names = {f"{number}": b"" for number in range(50_000)}
    assert "too many files" in str(refused(archive, zip_of(names), into, ArchiveLimits(1000, most_files=10)))


def test_an_xz_that_wants_all_memory(archive: Path, into: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1024 * 1024 * 1024}]
    packed = lzma.compress(tar_of(FILES), filters=filters, format=lzma.FORMAT_XZ)
    assert isinstance(refused(archive, packed, into), IntegrityMismatch)


def pax_header(records: bytes, size: int | None = None) -> bytes:
    """A tar that starts with an extended header of these bytes."""
    info = tarfile.TarInfo("head")
    info.type, info.size = tarfile.XHDTYPE, len(records) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\x00")


@pytest.mark.parametrize("size", [200_000, 2**33 - 1])
def test_a_tar_header_without_end(size: int, archive: Path, into: Path) -> None:
    packed = pax_header(b"x" * 200_000, size) + tar_of(FILES)
    assert "header without end" in str(refused(archive, packed, into))


def test_a_tar_header_that_takes_all_time(archive: Path, into: Path) -> None:
    refused(archive, pax_header(b"1" * 60_000) + tar_of(FILES), into)


def test_a_chain_of_tar_headers(archive: Path, into: Path) -> None:
    refused(archive, pax_header(b"") * 5000 + tar_of(FILES), into)


def test_a_tar_that_points_back(archive: Path, into: Path) -> None:
    info = tarfile.TarInfo("back")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + struct.pack(">i", -512)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    refused(archive, bytes(header) + bytes(10240), into)


@pytest.mark.parametrize("content", [b"", b"x", b"<html>no archive</html>" * 100, b"PK\x03\x04", b"\x1f\x8b", b"BZh9"])
def test_what_is_no_archive(content: bytes, archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, content, into), IntegrityMismatch)


def test_a_compressed_file_that_is_no_tar(archive: Path, into: Path) -> None:
    assert isinstance(refused(archive, gzip.compress(b"text" * 1000), into), IntegrityMismatch)


def test_what_a_killed_attempt_has_left_goes(archive: Path, into: Path) -> None:
    (into / ".unpacking/a").mkdir(parents=True)
    (into / ".unpacking/a/model.bin").write_bytes(b"half")
    archive.write_bytes(tar_of(FILES))
    unpack(archive, into, LIMITS)
    assert held(into) == FILES


def test_archives_in_archives_are_files(archive: Path, into: Path) -> None:
    inner = zip_of({"../x": b"x"})
    archive.write_bytes(zip_of({"inner.zip": inner}))
    unpack(archive, into, LIMITS)
    assert held(into) == {"inner.zip": inner}


def test_is_stopped_in_the_middle(archive: Path, into: Path) -> None:
    asked = []

    def checkpoint() -> None:
        asked.append(1)
        if len(asked) == 12:
            raise JobCancelled

    for pack in (zip_of, tar_of):
        asked.clear()
        archive.write_bytes(pack({"large": os.urandom(20_000_000)}))
        with pytest.raises(JobCancelled):
            unpack(archive, into, LIMITS, checkpoint=checkpoint)
        assert held(into) == {}


def test_no_room(archive: Path, into: Path) -> None:
    archive.write_bytes(zip_of(FILES))

    def full() -> None:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(DiskFull):
        unpack(archive, into, LIMITS, checkpoint=full)
    assert held(into) == {}


part = st.text(min_size=1, max_size=12) | st.sampled_from([".", "..", "", "CON", "a", "A", "é", "e\u0301"])
names = st.lists(part, min_size=1, max_size=4).map("/".join)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=5, unique=True), st.sampled_from([tar_of, zip_of]))
def test_any_names(tmp_path_factory: pytest.TempPathFactory, wanted: list[str], pack: Pack) -> None:
    """Either all names are harmless and all files are there, or the archive is refused and none is."""
    top = tmp_path_factory.mktemp("any")
    archive, into = top / "archive", top / "into"
    try:
        archive.write_bytes(pack({name: name.encode("utf-8", "surrogatepass") for name in wanted}))
    except (ValueError, IndexError):
        return
    try:
        unpacked = unpack(archive, into, LIMITS)
    except (SourceUnsafe, IntegrityMismatch):
        assert held(into) == {}
        assert sorted(top.iterdir()) == [archive, into]
        return
    check_distinct([check_file_path(name) for name in unpacked])
    assert set(held(into)) == set(unpacked)
    assert sorted(top.iterdir()) == [archive, into]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_of_a_sound_header(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """The headers of a tar may say anything, with a checksum that fits."""
    packed = bytearray(
        tar_of({"a/b": b"x" * 700, "c" * 90 + "/" + "d" * 60: b"y" * 900}, data.draw(st.sampled_from(TAR_FORMS)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        start = 512 * data.draw(st.integers(0, len(packed) // 512 - 1))
        at, fresh = data.draw(st.integers(0, 511)), data.draw(st.binary(min_size=1, max_size=12))
        packed[start + at : start + min(512, at + len(fresh))] = fresh[: 512 - at]
        if packed[start + 257 : start + 262] == b"ustar":
            packed[start + 148 : start + 156] = b" " * 8
            packed[start + 148 : start + 156] = b"%06o\x00 " % sum(packed[start : start + 512])
    survives(tmp_path_factory.mktemp("header"), bytes(packed))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PACKERS)), st.data())
def test_any_damage(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    """Whatever happens to an archive on its way, it is unpacked within its limits or refused with a word of ours."""
    packed = bytearray(PACKERS[kind]({"a/b": b"x" * 700, "c": bytes(range(256)) * 4}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    survives(tmp_path_factory.mktemp("damage"), bytes(packed))


def survives(top: Path, content: bytes) -> None:
    archive, into = top / "archive", top / "into"
    archive.write_bytes(content)
    try:
        unpacked = unpack(archive, into, ArchiveLimits(10_000))
    except (SourceUnsafe, IntegrityMismatch):
        assert held(into) == {}
    else:
        assert set(held(into)) == set(unpacked)
    assert sorted(top.iterdir()) == [archive, into]
