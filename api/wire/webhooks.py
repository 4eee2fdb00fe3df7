"""What is seen of webhooks. See docs/webhooks.md."""

from typing import Literal

from msgspec import UNSET, UnsetType

from api.wire import View


class WebhookView(View, frozen=True):
    """An address that hears how jobs end."""

    id: str
    url: str
    events: list[str]
    """`job.completed`, `job.failed`, `job.canceled`."""
    tenant: str
    """Only of whose jobs; empty is of all."""
    enabled: bool
    created_at: str
    secret: str | UnsetType = UNSET
    """`whsec_...`, with which messages are signed. Only in the answer that has made it."""


class WebhookPage(View, frozen=True):
    """Every webhook, oldest first."""

    webhooks: list[WebhookView]


class DeliveryView(View, frozen=True):
    """One message to a webhook."""

    id: str
    """The `webhook-id` that the message carries, at every attempt."""
    event: str
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    created_at: str
    job_id: str | UnsetType = UNSET
    due_at: str | UnsetType = UNSET
    """When it is tried next."""
    ended_at: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    """The last answer's."""
    error: str | UnsetType = UNSET


class DeliveryPage(View, frozen=True):
    """Messages to one webhook, newest first."""

    deliveries: list[DeliveryView]
