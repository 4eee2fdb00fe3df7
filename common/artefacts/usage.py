"""How much the private part of the volume holds, by what it is good for."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from common.artefacts.layout import Volume

_SECTOR_BYTES = 512


def content_bytes(volume: Volume) -> dict[str, int]:
    """Bytes of content that published models show, that none shows any more, and that is unfinished."""
    held = {"published": 0, "unpublished": 0, "partial": 0}
    for status in _files(str(volume.blobs)):
        held["published" if status.st_nlink > 1 else "unpublished"] += status.st_size
    for status in _files(str(volume.parts)):
        # A part has the size of the whole from the beginning; what of it is there, its blocks tell.
        held["partial"] += status.st_blocks * _SECTOR_BYTES
    return held


def _files(folder: str) -> Iterator[os.stat_result]:
    """The files in a folder and those below it. What goes while we look is not there."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield status
