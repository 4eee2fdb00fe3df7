"""The state table, and what a client sees of it."""

import pytest

from common.lifecycle import ACTIVE_STAGES, ENDED_JOBS, NEXT, before, job_state
from common.vocabulary import JobState, Operation, StageKind, StageState


def test_a_stage_that_has_ended_never_changes() -> None:
    for state in (StageState.SUCCEEDED, StageState.FAILED, StageState.CANCELED):
        assert NEXT[state] == frozenset()


def test_before_is_next_turned_round() -> None:
    assert before(StageState.RUNNING) == {StageState.QUEUED}
    assert before(StageState.SUCCEEDED) == {StageState.RUNNING}
    assert before(StageState.QUEUED) == {StageState.RUNNING}
    assert {StageState.QUEUED, StageState.RUNNING} == ACTIVE_STAGES


@pytest.mark.parametrize(
    ("operation", "kind", "state", "last", "begun", "seen"),
    [
        ("download", "fetch", "queued", False, False, "queued"),
        ("download", "fetch", "running", False, True, "downloading"),
        ("download", "publish", "queued", True, True, "downloading"),
        ("download", "publish", "running", True, True, "downloading"),
        ("download", "publish", "succeeded", True, True, "completed"),
        ("convert", "fetch", "queued", False, False, "queued"),
        ("convert", "fetch", "running", False, True, "downloading"),
        ("convert", "fetch", "queued", False, True, "downloading"),
        ("convert", "convert", "queued", False, True, "converting"),
        ("convert", "convert", "running", False, True, "converting"),
        ("convert", "publish", "running", True, True, "converting"),
        ("convert", "convert", "failed", False, True, "failed"),
        ("convert", "fetch", "canceled", False, False, "canceled"),
    ],
)
def test_case_30_a_client_sees_one_of_six_words(
    operation: str, kind: str, state: str, last: bool, begun: bool, seen: str
) -> None:
    shown = job_state(Operation(operation), StageKind(kind), StageState(state), last=last, begun=begun)
    assert shown == seen


def test_only_three_words_are_an_end() -> None:
    assert {JobState.COMPLETED, JobState.FAILED, JobState.CANCELED} == ENDED_JOBS
