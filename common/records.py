"""What the store hands out: frozen pictures of rows, free of any database."""

from datetime import datetime
from typing import Literal

import msgspec

from common.spec import JobSpec, Progress
from common.vocabulary import JobState, LimitScope, Pool, StageKind, StageState


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants a job, and where in a trace that was asked for. Unknown as long as nobody says."""

    caller: str | None = None
    """By the name under which they were let in."""
    trace: str | None = None
    """As W3C's `traceparent`."""


NOWHERE = Origin()


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
    tenant: str = ""
    """Who asked; jobs of different tenants take turns."""
    retry_of: str | None = None
    """The job that this one tries again."""
    retry_at: datetime | None = None
    """When the current stage is tried again, after an attempt that ended badly."""
    last_error_code: str | None = None
    """Why the current stage's last attempt ended badly."""
    last_error: str | None = None
    origin: Origin = NOWHERE
    result: dict[str, object] = {}
    """What the publish stage left; empty until the job is completed."""


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one of a job's stages."""

    stage: StageKind
    number: int
    worker: str
    began_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    """`succeeded`, `retried`, `failed`, `cancelled` or `released`; None while it runs."""
    error_code: str | None = None
    error: str | None = None


class LimitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the operator. None is no limit."""

    scope: LimitScope
    name: str
    max_running: int | None = None
    """How many stages may run at once: of a hub its fetches, of a tenant or a pool everything."""
    bytes_per_s: int | None = None
    """How fast all transfers together may be: of a hub, or of the whole service."""


class HubRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a hub fares with all workers together."""

    name: str
    running: int = 0
    """Fetches that run."""
    resumes_at: datetime | None = None
    """Until then nobody asks it for anything."""
    reason: str | None = None


class KeyReservation(msgspec.Struct, frozen=True, kw_only=True):
    """The right to answer the first request that carries an Idempotency-Key."""

    tenant: str
    key: str
    token: str


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some jobs, and from where to go on."""

    records: list[JobRecord]
    next: int | None = None


class MemoryRoom(msgspec.Struct, frozen=True, kw_only=True):
    """What a convert worker's machine has for conversions. In bytes."""

    machine: str
    """The beginning that the owners on this machine share."""
    budget_bytes: int
    """What all conversions of the machine may use together."""
    free_bytes: int
    """What the machine has free at this moment."""


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


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an attempt has said."""

    level: str
    """`debug`, `info`, `warning` or `error`."""
    text: str
    fields: dict[str, object] = {}
    age_s: float = 0.0
    """How long ago it said so."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to run one attempt of a stage. `(stage_id, attempt, owner)` is the fence."""

    stage_id: str
    kind: StageKind
    pool: Pool
    attempt: int
    owner: str
    work: dict[str, object]
    """What to do: a FetchWork, ConvertWork or PublishWork of `common.planning`, as JSON."""
    hub: str = ""
    """Whom a fetch asks; empty for other stages."""
    memory_bytes: int = 0
    """The predicted peak of a conversion."""
    input: str | None = None
    """The artefact that the stage before this one left."""
    siblings: tuple[dict[str, object], ...] = ()
    """Work of queued stages that make something else of the same artefact, and may come along."""
    job_ids: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    """Of those of its jobs that have a place in one, oldest job first: each as a `traceparent`."""
    waited_s: float | None = None
    """How long it could have been claimed before it was; None where nobody knows."""
    progress: Progress | None = None
    """How far an earlier attempt had come."""


class WebhookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An address that hears how jobs end."""

    id: str
    url: str
    """Without its query."""
    events: tuple[str, ...]
    tenant: str
    """Only of whose jobs; empty is of all."""
    enabled: bool
    created_at: datetime


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one webhook, and how far it has come."""

    id: str
    event: str
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    created_at: datetime
    job_id: str | None = None
    due_at: datetime | None = None
    """Of one that waits: when it is tried next."""
    ended_at: datetime | None = None
    status: int | None = None
    """The last answer's."""
    error: str | None = None


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """The right to send one message, once. `(delivery_id, attempt)` is the fence."""

    delivery_id: str
    webhook_id: str
    attempt: int
    body: str
    sealed: bytes
    """The webhook's box; see `common.webhooks`."""
    former: bytes | None = None
    """The box before it, while that signs too."""
