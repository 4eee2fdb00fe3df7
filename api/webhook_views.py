"""What of a webhook, and of the messages to it, a client sees."""

from collections.abc import Iterable

from msgspec import UNSET

from api.wire.webhooks import DeliveryPage, DeliveryView, WebhookPage, WebhookView
from common.records import DeliveryRecord, WebhookRecord


def webhook_view(webhook: WebhookRecord, secret: str | None = None) -> WebhookView:
    """A webhook; with its secret in the answer that has made it."""
    return WebhookView(
        id=webhook.id,
        url=webhook.url,
        events=[*webhook.events],
        tenant=webhook.tenant,
        enabled=webhook.enabled,
        created_at=webhook.created_at.isoformat(),
        secret=secret or UNSET,
    )


def webhook_page(webhooks: Iterable[WebhookRecord]) -> WebhookPage:
    """Every webhook."""
    return WebhookPage(webhooks=[webhook_view(webhook) for webhook in webhooks])


def delivery_view(delivery: DeliveryRecord) -> DeliveryView:
    """One message, without its body."""
    return DeliveryView(
        id=delivery.id,
        event=delivery.event,
        state=delivery.state,
        attempts=delivery.attempts,
        created_at=delivery.created_at.isoformat(),
        job_id=delivery.job_id or UNSET,
        due_at=UNSET if delivery.due_at is None else delivery.due_at.isoformat(),
        ended_at=UNSET if delivery.ended_at is None else delivery.ended_at.isoformat(),
        status=UNSET if delivery.status is None else delivery.status,
        error=delivery.error or UNSET,
    )


def delivery_page(deliveries: Iterable[DeliveryRecord]) -> DeliveryPage:
    """Messages to one webhook."""
    return DeliveryPage(deliveries=[delivery_view(delivery) for delivery in deliveries])
