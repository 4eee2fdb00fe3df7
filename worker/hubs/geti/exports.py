"""From an export, which is a zip, to the files of a model."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from common.archives import ArchiveLimits, unpack
from common.errors import OutputIncomplete, SourceUnsafe
from common.spec import check_distinct
from common.vocabulary import Format

_DEPLOYMENT = "deployment/"
_MODELS = "models"
_UNPACKED = "unpacked-export"


def lay_out(
    archive: Path, into: Path, kind: Format, limits: ArchiveLimits, checkpoint: Callable[[], None]
) -> tuple[str, ...]:
    """Unpack an export below `into` as clients find it, and return the files' paths. Safe to repeat.

    Raises SourceUnsafe, IntegrityMismatch, DiskFull, OutputIncomplete where no model was in it, and what `checkpoint`
    raises.
    """
    unpacked = into / _UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        placed = arrange(unpack(archive, unpacked, limits, checkpoint=checkpoint))
        _check_complete(placed.values(), kind)
        for held, path in placed.items():
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (unpacked / held).replace(target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return tuple(placed.values())


def arrange(held: Iterable[str]) -> dict[str, str]:
    """Where each file of an export goes.

    What lies in `deployment/` goes up to the top, and what lies in a folder `models` to the folder around it, unless
    that is a package of Python code. Where two files would meet, less is moved, or nothing.
    """
    paths = tuple(held)
    code = {parent.as_posix() for path in paths if path.endswith(".py") for parent in PurePosixPath(path).parents}
    ways: tuple[Callable[[str], str], ...] = (
        lambda path: _flattened(path, code).removeprefix(_DEPLOYMENT),
        lambda path: path.removeprefix(_DEPLOYMENT),
    )
    for way in ways:
        placed = {path: way(path) for path in paths}
        try:
            check_distinct(list(placed.values()))
        except SourceUnsafe:
            continue
        return placed
    return {path: path for path in paths}


def _flattened(path: str, code: set[str]) -> str:
    *folders, name = path.split("/")
    kept = [
        folder
        for depth, folder in enumerate(folders, start=1)
        if folder != _MODELS or "/".join(folders[:depth]) in code
    ]
    return "/".join([*kept, name])


def _check_complete(paths: Iterable[str], kind: Format) -> None:
    found = set(paths)
    if not found:
        raise OutputIncomplete("The Geti server's export is empty", hint="Export the model in Geti again.")
    pairs = {path for path in found if path.endswith(".xml") and f"{path.removesuffix('.xml')}.bin" in found}
    if kind is Format.OPENVINO and not pairs:
        raise OutputIncomplete(
            "The Geti server's export holds no OpenVINO model: no .xml file with its .bin beside it",
            hint="Export the model in Geti again, or take another model_format.",
        )
