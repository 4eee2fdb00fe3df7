"""From an archive to files: every name is checked, and what is refused leaves nothing."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.archives.limits import DANGEROUS, TORN, ArchiveLimits, Member, Meter, reading
from common.archives.tar import decompressed, is_tar_header, tar_members
from common.archives.zip import zip_members
from common.errors import DiskFull, IntegrityMismatch, SourceUnsafe, is_disk_full
from common.spec import check_distinct, check_file_path

_STAGING = ".unpacking"
_START_BYTES = tarfile.BLOCKSIZE


def keep(path: str) -> str | None:
    """Where a member goes: to its own path."""
    return path


def nothing() -> None:
    """No checkpoint."""


def unpack(
    archive: Path,
    into: Path,
    limits: ArchiveLimits,
    *,
    rename: Callable[[str], str | None] = keep,
    checkpoint: Callable[[], None] = nothing,
) -> tuple[str, ...]:
    """Unpack a zip or a tar, whatever its name, and return the paths of the files, relative to `into`.

    `rename` maps a member's path to where it goes; None leaves it out. Folders come with their files, and a file of
    an earlier call is replaced. On an error nothing of the archive remains. Links, devices, and names that could leave
    `into` or that mean one file twice are refused, and the whole archive with them; modes and times are not taken over.

    Not for two archives into one folder at the same time. Raises SourceUnsafe on a hostile archive or one that breaks
    the limits, IntegrityMismatch on a broken one, DiskFull, and what `checkpoint` raises: it is called every megabyte.
    """
    staging = into / _STAGING
    into.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with _disk_errors():
            staging.mkdir()
            paths = _stage(archive, staging, limits, rename, checkpoint)
            _move(paths, staging, into)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return paths


def _stage(
    archive: Path,
    staging: Path,
    limits: ArchiveLimits,
    rename: Callable[[str], str | None],
    checkpoint: Callable[[], None],
) -> tuple[str, ...]:
    names, paths = [], []
    with archive.open("rb") as file:
        meter = Meter(os.fstat(file.fileno()).st_size, limits, checkpoint)
        for member in _members(file, limits, meter):
            meter.member()
            name = _checked_name(member)
            if name is None or member.is_folder:
                continue
            names.append(name)
            path = rename(name)
            if path is not None:
                paths.append(check_file_path(path))
                _write(member, staging / path, meter)
    check_distinct(names)
    check_distinct(paths)
    return tuple(paths)


def _move(paths: tuple[str, ...], staging: Path, into: Path) -> None:
    moved: list[Path] = []
    try:
        for path in paths:
            (into / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            moved.append((staging / path).replace(into / path))
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise


def _checked_name(member: Member) -> str | None:
    """The member's path below the archive's root; None where it is that root."""
    name = member.name.removesuffix("/") if member.is_folder else member.name
    name = name.removeprefix("./")
    if member.is_folder and name in {"", "."} and not member.name.startswith("/"):
        return None
    check_file_path(name)
    if name.partition("/")[0] == _STAGING:
        raise SourceUnsafe(f"The archive holds a name that is kept for Modelferry: {name[:200]!r}", hint=DANGEROUS)
    return name


def _write(member: Member, path: Path, meter: Meter) -> None:
    """Write the member to a new file. The folders above were all made here: there is no link among them."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.fdopen(os.open(path, flags, 0o644), "wb", buffering=0)
    except (FileExistsError, NotADirectoryError) as error:
        detail = f"The archive holds two files of one name: {member.name[:200]!r}"
        raise SourceUnsafe(detail, hint=DANGEROUS) from error
    written = 0
    with writing:
        os.fchmod(writing.fileno(), 0o644)
        for piece in member.pieces():
            meter.written(len(piece))
            _write_all(writing, piece)
            written += len(piece)
    if written != member.size:
        raise IntegrityMismatch(f"{member.name[:200]!r} is cut short in the archive", hint=TORN)


def _write_all(writing: io.RawIOBase | BinaryIO, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[writing.write(left) or 0 :]


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("The volume has no room for what the archive holds") from error
        raise


def _members(file: BinaryIO, limits: ArchiveLimits, meter: Meter) -> Iterator[Member]:
    """What the archive holds, in order. Each member is to be read before the next one is asked for."""
    start = file.read(_START_BYTES)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zip_members(file, limits, meter)
    with reading():
        stream = decompressed(file, start)
    if stream is not None:
        return tar_members(stream, meter)
    if is_tar_header(start):
        return tar_members(file, meter)
    raise IntegrityMismatch(
        "This is no archive: neither a zip nor a tar", hint="Only zip, tar, tar.gz, tar.bz2 and tar.xz can be unpacked."
    )
