"""How an attempt ended, as a value that the store can settle."""

import msgspec

from common.errors import DiskFull, Internal, is_disk_full


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """The stage's effect is durable. `artefact` names the content it left for the next stage."""

    artefact: str
    result: dict[str, object] = {}
    bytes: int = 0
    """How large the artefact is: the next stage's need of memory is reckoned from it."""


class Retry(msgspec.Struct, frozen=True, kw_only=True, tag="retry"):
    """Worth another attempt. `wait_s` is the hub's wish, None for the usual back-off."""

    code: str
    detail: str
    hint: str
    wait_s: float | None = None
    crashed: bool = False


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Another attempt would end the same way."""

    code: str
    detail: str
    hint: str


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, tag="cancelled"):
    """Every job that wanted the stage was cancelled."""


class Released(msgspec.Struct, frozen=True, kw_only=True, tag="released"):
    """The worker is going away: back to the queue, and the attempt is not counted."""


Outcome = Succeeded | Retry | Failed | Cancelled | Released


def unexpected(error: Exception) -> Failed:
    """What to make of an error that nobody foresaw: a full disk wherever it shows, or a fault of our own."""
    if is_disk_full(error):
        return Failed(code=DiskFull.code, detail=f"The volume of the models takes no more: {error}", hint=DiskFull.hint)
    return Failed(code=Internal.code, detail=f"{type(error).__name__}: {error}", hint=Internal.hint)
