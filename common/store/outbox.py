"""The outbox: what the end of a job leaves for webhooks, in the transaction that ends it."""

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, exists, insert, select

from common.store.database import AnyRow, Now
from common.store.tables import DeliveryRow, JobRow, WebhookRow
from common.vocabulary import HIDDEN, JobState

_JOB = select(
    JobRow.id, JobRow.model_name, JobRow.spec, JobRow.operation, JobRow.tenant, JobRow.state, JobRow.created_at,
    JobRow.ended_at, JobRow.error_code, JobRow.error, JobRow.hint, JobRow.result,
).where(JobRow.id == bindparam("the_job"))  # fmt: skip

_HEARERS = (
    select(WebhookRow.id, WebhookRow.events)
    .where(WebhookRow.enabled, WebhookRow.tenant.in_(["", bindparam("the_tenant")]))
    .order_by(WebhookRow.id)
    # Whoever removes a webhook waits until this job has ended, and then finds its message.
    .with_for_update(read=True, key_share=True)
)

_NEW = insert(DeliveryRow).values(state="waiting", attempts=0, created_at=Now(), due_at=Now())


def somebody_listens() -> ColumnElement[bool]:
    """Whether there is a webhook at all. Asked by the statement that ends a job, where it costs next to nothing."""
    return exists().where(WebhookRow.enabled)


def announce(connection: Connection, job_id: str) -> None:
    """Leave a message for each webhook that wants to hear of this job, which has just ended."""
    job = connection.execute(_JOB, {"the_job": job_id}).one()
    if job.operation in HIDDEN:
        return
    event = f"job.{job.state}"
    hearers = connection.execute(_HEARERS, {"the_tenant": job.tenant}).all()
    wanted = [row.id for row in hearers if event in row.events]
    if wanted:
        body = _body(event, job)
        put(connection, [message(webhook_id, event, body, job_id=job_id) for webhook_id in wanted])


def message(webhook_id: str, event: str, body: str, *, job_id: str | None = None) -> dict[str, Any]:
    """A message that is to be sent at once, for `put`."""
    return {"id": str(uuid.uuid4()), "webhook_id": webhook_id, "job_id": job_id, "event": event, "body": body}


def put(connection: Connection, messages: list[dict[str, Any]]) -> None:
    """Leave messages."""
    connection.execute(_NEW, messages)


def as_text(event: str, at: float, data: dict[str, object]) -> str:
    """The body of a message, as it is signed and sent."""
    known = {name: value for name, value in data.items() if value is not None}
    return msgspec.json.encode({"type": event, "timestamp": _time(at), "data": known}).decode()


def _body(event: str, job: AnyRow) -> str:
    spec, target = job.spec, job.spec.get("target") or {}
    failed, completed = job.state == JobState.FAILED, job.state == JobState.COMPLETED
    place = spec["destination"]
    data: dict[str, object] = {
        "job_id": job.id,
        "model_name": job.model_name,
        "hub": spec["hub"],
        "status": job.state,
        "operation_type": job.operation,
        "tenant": job.tenant,
        "revision": job.result.get("revision") or spec["source"].get("revision"),
        "precision": target.get("precision"),
        "device": target.get("device"),
        "path": f"{place['root']}/{place['folder']}".strip("/") if completed else None,
        "error_code": (job.error_code or "internal") if failed else None,
        "error": job.error if failed else None,
        "hint": job.hint if failed else None,
        "created_at": _time(job.created_at),
        "completed_at": _time(job.ended_at),
    }
    return as_text(event, job.ended_at, data)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
