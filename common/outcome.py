"""How an attempt ended, as a value that the store can settle."""

import msgspec

from common.errors import DiskFull, Internal, is_disk_full


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """The stage's effect is durable. `artefact` names the content it left for the next stage."""

    artefact: str
    result: dict[str, object] = {}
    bytes: int = 0
    """How large the artefact is: the next stage's need of memory is reckoned from it."""


class _Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, in words that every database takes, whatever a hub or a library has put into them."""

    code: str
    detail: str
    hint: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "detail", storable(self.detail))
        msgspec.structs.force_setattr(self, "hint", storable(self.hint))


class Retry(_Trouble, frozen=True, kw_only=True, tag="retry"):
    """Worth another attempt. `wait_s` is the hub's wish, None for the usual back-off."""

    wait_s: float | None = None
    crashed: bool = False


class Failed(_Trouble, frozen=True, kw_only=True, tag="failed"):
    """Another attempt would end the same way."""


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


def storable(text: str) -> str:
    """The text with what no database takes, and no message can carry, written out: half characters, and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
