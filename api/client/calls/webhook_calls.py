"""What is asked of webhooks."""

from collections.abc import Sequence

from api.client.call import Call, as_view, check, json_body, path_of
from api.wire.webhooks import DeliveryPage, DeliveryView, WebhookPage, WebhookView


def webhooks() -> Call[WebhookPage]:
    """Every webhook, oldest first."""
    return Call(method="GET", path="webhooks", read=as_view(WebhookPage))


def webhook(webhook_id: str) -> Call[WebhookView]:
    """One webhook, without its secret."""
    return Call(method="GET", path=path_of("webhooks", webhook_id), read=as_view(WebhookView))


def add_webhook(url: str, *, events: Sequence[str] | None = None, tenant: str | None = None) -> Call[WebhookView]:
    """Have an address told how jobs end. Only this answer holds the secret that messages are signed with."""
    body = json_body(_said(url=url, events=events, tenant=tenant))
    return Call(method="POST", path="webhooks", body=body, read=as_view(WebhookView))


def change_webhook(
    webhook_id: str, *, url: str | None = None, events: Sequence[str] | None = None, enabled: bool | None = None
) -> Call[WebhookView]:
    """Change what is given of a webhook."""
    body = json_body(_said(url=url, events=events, enabled=enabled))
    return Call(method="PATCH", path=path_of("webhooks", webhook_id), body=body, read=as_view(WebhookView))


def remove_webhook(webhook_id: str) -> Call[None]:
    """Remove a webhook."""
    return Call(method="DELETE", path=path_of("webhooks", webhook_id), read=check)


def rotate_webhook(webhook_id: str) -> Call[WebhookView]:
    """A new secret, which only this answer holds. The former one signs too for a day."""
    return Call(method="POST", path=path_of("webhooks", webhook_id, "rotate"), read=as_view(WebhookView))


def send_test_message(webhook_id: str) -> Call[DeliveryView]:
    """Send a webhook a message of type `test` now."""
    return Call(method="POST", path=path_of("webhooks", webhook_id, "test"), read=as_view(DeliveryView))


def deliveries(webhook_id: str) -> Call[DeliveryPage]:
    """Messages to a webhook, newest first."""
    return Call(method="GET", path=path_of("webhooks", webhook_id, "deliveries"), read=as_view(DeliveryPage))


def redeliver(webhook_id: str, delivery_id: str) -> Call[DeliveryView]:
    """Send a message to a webhook once more."""
    path = path_of("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
    return Call(method="POST", path=path, read=as_view(DeliveryView))


def _said(**content: object) -> dict[str, object]:
    return {name: value for name, value in content.items() if value is not None}
