"""Looks at an uploaded archive before anything of it is unpacked."""

import io
import posixpath
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import SourceUnsafe, UploadRefused, UploadTooLarge
from common.spec import check_distinct, check_file_path

MOST_FILES = 10_000
"""How many files a model may have."""

_MIB = 1024 * 1024
_NOT_A_ZIP = "Uploaded file is not a valid ZIP archive."
_NO_MODEL = "ZIP must contain at least one .xml and one .bin file (OpenVINO IR format)."
_MOST_DIRECTORY_BYTES = 4 * _MIB
"""Of the archive's table of contents, which is read into memory as a whole."""
_ENCRYPTED = 0x1

_BEGINNINGS = {b"PK\x03\x04", b"PK\x05\x06"}
"""What is a zip from its first byte on cannot be another archive at the same time."""


def members_of(archive: Path) -> Sequence[zipfile.ZipInfo]:
    """The members of an archive. Raises UploadRefused for what is none, and UploadTooLarge for too many of them."""
    with _Bounded(archive) as file:
        if file.read(4) not in _BEGINNINGS:
            raise UploadRefused(_NOT_A_ZIP)
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
            raise UploadRefused(_NOT_A_ZIP) from error
    if len(members) > MOST_FILES:
        raise _too_many()
    return members


def check_members(members: Sequence[zipfile.ZipInfo], most_bytes: int) -> None:
    """Raise UploadRefused for what is no model or cannot be unpacked, and UploadTooLarge for what is too large then."""
    files = [member for member in members if not member.is_dir()]
    for suffix in (".xml", ".bin"):
        if not any(member.filename.lower().endswith(suffix) for member in files):
            raise UploadRefused(_NO_MODEL)
    for member in members:
        if _climbs(member.filename):
            raise UploadRefused(f"Invalid ZIP archive: '{member.filename[:200]}' resolves outside target directory.")
        _check_name(member)
    _check_distinct([_path(member) for member in files])
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise UploadRefused("Invalid ZIP archive: it is encrypted.")
    if sum(member.file_size for member in files) > most_bytes:
        raise UploadTooLarge(f"The archive holds more than {most_bytes // _MIB}MB when it is unpacked.")


def _check_name(member: zipfile.ZipInfo) -> None:
    try:
        check_file_path(_path(member))
    except SourceUnsafe as error:
        raise UploadRefused(
            f"Invalid ZIP archive: {member.filename[:200]!r} is no name that can be published, or one that Modelferry "
            "keeps for itself."
        ) from error


def _check_distinct(paths: list[str]) -> None:
    try:
        check_distinct(paths)
    except SourceUnsafe as error:
        raise UploadRefused("Invalid ZIP archive: it holds two files of one name, on some file systems.") from error


def _path(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix("/").removeprefix("./")


def _climbs(name: str) -> bool:
    path = name.replace("\\", "/")
    return path.startswith("/") or bool(re.match(r"[A-Za-z]:", path)) or posixpath.normpath(path).split("/")[0] == ".."


class _Bounded(io.FileIO):
    """An archive whose table of contents, which is read in one go, is never much larger than it may be."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file. Raises UploadTooLarge where too much is wanted at once."""
        wanted = -1 if size is None else size
        if wanted > _MOST_DIRECTORY_BYTES:
            raise _too_many()
        return super().read(wanted) or b""


def _too_many() -> UploadTooLarge:
    return UploadTooLarge(f"The archive holds more than {MOST_FILES} files.")
