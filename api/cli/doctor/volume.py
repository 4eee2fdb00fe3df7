"""MODELS_DIR: whether models can be made and published there."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from api.cli.amounts import size
from api.cli.doctor.findings import Finding, Findings, fail, ok, warn
from common.settings import Settings

_MIB = 1024 * 1024
_ROOMY_BYTES = 20 * 1000**3
_GROUP_WRITES = 0o020
_DEFAULT = Path("models")


def look(settings: Settings, around: Mapping[str, str]) -> Findings:
    """The volume, by doing there what the service does."""
    folder = settings.models_dir if around.get("MODELS_DIR") else _DEFAULT.absolute()
    if not around.get("MODELS_DIR"):
        yield ok("models", f"MODELS_DIR is not set; `modelferry up` publishes in {folder}")
    if not folder.exists():
        yield from _missing(folder, named=bool(around.get("MODELS_DIR")))
        return
    if not folder.is_dir():
        yield fail("models", f"{folder} is no folder.", "Let MODELS_DIR name a folder.")
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".modelferry-doctor-", dir=folder) as scratch:
            yield ok("models", f"{folder} can be written to")
            yield from _links(folder, Path(scratch))
    except OSError as error:
        yield fail(
            "models", f"{folder} cannot be written to: {error.strerror}",
            f"Give user {os.getuid()} and group {os.getgid()} the right to write there.",
        )  # fmt: skip
        return
    yield _space(settings, folder)
    yield _group(folder)


def _missing(folder: Path, *, named: bool) -> Findings:
    above = next((parent for parent in folder.parents if parent.exists()), Path("/"))
    if os.access(above, os.W_OK):
        yield ok("models", f"{folder} is made at the first start")
    elif named:
        yield fail("models", f"{folder} does not exist, and cannot be made.", "Mount the volume there, or make it.")
    else:
        yield warn("models", f"{folder} cannot be made.", "Set MODELS_DIR to a folder that can be written to.")


def _links(folder: Path, scratch: Path) -> Findings:
    private = folder / ".modelferry"
    if private.exists() and private.stat().st_dev != folder.stat().st_dev:
        yield fail(
            "models", f"{private} lies on another volume than {folder}.",
            "Put both on one volume: models are published by hard links and renames.",
        )  # fmt: skip
    source, target = scratch / "one", scratch / "two"
    source.write_bytes(b"modelferry")
    try:
        os.link(source, target)
        yield ok("models", "hard links work: content is stored once")
    except OSError as error:
        yield warn(
            "models", f"Hard links do not work there ({error.strerror}): content takes its room twice.",
            "Use a volume with hard links, such as ext4, xfs or NFS.",
        )  # fmt: skip
    (scratch / "from").mkdir()
    try:
        (scratch / "from").rename(scratch / "to")
        yield ok("models", "folders can be renamed")
    except OSError as error:
        yield fail("models", f"Folders cannot be renamed there: {error.strerror}", "Use a volume that can do that.")


def _space(settings: Settings, folder: Path) -> Finding:
    room = shutil.disk_usage(folder)
    told = f"{size(room.free)} of {size(room.total)} free"
    spare = settings.spare_mb * _MIB
    if room.free <= spare:
        return fail(
            "space", f"{told}; {size(spare)} stay free always (MODELFERRY_SPARE_MB).",
            "Make room: remove models, or make the volume larger.",
        )  # fmt: skip
    if room.free < _ROOMY_BYTES:
        return warn("space", told, "A large model may have no room. Remove models, or make the volume larger.")
    return ok("space", told)


def _group(folder: Path) -> Finding:
    state = folder.stat()
    told = f"group {state.st_gid}, mode {state.st_mode & 0o7777:o}"
    if not state.st_mode & _GROUP_WRITES:
        return warn(
            "models", f"The group cannot write there ({told}).",
            f"If model servers share it with another user: chmod g+w {folder}",
        )  # fmt: skip
    return ok("models", f"the group can write there ({told})")
