"""What a conversion in another environment is told, and what it reports."""

import msgspec

from common.catalog.openvino.fields import OpenVINOOptions
from common.spec import Evidence, Progress, Target
from worker.elsewhere import Failed


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion. Paths are absolute; there is no credential in it."""

    model: str
    target: Target
    options: OpenVINOOptions
    folder: str
    settings: dict[str, str]
    workspace: str
    scratch: str
    """Where temporary files go."""
    profile: str
    versions: dict[str, str]
    """What must be installed there."""


class Advanced(msgspec.Struct, frozen=True, kw_only=True, tag="advanced"):
    """It goes on."""

    progress: Progress


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The files are written and proven."""

    evidence: Evidence


class Broken(msgspec.Struct, frozen=True, kw_only=True, tag="broken"):
    """Something else was raised; its traceback is in the log."""

    detail: str


Report = Advanced | Done | Failed | Broken
