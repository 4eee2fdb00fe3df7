"""The surroundings of a conversion: no network, and temporary files on our volume."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants


@contextmanager
def alone(scratch: Path) -> Iterator[None]:
    """Keep the tools off the network, and their temporary files in `scratch`, which is gone afterwards."""
    constants = huggingface_hub.constants
    before = (constants.HF_HUB_OFFLINE, tempfile.tempdir)
    constants.HF_HUB_OFFLINE, tempfile.tempdir = True, str(scratch)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, tempfile.tempdir = before
        shutil.rmtree(scratch, ignore_errors=True)


def empty(folder: Path) -> Path:
    """The folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
