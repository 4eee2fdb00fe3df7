"""The pictures that an INT8 model is calibrated with, out of the archive that they come in."""

from collections.abc import Callable
from pathlib import Path

from common.archives import ArchiveLimits, unpack
from common.errors import OutputIncomplete

_KINDS = frozenset({".bmp", ".jpeg", ".jpg", ".png"})
_MB = 1024 * 1024
_MOST_BYTES = 4096 * _MB


def unpack_pictures(archive: Path, into: Path, most_mb: int | None, checkpoint: Callable[[], None]) -> int:
    """Leave the pictures, and nothing else, in one flat folder under names of ours. How many there are.

    Raises SourceUnsafe, IntegrityMismatch, OutputIncomplete where the archive holds none, and what `checkpoint` raises.
    """
    names: dict[str, str] = {}

    def rename(path: str) -> str | None:
        kind = Path(path).suffix.lower()
        if kind not in _KINDS or Path(path).name.startswith("."):
            return None
        return names.setdefault(path, f"{len(names):06d}{kind}")

    limits = ArchiveLimits(most_bytes=min(_MOST_BYTES, (most_mb or _MOST_BYTES) * _MB))
    found = unpack(archive, into, limits, rename=rename, checkpoint=checkpoint)
    if not found:
        raise OutputIncomplete(f"{archive.name} holds no pictures to calibrate with")
    return len(found)
