"""Where everything lies on the volume of the models, and which places a client may name."""

import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from common.artefacts.durable import make_folder
from common.errors import DestinationInvalid, DestinationOutside

PRIVATE_NAME = ".modelferry"
ONCE = "once-"
"""How the name of a part begins that nothing can go on with: nobody knows what content it has."""

_OUTSIDE = "Requested model destination must remain under MODELS_DIR."
_INVALID = "Requested model destination is not a valid path under MODELS_DIR."
_MAX_PART_BYTES = 255
_MAX_PATH_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """MODELS_DIR: published models for everyone to read, and a private part in which they are made."""

    models_dir: Path

    @property
    def root(self) -> Path:
        """MODELS_DIR with every symbolic link resolved."""
        return Path(os.path.realpath(self.models_dir))

    @property
    def private(self) -> Path:
        """Nobody but Modelferry writes here."""
        return self.root / PRIVATE_NAME

    @property
    def blobs(self) -> Path:
        """Content, named by its digest."""
        return self.private / "blobs" / "sha256"

    @property
    def parts(self) -> Path:
        """Unfinished content."""
        return self.private / "parts"

    @property
    def artefacts(self) -> Path:
        """Records of what was fetched and converted."""
        return self.private / "artefacts"

    @property
    def work(self) -> Path:
        """Workspaces of attempts, and publications in the making."""
        return self.private / "work"

    @property
    def locks(self) -> Path:
        """Lock files, one for each destination."""
        return self.private / "locks"

    @property
    def replaced(self) -> Path:
        """What lay at a destination and was not ours to delete."""
        return self.private / "replaced"

    @property
    def spoilt(self) -> Path:
        """Content that was found to be other than its name says, as long as a published model shows it."""
        return self.private / "spoilt"

    @property
    def verified(self) -> Path:
        """What came of reading published models again."""
        return self.private / "verified"

    @property
    def state(self) -> Path:
        """The embedded service's database and queue."""
        return self.private / "state"

    def prepare(self) -> None:
        """Make every folder of the private part. Safe to repeat."""
        for folder in (
            self.blobs, self.parts, self.artefacts, self.work, self.locks, self.replaced, self.state
        ):  # fmt: skip
            make_folder(folder)

    def workspace(self, name: str) -> Path:
        """Make and return the workspace of an attempt; its name is `<stage>.<attempt>`."""
        if not re.fullmatch(r"[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+", name):
            msg = f"{name!r} is not the name of a workspace"
            raise ValueError(msg)
        folder = self.work / name
        make_folder(folder)
        return folder

    def destination(self, download_path: str) -> str:
        """The place that a client names, relative to `root`; '' is MODELS_DIR itself. Creates nothing.

        Raises DestinationOutside when it leaves MODELS_DIR or enters our private part, and DestinationInvalid
        when no directory can be there.
        """
        _check_text(download_path)
        return self._contained(self.root / download_path)

    def published(self, root: str, folder: str) -> Path:
        """Where a model's directory belongs, checked again: a symbolic link may have appeared since.

        `root` and `folder` are those of a Destination. Raises DestinationOutside or DestinationInvalid.
        Creates nothing.
        """
        for path in (root, folder):
            _check_text(path)
            if path.startswith("/") or ".." in path.split("/"):
                raise DestinationOutside(_OUTSIDE)
        inside = self._contained(self.root / root / folder)
        if not folder or not inside:
            raise DestinationInvalid(_INVALID)
        return self.root / inside

    def _contained(self, wanted: Path) -> str:
        root = self.root
        resolved = Path(os.path.realpath(wanted))
        if not resolved.is_relative_to(root):
            raise DestinationOutside(_OUTSIDE)
        inside = resolved.relative_to(root)
        if inside.parts and inside.parts[0].casefold() == PRIVATE_NAME:
            raise DestinationOutside(_OUTSIDE)
        _check_reachable(wanted, resolved)
        _check_lengths(inside)
        return "/".join(inside.parts)


def _check_text(path: str) -> None:
    """Refuse what no file system takes, and control characters, which only an accident or an attack sends."""
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in path):
        raise DestinationInvalid(_INVALID)


def _check_reachable(wanted: Path, resolved: Path) -> None:
    """Let the kernel judge: a loop of links, a file in the way and a name too long are errors only to it."""
    for path in (wanted, resolved):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DestinationInvalid(_INVALID) from error
        if not stat.S_ISDIR(mode):
            raise DestinationInvalid(_INVALID)
    # Where a loop stopped the resolution half-way, the rest may still hold links.
    if Path(os.path.realpath(resolved)) != resolved:
        raise DestinationInvalid(_INVALID)


def _check_lengths(inside: Path) -> None:
    parts = [os.fsencode(part) for part in inside.parts]
    if any(len(part) > _MAX_PART_BYTES for part in parts) or len(b"/".join(parts)) > _MAX_PATH_BYTES:
        raise DestinationInvalid(_INVALID)
