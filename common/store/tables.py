"""The tables. All times are seconds since 1970 by the database's clock."""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    literal_column,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Json = dict[str, Any]
_Sequence = BigInteger().with_variant(Integer, "sqlite")


class Row(DeclarativeBase):
    """The root of all rows."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {_Json: JSON, str: Text}


class JobRow(Row):
    """One wish of a client: what the API shows. It never holds a lease."""

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(36), unique=True)
    model_name: Mapped[str]
    spec: Mapped[_Json]
    operation: Mapped[str] = mapped_column(String(16))
    """From the spec: the public state depends on it."""
    tenant: Mapped[str]
    retry_of: Mapped[str | None] = mapped_column(String(36))
    state: Mapped[str] = mapped_column(String(16))
    """Computed by `lifecycle.job_state`; stored for filtering only."""
    stage_id: Mapped[str | None] = mapped_column(ForeignKey("stages.id"))
    """The current stage, or the last one of an ended job."""
    position: Mapped[int]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None]
    hint: Mapped[str | None]
    result: Mapped[_Json]
    secret_id: Mapped[str | None] = mapped_column(String(36))
    """The credentials that came with the request; still named when they are gone, because it cannot run without."""
    caller: Mapped[str | None]
    """Who asked, where callers are known."""
    trace: Mapped[str | None] = mapped_column(String(64))
    """The request's place in a trace, as W3C's `traceparent`."""

    __table_args__ = (
        Index("jobs_by_state", "state", "seq"),
        Index("jobs_by_model", "model_name", "seq"),
        Index("jobs_by_stage", "stage_id"),
        Index("jobs_by_end", "ended_at"),
        Index(
            "jobs_by_secret",
            "secret_id",
            sqlite_where=text("secret_id IS NOT NULL"),
            postgresql_where=text("secret_id IS NOT NULL"),
        ),
    )


class StageRow(Row):
    """One piece of work, shared by every job that wants it. `attempt` is the fencing token."""

    __tablename__ = "stages"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    pool: Mapped[str] = mapped_column(String(16))
    work_key: Mapped[str] = mapped_column(String(80))
    work: Mapped[_Json]
    hub: Mapped[str]
    """Whom a fetch asks; empty for other stages."""
    tenant: Mapped[str]
    """On whose turn it runs: that of the job that brings it forward most."""
    rank: Mapped[int] = mapped_column(BigInteger)
    """The smallest goes first; see `common.store.turns`."""
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    """The predicted peak; 0 for what needs little."""
    input: Mapped[str | None] = mapped_column(String(80))
    """The artefact that the stage before left."""
    batch: Mapped[str | None] = mapped_column(String(80))
    """That artefact again, where what is made of it may be made in one go: then no two such stages run at once."""
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    not_before: Mapped[float | None]
    """Of a stage that is tried again: when. Empty is at once."""
    wait_s: Mapped[float | None]
    """How long that wait is: one that would last longer was written by a clock that has been put back since."""
    last_code: Mapped[str | None] = mapped_column(String(64))
    """Why the last attempt ended badly."""
    last_error: Mapped[str | None]
    cancel_at: Mapped[float | None]
    progress: Mapped[_Json | None]
    artefact: Mapped[str | None] = mapped_column(String(80))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None]
    hint: Mapped[str | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]

    __table_args__ = (
        # Single flight. A stage that is being cancelled no longer takes anyone in.
        Index(
            "stages_one_active_per_key",
            "work_key",
            unique=True,
            sqlite_where=text("state IN ('queued', 'running') AND cancel_at IS NULL"),
            postgresql_where=text("state IN ('queued', 'running') AND cancel_at IS NULL"),
        ),
        Index(
            "stages_claimable",
            "pool",
            "rank",
            "created_at",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "stages_of_tenant",
            "pool",
            "tenant",
            "rank",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "stages_of_batch",
            "batch",
            sqlite_where=text("batch IS NOT NULL"),
            postgresql_where=text("batch IS NOT NULL"),
        ),
        Index(
            "stages_leased",
            "lease_until",
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )


QUEUED = StageRow.state == literal_column("'queued'")
RUNNING = StageRow.state == literal_column("'running'")
"""Written out: with a bound value neither database can know that the partial indexes of `stages` apply."""


class SecretRow(Row):
    """Credentials that came with a request, sealed. They go when the last job that needs them ends."""

    __tablename__ = "secrets"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[float]


class JobStageRow(Row):
    """Which job has come to want which stage, in which order. What is still to come follows from the job's spec."""

    __tablename__ = "job_stages"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    stage_id: Mapped[str] = mapped_column(ForeignKey("stages.id"))

    __table_args__ = (Index("job_stages_by_stage", "stage_id"),)


class JobEventRow(Row):
    """What happened, in order. Append only."""

    __tablename__ = "job_events"

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    job_id: Mapped[str | None] = mapped_column(String(36))
    stage_id: Mapped[str | None] = mapped_column(String(36))
    at: Mapped[float]
    event: Mapped[str] = mapped_column(String(32))
    attempt: Mapped[int | None]
    code: Mapped[str | None] = mapped_column(String(64))
    note: Mapped[str | None]
    tx: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    """The transaction that has written it, by the database's own count; 0 on SQLite, where `seq` is the order in which
    transactions end. On Postgres one with a smaller `seq` may come to light later: only `(tx, seq)`, read up to the
    oldest transaction that has not ended, leaves nothing out."""
    level: Mapped[str | None] = mapped_column(String(8))
    """Of a line that an attempt has logged; empty where something has happened to a job or a stage."""
    fields: Mapped[_Json | None]

    __table_args__ = (
        Index("job_events_by_job", "job_id", "seq"),
        Index("job_events_by_stage", "stage_id", "seq"),
        Index("job_events_in_order", "tx", "seq"),
        # A number that was given never comes again, even where its row was the newest and is deleted.
        {"sqlite_autoincrement": True},
    )


class GateRow(Row):
    """A named set of wishes, and what is known to have become of each."""

    __tablename__ = "gates"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    wishes: Mapped[list[_Json]] = mapped_column(JSON)
    """As they were asked for, each with where it is to be published."""
    fates: Mapped[list[_Json]] = mapped_column(JSON)
    """One for each wish, in the same order: its last job, where that has published it, or why it will not come."""
    version: Mapped[int]
    """Counts the changes: who changes a gate names the version that he has read."""
    created_at: Mapped[float]
    changed_at: Mapped[float]


class WebhookRow(Row):
    """An address that wants to hear how jobs end."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(JSON)
    tenant: Mapped[str]
    """Only of whose jobs; empty is of all."""
    enabled: Mapped[bool]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    """The key that signs, sealed."""
    former: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The key before it, sealed; signs too until `former_until`."""
    former_until: Mapped[float | None]
    created_at: Mapped[float]


class DeliveryRow(Row):
    """One message to one webhook. A waiting row is the outbox."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """The same for every attempt: by it a receiver knows what it has heard before."""
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    job_id: Mapped[str | None] = mapped_column(String(36))
    event: Mapped[str] = mapped_column(String(32))
    body: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    """`waiting`, `delivered` or `failed`."""
    attempts: Mapped[int]
    due_at: Mapped[float | None]
    """Of one that waits: when it is tried next. Whoever tries it puts this off first, and so holds it."""
    status: Mapped[int | None]
    """The last answer's."""
    error: Mapped[str | None]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]

    __table_args__ = (
        Index(
            "webhook_deliveries_due",
            "due_at",
            sqlite_where=text("state = 'waiting'"),
            postgresql_where=text("state = 'waiting'"),
        ),
        Index("webhook_deliveries_of", "webhook_id", "created_at"),
    )


class WorkerRow(Row):
    """A worker process. `owner` names it in leases."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[str] = mapped_column(String(16))
    host: Mapped[str]
    slots: Mapped[int]
    ready: Mapped[bool]
    draining: Mapped[bool]
    started_at: Mapped[float]
    seen_at: Mapped[float]


class LimitRow(Row):
    """What the operator allows. Read inside every claim."""

    __tablename__ = "limits"

    scope: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    max_running: Mapped[int | None]
    bytes_per_s: Mapped[int | None] = mapped_column(BigInteger)


class HubRow(Row):
    """A hub that has told somebody to wait: nobody asks it for anything before `resume_at`."""

    __tablename__ = "hubs"

    name: Mapped[str] = mapped_column(primary_key=True)
    resume_at: Mapped[float]
    wait_s: Mapped[float]
    strikes: Mapped[int] = mapped_column(SmallInteger)
    """How often in a row."""
    reason: Mapped[str]


class IdempotencyKeyRow(Row):
    """An Idempotency-Key, and the jobs that the first request with it made."""

    __tablename__ = "idempotency_keys"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(36))
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_ids: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Empty while the first request is in flight."""
    created_at: Mapped[float]

    __table_args__ = (Index("idempotency_keys_by_age", "created_at"),)


class ApiKeyRow(Row):
    """A key that lets its holder in. The key itself is nowhere; only its digest is."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The part of the key that may be shown, by which it is found."""
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    tenant: Mapped[str | None]
    """On whose turn the jobs of its holder are; empty lets each request say."""
    digest: Mapped[str] = mapped_column(String(64))
    """The SHA-256 of the secret part, which is random enough to need no salt and no slowness."""
    former: Mapped[str | None] = mapped_column(String(64))
    """That of the secret before it; lets in too until `former_until`."""
    former_until: Mapped[float | None]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    used_at: Mapped[float | None]
    """Of the last use, give or take a minute."""


class AuditRow(Row):
    """Who did what. The database itself refuses to change a row, or to delete one that is young."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    at: Mapped[float]
    caller: Mapped[str]
    way: Mapped[str] = mapped_column(String(16))
    """How the caller was recognised."""
    role: Mapped[str | None] = mapped_column(String(16))
    address: Mapped[str]
    operation: Mapped[str] = mapped_column(String(64))
    """The name of the operation in the API's description."""
    target: Mapped[str]
    """The path that was asked for, without its query."""
    status: Mapped[int]
    code: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))

    __table_args__ = (
        Index("audit_by_caller", "caller", "seq"),
        Index("audit_by_operation", "operation", "seq"),
        {"sqlite_autoincrement": True},
    )


class TallyRow(Row):
    """How many ended jobs are forgotten already: with those in the table it is a count that never goes down."""

    __tablename__ = "tallies"

    operation: Mapped[str] = mapped_column(String(16), primary_key=True)
    hub: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    """How long they took together, from the request to the end."""
