"""The steps of a job in their order, with what has come of each so far."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET

from api.wire import AttemptView, JobView
from common.lifecycle import ENDED_JOBS
from common.vocabulary import JobState, Operation, StageKind

StepState = Literal["succeeded", "failed", "running", "again", "canceled", "waiting", "nothing"]

_ORDER = (StageKind.PLAN, StageKind.FETCH, StageKind.CONVERT, StageKind.PUBLISH)
_USUAL = {
    Operation.DOWNLOAD: {StageKind.FETCH, StageKind.PUBLISH},
    Operation.CONVERT: {StageKind.FETCH, StageKind.CONVERT, StageKind.PUBLISH},
    Operation.UPLOAD: {StageKind.PUBLISH},
}
_COLOURS = {
    "succeeded": "good", "failed": "bad", "running": "busy", "again": "warn", "canceled": "quiet", "waiting": "wait",
    "nothing": "quiet",
}  # fmt: skip
_WORDS = {
    "succeeded": "done", "failed": "failed", "running": "running", "again": "will be tried again",
    "canceled": "cancelled", "waiting": "waiting", "nothing": "not begun",
}  # fmt: skip
_OUTCOMES: Mapping[str, StepState] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "canceled"}
_BADLY = {"failed", "retried"}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a job as its page shows it."""

    kind: StageKind
    state: StepState
    attempts: list[AttemptView]

    @property
    def colour(self) -> str:
        """The kind of its badge."""
        return _COLOURS[self.state]

    @property
    def word(self) -> str:
        """What its state is called."""
        return _WORDS[self.state]

    @property
    def began_at(self) -> str | None:
        """When its first attempt began."""
        return self.attempts[0].began_at if self.attempts else None

    @property
    def ended_at(self) -> str | None:
        """When its last attempt ended."""
        last = self.attempts[-1].ended_at if self.attempts else UNSET
        return None if last is UNSET else last

    @property
    def troubled(self) -> list[AttemptView]:
        """The attempts that ended badly."""
        return [attempt for attempt in self.attempts if attempt.outcome in _BADLY]


def steps(job: JobView, attempts: Sequence[AttemptView]) -> list[Step]:
    """Every step that the job has made or will make, as far as that is known."""
    kinds = _USUAL.get(job.operation_type, set()) | {attempt.stage for attempt in attempts}
    return [_step(kind, job, [one for one in attempts if one.stage is kind]) for kind in _ORDER if kind in kinds]


def _step(kind: StageKind, job: JobView, attempts: list[AttemptView]) -> Step:
    return Step(kind=kind, state=_state(job, attempts), attempts=attempts)


def _state(job: JobView, attempts: Sequence[AttemptView]) -> StepState:
    ended = job.status in ENDED_JOBS
    if not attempts:
        if job.status is JobState.COMPLETED:
            return "succeeded"
        return "nothing" if ended else "waiting"
    outcome = attempts[-1].outcome
    if isinstance(outcome, str) and outcome in _OUTCOMES:
        return _OUTCOMES[outcome]
    if ended:
        return "canceled"
    return "running" if outcome is UNSET else "again"
