"""What is seen of jobs while they change: the event streams and the log. See docs/events.md."""

from typing import Literal

from msgspec import UNSET, UnsetType

from api.wire import JobView, ProgressView, View
from common.vocabulary import JobState, StageKind


class EventView(View, frozen=True):
    """Something that has happened to a job: the data of an SSE event `job`, whose id is `id`."""

    id: str
    """What `Last-Event-ID` goes on from. Of two events, the later one has not the greater id by any rule of text."""
    at: str
    event: str
    """`job.submitted`, `stage.claimed`, `stage.retried`, `job.completed` and their like."""
    job_id: str
    stage: StageKind | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    code: str | UnsetType = UNSET
    note: str | UnsetType = UNSET
    job: JobView | UnsetType = UNSET
    """The job as it is when the event is sent; absent where it has been forgotten meanwhile."""


class ProgressEvent(View, frozen=True):
    """How far a job is now: the data of an SSE event `progress`, which has no id."""

    job_id: str
    status: JobState
    progress: ProgressView


class LogLine(View, frozen=True):
    """A line of a job's log: something that has happened to it, or that an attempt has had to say."""

    id: str
    at: str
    level: Literal["debug", "info", "warning", "error"]
    event: str
    """What has happened, or `log` where an attempt has said something."""
    job_id: str
    message: str
    stage: StageKind | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    code: str | UnsetType = UNSET
    fields: dict[str, object] | UnsetType = UNSET


class LogPage(View, frozen=True):
    """Lines of a job's log, oldest first."""

    lines: list[LogLine]
    next_after: str | UnsetType = UNSET
    """The id of the last of these lines: `after` of the next question. Absent where there are none."""


class Snapshot(View, frozen=True):
    """Every job that has not ended: the data of the first SSE event of `/events`, `snapshot`."""

    jobs: list[JobView]
    counts: dict[JobState, int]
    """How many jobs there are in each state, ended ones too."""


class StreamEnd(View, frozen=True):
    """The data of the last SSE event of a job's stream, `end`."""

    job_id: str
    status: JobState
