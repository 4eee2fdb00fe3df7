"""The private scratch directory of one attempt, on the volume of the models."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """The rooms of an attempt's directory. `files` is what a plugin calls its workspace."""

    root: Path

    @property
    def files(self) -> Path:
        """Where a plugin writes."""
        return self.root / "files"

    @property
    def output(self) -> Path:
        """Where a converter leaves its result."""
        return self.files / "output"

    @property
    def source(self) -> Path:
        """A fetched model, laid out for a converter to read."""
        return self.root / "source"

    @property
    def scratch(self) -> Path:
        """For temporary files of libraries: same volume, so that a rename stays a rename."""
        return self.root / "tmp"

    @property
    def log(self) -> Path:
        """What the child's libraries print."""
        return self.root / "stage.log"

    def prepare(self) -> None:
        """Make the rooms. Safe to repeat."""
        for room in (self.files, self.scratch):
            room.mkdir(parents=True, exist_ok=True)
