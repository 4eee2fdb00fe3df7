"""Webhooks: who hears how jobs end, and what has become of each message."""

from litestar import Response, delete, get, patch, post
from litestar.datastructures import Headers, ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams, RawBody
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_202_ACCEPTED

from api.compat.webhooks import (
    DeliveriesQuery,
    WebhookChange,
    WebhookRequest,
    read_change,
    read_deliveries_query,
    read_webhook,
)
from api.problems import AnyRequest, documented
from api.routes.documented import reads
from api.webhook_views import delivery_page, delivery_view, webhook_page, webhook_view
from api.webhooks import Webhooks
from api.wire.webhooks import DeliveryPage, DeliveryView, WebhookPage, WebhookView

_LOCATION = ResponseHeader(
    name="Location",
    documentation_only=True,
    required=True,
    description="The path of the new webhook.",
    value="/webhooks/abc",
)


@get("/webhooks", sync_to_thread=True, tags=["webhooks"], summary="List webhooks", responses=documented(503))
def list_webhooks(webhooks: NamedDependency[Webhooks]) -> WebhookPage:
    return webhook_page(webhooks.webhooks())


@post(
    "/webhooks",
    status_code=HTTP_201_CREATED,
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Make a webhook",
    operation_class=reads(body=WebhookRequest),
    response_headers=[_LOCATION],
    responses=documented(400, 409, 413, 422, 503),
)
def add_webhook(
    request: AnyRequest, headers: Headers, body: RawBody, webhooks: NamedDependency[Webhooks]
) -> Response[WebhookView]:
    """The answer holds the secret that signs messages. It is shown here, and never again."""
    asked = read_webhook(body, headers.get("content-type"))
    made = webhooks.add(asked.url, events=asked.events, tenant=asked.tenant)
    location = f"{request.url.path.rstrip('/')}/{made.webhook.id}"
    return Response(webhook_view(made.webhook, made.secret), headers={"Location": location})


@get(
    "/webhooks/{webhook_id:str}",
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Look at a webhook",
    responses=documented(404, 503),
)
def get_webhook(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> WebhookView:
    return webhook_view(webhooks.webhook(webhook_id))


@patch(
    "/webhooks/{webhook_id:str}",
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Change a webhook",
    operation_class=reads(body=WebhookChange),
    responses=documented(400, 404, 409, 413, 422, 503),
)
def change_webhook(
    webhook_id: FromPath[str], headers: Headers, body: RawBody, webhooks: NamedDependency[Webhooks]
) -> WebhookView:
    """What waits for one that is switched off is not sent. It keeps its secret whatever is changed."""
    asked = read_change(body, headers.get("content-type"))
    return webhook_view(webhooks.change(webhook_id, enabled=asked.enabled, events=asked.events, url=asked.url))


@delete(
    "/webhooks/{webhook_id:str}",
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Remove a webhook",
    responses=documented(404, 503),
)
def remove_webhook(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> None:
    """What waits for it is not sent, and what was sent is forgotten."""
    webhooks.remove(webhook_id)


@post(
    "/webhooks/{webhook_id:str}/rotate",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Give a webhook another secret",
    responses=documented(404, 409, 503),
)
def rotate_webhook(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> WebhookView:
    """The answer holds the new secret. The former one signs every message, too, for 24 hours."""
    made = webhooks.rotate(webhook_id)
    return webhook_view(made.webhook, made.secret)


@post(
    "/webhooks/{webhook_id:str}/test",
    status_code=HTTP_202_ACCEPTED,
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Send a test message",
    responses=documented(404, 409, 503),
)
def test_webhook(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> DeliveryView:
    """A message of type `test`, on the way that all others take."""
    return delivery_view(webhooks.test(webhook_id))


@get(
    "/webhooks/{webhook_id:str}/deliveries",
    sync_to_thread=True,
    tags=["webhooks"],
    summary="List messages to a webhook",
    operation_class=reads(query=DeliveriesQuery),
    responses=documented(404, 422, 503),
)
def list_deliveries(webhook_id: FromPath[str], query: QueryParams, webhooks: NamedDependency[Webhooks]) -> DeliveryPage:
    """Newest first. The last 1000 that have ended are kept, for 30 days."""
    asked = read_deliveries_query(query.multi_items())
    return delivery_page(webhooks.deliveries(webhook_id, limit=asked.limit))


@post(
    "/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}/redeliver",
    status_code=HTTP_202_ACCEPTED,
    sync_to_thread=True,
    tags=["webhooks"],
    summary="Send a message again",
    responses=documented(404, 409, 503),
)
def redeliver(
    webhook_id: FromPath[str], delivery_id: FromPath[str], webhooks: NamedDependency[Webhooks]
) -> DeliveryView:
    """The same message under the same `webhook-id`; one that waits is sent at once."""
    return delivery_view(webhooks.redeliver(webhook_id, delivery_id))
