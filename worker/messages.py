"""What a supervisor and the child that runs a stage tell each other."""

import msgspec

from common.outcome import Outcome
from common.plugins import Allowance, TransferLimits
from common.seals import NOTHING, Credentials
from common.spec import Progress
from common.tracing import SpanNote
from common.vocabulary import StageKind


class StageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a child needs to run one attempt. It travels over a socket, never through the environment."""

    stage_id: str
    attempt: int
    kind: StageKind
    work: dict[str, object]
    input: str | None
    siblings: tuple[dict[str, object], ...] = ()
    """Work on the same artefact that waits, and may come along."""
    models_dir: str
    workspace: str
    enabled_plugins: str
    settings: dict[str, str]
    secrets: dict[str, str]
    given: Credentials = NOTHING
    """What the request brought for the hub, instead of the operator's own."""
    limits: TransferLimits
    traceparent: str | None = None
    """Where the attempt is in its trace, if somebody keeps one."""

    def __repr__(self) -> str:
        return f"StageRequest({self.kind} {self.stage_id}.{self.attempt})"


class Advanced(msgspec.Struct, frozen=True, kw_only=True, tag="advanced"):
    """The child got further."""

    progress: Progress


class AskFence(msgspec.Struct, frozen=True, kw_only=True, tag="ask_fence"):
    """The child stands before the point of no return and asks whether the lease is still held."""


class Said(msgspec.Struct, frozen=True, kw_only=True, tag="said"):
    """The child has something to say for the job's log."""

    level: str
    text: str
    event: str = ""
    """What the text was made of: the same word wherever the same thing happens."""
    fields: dict[str, str | int | float | bool | None] = {}
    lost: int = 0
    """How many lines before this one were not sent, because too many came at once."""


class Timed(msgspec.Struct, frozen=True, kw_only=True, tag="timed"):
    """A part of what the child does is over."""

    span: SpanNote


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The child is done; its outcome."""

    outcome: Outcome


class FencePassed(msgspec.Struct, frozen=True, kw_only=True, tag="fence_passed"):
    """The lease is held: go on. Where it is not, the child is killed and hears nothing."""


class HubBusy(msgspec.Struct, frozen=True, kw_only=True, tag="hub_busy"):
    """The hub wants no request from anybody for some seconds."""

    wait_s: float


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """The hub has answered so many more requests, by class of status."""

    counts: dict[str, int]


class Allowed(msgspec.Struct, frozen=True, kw_only=True, tag="allowed"):
    """What the transfer may do from now on."""

    allowance: Allowance


FromChild = Advanced | Answered | AskFence | Ended | HubBusy | Said | Timed
ToChild = FencePassed | Allowed
