"""What an export in the library's own environment is told, and what it reports."""

import msgspec

from common.catalog.ultralytics import Task
from worker.elsewhere import Failed


class Pictures(msgspec.Struct, frozen=True, kw_only=True):
    """What to calibrate with."""

    name: str
    """The data set's, as it will stand in the model's metadata."""
    folder: str
    """A flat folder of pictures."""


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One export of one model. Paths are absolute; there is no credential in it."""

    weights: str
    name: str
    task: Task
    kind: str
    """What applications call this kind of model; it is written into the model."""
    output: str
    """Gets a folder for each precision."""
    scratch: str
    """Where temporary files and the library's settings go."""
    packages: dict[str, str]
    """What must be installed there: distribution -> release."""
    pictures: Pictures | None = None
    """Make the INT8 form, calibrated with these; without them the forms in floating point."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The files are written."""

    peak_memory_bytes: int


Report = Done | Failed
