"""Which lock stands for which place on the volume. They are taken in this order: a place, a list, the folders."""

import hashlib
import os
from pathlib import Path

from common.artefacts.layout import Volume


def lock_of(volume: Volume, at: Path) -> Path:
    """The lock that serialises whatever is published to `at`, or removed from there."""
    return volume.locks / f"{place_key(volume, at)}.lock"


def index_lock_of(volume: Volume, folder: Path) -> Path:
    """The lock of the list of models in `folder`."""
    return volume.locks / f"{place_key(volume, folder)}.index.lock"


def folders_lock_of(volume: Volume) -> Path:
    """The lock that who makes folders for a publication shares, and who removes empty ones holds alone."""
    return volume.locks / "folders.lock"


def place_key(volume: Volume, at: Path) -> str:
    """A name for this place that fits into one file name."""
    return hashlib.sha256(os.fsencode(at.relative_to(volume.root))).hexdigest()[:40]
