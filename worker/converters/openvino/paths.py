"""Where a conversion happens, and how it finds what an option names: files of the operator, and a model's vocoder."""

import os
from dataclasses import dataclass
from pathlib import Path

from common.errors import InvalidParameters

_VOCODER = "vocoder"
_DOWNLOADS = "huggingface"


@dataclass(frozen=True, slots=True)
class Site:
    """The model that is converted, and what the operator lets its conversion do."""

    model: Path
    trusted: bool = False
    """The repository's own Python code may run."""
    models_dir: str = ""


def below(models_dir: str, path: str) -> Path:
    """The path below MODELS_DIR. Raises InvalidParameters where it, or a link on its way, leads out."""
    if not models_dir:
        raise InvalidParameters(f"'{path[:200]}' cannot be read: this converter is not told where MODELS_DIR is")
    root = os.path.realpath(models_dir)
    found = os.path.realpath(os.path.join(root, path))  # noqa: PTH118 - a path that begins with / is to be refused too
    if os.path.commonpath([root, found]) != root or found == root:
        raise InvalidParameters(f"'{path[:200]}' is not below MODELS_DIR")
    if Path(found).relative_to(root).parts[0] == ".modelferry":
        raise InvalidParameters(f"'{path[:200]}' is in the folder that Modelferry keeps for itself")
    return Path(found)


def find_vocoder(site: Site, named: str | None) -> Path | None:
    """The folder of a model's vocoder: its own, or one that was downloaded before. None where none is named or there.

    Raises InvalidParameters where it is named and not there.
    """
    own = site.model / (named or _VOCODER)
    if _is_vocoder(own) and own.resolve().is_relative_to(site.model.resolve()):
        return own
    if named is None:
        return None
    for path in (named, f"{_DOWNLOADS}/{named.replace('/', '_')}"):
        folder = below(site.models_dir, path)
        if _is_vocoder(folder):
            return folder
    raise InvalidParameters(
        f"The vocoder '{named}' is neither a folder of the model's repository, nor below MODELS_DIR",
        hint=f"Download '{named}' from hub 'huggingface' first.",
    )


def _is_vocoder(folder: Path) -> bool:
    return (folder / "config.json").is_file()
