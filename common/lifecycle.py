"""Which state may follow which, and what a job's state is, computed from its stages."""

from collections.abc import Mapping

from common.vocabulary import JobState, Operation, StageKind, StageState

NEXT: Mapping[StageState, frozenset[StageState]] = {
    StageState.QUEUED: frozenset({StageState.RUNNING, StageState.CANCELED}),
    StageState.RUNNING: frozenset({StageState.QUEUED, StageState.SUCCEEDED, StageState.FAILED, StageState.CANCELED}),
    StageState.SUCCEEDED: frozenset(),
    StageState.FAILED: frozenset(),
    StageState.CANCELED: frozenset(),
}
"""A queued stage runs; a running one ends, or goes back to its queue for another attempt."""

ACTIVE_STAGES = frozenset(state for state, following in NEXT.items() if following)
ENDED_JOBS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})


def before(state: StageState) -> frozenset[StageState]:
    """The states from which `state` may be entered: NEXT turned round."""
    return frozenset(earlier for earlier, following in NEXT.items() if state in following)


def job_state(operation: Operation, kind: StageKind, state: StageState, *, last: bool, begun: bool) -> JobState:
    """The public state of a job whose current stage is of this kind and in this state.

    `last` says that no stage follows; `begun` that some stage of the job has run before.
    A job that waits between two stages is shown as busy with the next one: `queued` means untouched.
    """
    match state:
        case StageState.FAILED:
            return JobState.FAILED
        case StageState.CANCELED:
            return JobState.CANCELED
        case StageState.SUCCEEDED if last:
            return JobState.COMPLETED
        case StageState.QUEUED if not begun:
            return JobState.QUEUED
        case _:
            return _busy(operation, kind)


def _busy(operation: Operation, kind: StageKind) -> JobState:
    if operation is not Operation.CONVERT or kind in {StageKind.PLAN, StageKind.FETCH}:
        return JobState.DOWNLOADING
    return JobState.CONVERTING
