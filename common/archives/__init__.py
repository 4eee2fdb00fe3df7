"""Archives from outside: zip and tar are unpacked whole and within limits, or not at all."""

from common.archives.limits import ArchiveLimits
from common.archives.unpacking import keep, nothing, unpack

__all__ = ["ArchiveLimits", "keep", "nothing", "unpack"]
