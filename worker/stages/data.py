"""The files of an operator that a conversion reads, such as texts to calibrate with: found, and named by content."""

import hashlib

from common.artefacts.blobs import plain_files, sha256_of
from common.artefacts.layout import Volume
from common.errors import DestinationInvalid, DestinationOutside, InvalidParameters, OutputIncomplete

_HINT = (
    "Name a file or folder below MODELS_DIR, by its path from there. "
    "What a data set with a name is made of has to be put into the folder datasets/NAME there."
)


def digest_of(volume: Volume, path: str) -> str:
    """The sha256 of a file or a folder below MODELS_DIR: of its content, and of a folder its files' names too.

    Raises InvalidParameters where there is none, or it leads out.
    """
    try:
        at = volume.root / volume.destination(path)
        files = [at]
    except DestinationInvalid:
        # What is no directory and no way to one is perhaps a file.
        folder, _, name = path.rpartition("/")
        at = volume.root / _contained(volume, folder) / name
        files = [at]
    except DestinationOutside as error:
        raise InvalidParameters(f"'{path[:200]}' is not below MODELS_DIR", hint=_HINT) from error
    if at.is_dir() and not at.is_symlink():
        try:
            files = sorted(plain_files(at))
        except OutputIncomplete as error:
            raise InvalidParameters(f"'{path[:200]}' holds what is no plain file: {error}", hint=_HINT) from error
    if not files or not all(file.is_file() and not file.is_symlink() for file in files):
        raise InvalidParameters(f"There are no plain files at '{path[:200]}' below MODELS_DIR", hint=_HINT)
    listed = "\n".join(f"{file.relative_to(at).as_posix()} {sha256_of(file)}" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def _contained(volume: Volume, folder: str) -> str:
    try:
        return volume.destination(folder)
    except (DestinationInvalid, DestinationOutside) as error:
        raise InvalidParameters(f"'{folder[:200]}' is no folder below MODELS_DIR", hint=_HINT) from error
