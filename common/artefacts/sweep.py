"""Removes what dead attempts and killed publications left on the volume."""

import os
import shutil
from datetime import datetime
from pathlib import Path

from common.artefacts.durable import locked_if_free
from common.artefacts.layout import ONCE, Volume
from common.artefacts.locks import lock_of
from common.artefacts.publish import STAGING_PREFIX, staging_of
from common.artefacts.retire import PLACE, clear_up
from common.clock import Clock, utc_now

_DAY_S = 86400.0


def sweep(
    volume: Volume, live: set[str], *, now: Clock = utc_now, parts_days: float = 14.0, grace_s: float = 3600.0
) -> list[Path]:
    """Remove workspaces whose names are not in `live`, leftovers of publications, and old parts. Says what went.

    Spoilt content goes as well, once no published model shows it.

    What was touched within `grace_s` stays: its attempt may have begun after `live` was read.
    """
    at = now()
    gone = [path for path in _older(volume.work, at, grace_s) if path.name not in live and _discard(volume, path, at)]
    gone += [path for path in _shown_no_more(volume.spoilt) if _discard(volume, path, at)]
    gone += [path for path in _older(volume.parts, at, parts_days * _DAY_S) if _discard(volume, path, at)]
    useless = [path for path in _older(volume.parts, at, _DAY_S) if path.name.startswith(ONCE)]
    gone += [path for path in useless if _discard(volume, path, at)]
    return gone


def _older(folder: Path, now: datetime, seconds: float) -> list[Path]:
    """The entries of a folder that have not changed for so long."""
    horizon = now.timestamp() - seconds
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.stat(follow_symlinks=False).st_mtime < horizon)


def _shown_no_more(folder: Path) -> list[Path]:
    """The files of a folder that have no other name."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.stat(follow_symlinks=False).st_nlink == 1)


def _discard(volume: Volume, path: Path, now: datetime) -> bool:
    if path.name.startswith(STAGING_PREFIX):
        return _discard_publication(volume, path, now)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _discard_publication(volume: Volume, staging: Path, now: datetime) -> bool:
    """Finish with a publication whose process is dead: nobody holds the lock of its destination."""
    try:
        at = volume.root / os.fsdecode((staging / PLACE).read_bytes())
    except FileNotFoundError:
        shutil.rmtree(staging, ignore_errors=True)
        return not staging.exists()
    if staging_of(volume, at) != staging:
        return False
    with locked_if_free(lock_of(volume, at)) as free:
        if free:
            clear_up(volume, staging, at, now)
    return not staging.exists()
