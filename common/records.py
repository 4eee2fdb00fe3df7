"""What the store hands out: frozen pictures of rows, free of any database."""

from datetime import datetime

import msgspec

from common.spec import JobSpec, Progress
from common.vocabulary import JobState, Pool, StageKind, StageState


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the table has it. Times are aware, in UTC."""

    id: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    ended_at: datetime | None = None
    stage: StageKind | None = None
    """The current stage, or the last one of an ended job."""
    stage_state: StageState | None = None
    attempt: int = 0
    """How often the current stage has been claimed."""
    progress: Progress | None = None
    """Of the current stage."""
    fetched: Progress | None = None
    """Of the job's fetch stage: the bytes, also while a later stage runs and after the end."""
    error_code: str | None = None
    error: str | None = None
    hint: str | None = None
    result: dict[str, object] = {}
    """What the publish stage left; empty until the job is completed."""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process that has told the table that it lives."""

    id: str
    pool: Pool
    host: str
    slots: int
    ready: bool
    draining: bool
    started_at: datetime
    seen_at: datetime


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to run one attempt of a stage. `(stage_id, attempt, owner)` is the fence."""

    stage_id: str
    kind: StageKind
    pool: Pool
    attempt: int
    owner: str
    work: dict[str, object]
    """What to do: a FetchWork, ConvertWork or PublishWork of `common.planning`, as JSON."""
    input: str | None = None
    """The artefact that the stage before this one left."""
    job_ids: tuple[str, ...] = ()
    progress: Progress | None = None
    """How far an earlier attempt had come."""
