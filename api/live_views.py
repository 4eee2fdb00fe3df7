"""From events to views, in words: what people read of a job's history."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from msgspec import UNSET

from api.views import Places, job_view
from api.wire import JobView
from api.wire.live import EventView, LogLine, LogPage, ProgressEvent, Snapshot
from common.records import JobRecord
from common.store.events import JobEvent
from common.vocabulary import JobState, StageKind

Level = Literal["debug", "info", "warning", "error"]

_LEVELS: Mapping[str, Level] = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "stage.retried": "warning",
    "stage.failed": "error",
    "job.failed": "error",
}
_STAGES = {
    StageKind.ASK: "question",
    StageKind.PLAN: "plan",
    StageKind.FETCH: "fetch",
    StageKind.CONVERT: "conversion",
    StageKind.PUBLISH: "publication",
    None: "stage",
}
_SENTENCES = {
    "job.submitted": "The job was accepted; its first stage is the {stage}.",
    "job.advanced": "The next stage is the {stage}.",
    "job.completed": "The job is completed.",
    "job.failed": "The job has failed{code}.",
    "job.canceled": "The job was cancelled.",
    "stage.claimed": "Attempt {attempt} at the {stage} begins{note}.",
    "stage.released": "Attempt {attempt} at the {stage} was given back, because its worker goes away.",
    "stage.retried": "Attempt {attempt} at the {stage} has ended badly and will be made again{code}{note}",
    "stage.succeeded": "The {stage} has succeeded.",
    "stage.failed": "The {stage} has failed{code}{note}",
    "stage.cancelled": "The {stage} was cancelled.",
    "stage.cancel_requested": "The {stage} is asked to end.",
}


def event_view(event: JobEvent, job: JobView | None) -> EventView:
    """Something that has happened to a job, with the job as it is now."""
    return EventView(
        id=event.position.text(),
        at=_time(event.at),
        event=event.event,
        job_id=event.job_id,
        stage=event.stage or UNSET,
        attempt=UNSET if event.attempt is None else event.attempt,
        code=event.code or UNSET,
        note=event.note or UNSET,
        job=job or UNSET,
    )


def log_line(event: JobEvent) -> LogLine:
    """A line of a job's log."""
    return LogLine(
        id=event.position.text(),
        at=_time(event.at),
        level=_LEVELS.get(event.level or event.event, "info"),
        event=event.event,
        job_id=event.job_id,
        message=(event.note or "") if event.is_said else _sentence(event),
        stage=event.stage or UNSET,
        attempt=UNSET if event.attempt is None else event.attempt,
        code=event.code or UNSET,
        fields=event.fields or UNSET,
    )


def log_page(events: list[JobEvent]) -> LogPage:
    """Some lines of a job's log."""
    lines = [log_line(event) for event in events]
    return LogPage(lines=lines, next_after=lines[-1].id if lines else UNSET)


def progress_event(view: JobView) -> ProgressEvent:
    """How far a job is."""
    return ProgressEvent(job_id=view.id, status=view.status, progress=view.progress)


def snapshot(records: list[JobRecord], counts: dict[JobState, int], places: Places) -> Snapshot:
    """Every job that has not ended."""
    return Snapshot(jobs=[job_view(record, places) for record in records], counts=counts)


def _sentence(event: JobEvent) -> str:
    sentence = _SENTENCES.get(event.event, event.event)
    code = f" ({event.code})" if event.code else ""
    return sentence.format(
        stage=_STAGES[event.stage], attempt=event.attempt or 1, code=code, note=_note(event) if event.note else ""
    )


def _note(event: JobEvent) -> str:
    return f" on worker {event.note}" if event.event == "stage.claimed" else f": {event.note}"


def _time(moment: datetime) -> str:
    return moment.isoformat()
