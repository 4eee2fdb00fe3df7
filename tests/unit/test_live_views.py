"""What people read for each thing that can happen to a job."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.live_views import event_view, log_line, log_page
from common.store.events import JobEvent, Position
from common.vocabulary import StageKind

STORE = Path(__file__).parents[2] / "common/store"
RECORDED = sorted(
    {name for file in STORE.glob("*.py") for name in re.findall(r'"((?:job|stage)\.[a-z_]+)"', file.read_text())}
    | {"job.completed", "job.failed", "job.canceled"}
)


def an_event(name: str, **more: object) -> JobEvent:
    known: dict[str, object] = {
        "position": Position(3, 4, 5), "at": datetime(2026, 1, 2, tzinfo=UTC), "event": name, "job_id": "j",
        "hidden": False, "stage": StageKind.CONVERT, "attempt": 2, "code": None, "note": None, "level": None,
        "fields": {},
    }  # fmt: skip
    return JobEvent(**{**known, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECORDED)
def test_everything_that_is_recorded_has_words(name: str) -> None:
    line = log_line(an_event(name, note="so it is."))
    assert line.message.endswith(".")
    assert name not in line.message
    assert "{" not in line.message


def test_what_went_wrong_is_told() -> None:
    retried = log_line(an_event("stage.retried", code="rate_limited", note="Too many {requests}"))
    assert retried.level == "warning"
    assert retried.message == (
        "Attempt 2 at the conversion has ended badly and will be made again (rate_limited): Too many {requests}"
    )
    assert log_line(an_event("job.failed", code="disk_full")).message == "The job has failed (disk_full)."
    assert log_line(an_event("job.failed")).level == "error"
    claimed = log_line(an_event("stage.claimed", note="one"))
    assert claimed.message == "Attempt 2 at the conversion begins on worker one."


def test_what_an_attempt_says_is_its_own_words() -> None:
    line = log_line(an_event("log", note="It says {so}.", level="warning", fields={"a": 1}))
    assert (line.level, line.message, line.fields, line.id) == ("warning", "It says {so}.", {"a": 1}, "3-4-5")
    page = log_page([an_event("log", note="")])
    assert page.next_after == "3-4-5"
    assert not log_page([]).next_after
    assert event_view(an_event("job.completed"), None).id == "3-4-5"
