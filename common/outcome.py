"""How an attempt ended, as a value that the store can settle."""

import msgspec


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """The stage's effect is durable. `artefact` names the content it left for the next stage."""

    artefact: str
    result: dict[str, object] = {}


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
