"""The pages of the webhooks: who hears how jobs end, and what has become of each message."""

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams, RawBody
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_422_UNPROCESSABLE_ENTITY

from api.compat.decoding import Unprocessable
from api.compat.webhooks import read_webhook
from api.dashboard.pages import Pages, read_fields, read_form, see, wants_fragment
from api.problems import AnyRequest
from api.webhook_views import delivery_page, webhook_page, webhook_view
from api.webhooks import Webhooks
from common.errors import RequestError
from common.webhooks import EVENTS

_SHOWN = 100
_WORDS = {"url": "Address", "events": "Events", "tenant": "Tenant"}
_NOTES = {"removed": "The webhook is gone. What waited for it is not sent."}


class WebhookForm(msgspec.Struct, frozen=True, kw_only=True):
    """What the form holds, as it was typed."""

    url: str = ""
    tenant: str = ""
    events: tuple[str, ...] = EVENTS


@get("/ui/webhooks", sync_to_thread=True)
def webhooks_page(
    query: QueryParams, pages: NamedDependency[Pages], webhooks: NamedDependency[Webhooks]
) -> Response[str]:
    """Every webhook, and a form for a new one."""
    return _page(pages, webhooks, WebhookForm(), note=_NOTES.get(query.get("done", "")))


@post("/ui/webhooks", status_code=HTTP_200_OK, sync_to_thread=True)
def add_webhook_from_page(
    body: RawBody, pages: NamedDependency[Pages], webhooks: NamedDependency[Webhooks]
) -> Response[str]:
    """Make it, and show its secret: the one answer to a form that is a page, because no other may hold the secret."""
    fields = read_form(body)
    events = [value for name, value in read_fields(body) if name == "event"]
    form = WebhookForm(url=fields.get("url", "").strip(), tenant=fields.get("tenant", "").strip(), events=tuple(events))
    try:
        asked = read_webhook(msgspec.json.encode(form), "application/json")
        made = webhooks.add(asked.url, events=asked.events, tenant=asked.tenant)
    except Unprocessable as error:
        faults = [f"{_WORDS.get(str(fault.loc[1]), fault.loc[1])}: {fault.msg}" for fault in error.faults]
        return _page(pages, webhooks, form, faults=faults)
    except RequestError as error:
        return _page(pages, webhooks, form, faults=[str(error)])
    return _secret(pages, made.webhook.id, made.secret, webhooks, renewed=False)


@get("/ui/webhooks/{webhook_id:str}", sync_to_thread=True)
def webhook_page_of_one(
    request: AnyRequest, webhook_id: FromPath[str], pages: NamedDependency[Pages], webhooks: NamedDependency[Webhooks]
) -> Response[str]:
    """One webhook, and the messages to it, newest first."""
    template = "fragments/deliveries.html" if wants_fragment(request) else "webhook.html"
    return pages.page(
        template,
        active="webhooks",
        webhook=webhook_view(webhooks.webhook(webhook_id)),
        deliveries=delivery_page(webhooks.deliveries(webhook_id, limit=_SHOWN)).deliveries,
    )


@post("/ui/webhooks/{webhook_id:str}/test", status_code=HTTP_200_OK, sync_to_thread=True)
def test_webhook_from_page(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> Redirect:
    """Send it a test message, on the way that all others take."""
    webhooks.test(webhook_id)
    return see(f"/ui/webhooks/{webhook_id}")


@post("/ui/webhooks/{webhook_id:str}/enabled", status_code=HTTP_200_OK, sync_to_thread=True)
def switch_webhook_from_page(webhook_id: FromPath[str], body: RawBody, webhooks: NamedDependency[Webhooks]) -> Redirect:
    """Switch it on or off."""
    webhooks.change(webhook_id, enabled=read_form(body).get("enabled") == "true")
    return see(f"/ui/webhooks/{webhook_id}")


@post("/ui/webhooks/{webhook_id:str}/rotate", status_code=HTTP_200_OK, sync_to_thread=True)
def rotate_webhook_from_page(
    webhook_id: FromPath[str], pages: NamedDependency[Pages], webhooks: NamedDependency[Webhooks]
) -> Response[str]:
    """Give it another secret, and show that."""
    made = webhooks.rotate(webhook_id)
    return _secret(pages, webhook_id, made.secret, webhooks, renewed=True)


@post("/ui/webhooks/{webhook_id:str}/delete", status_code=HTTP_200_OK, sync_to_thread=True)
def remove_webhook_from_page(webhook_id: FromPath[str], webhooks: NamedDependency[Webhooks]) -> Redirect:
    """Forget it."""
    webhooks.remove(webhook_id)
    return see("/ui/webhooks?done=removed")


@post("/ui/webhooks/{webhook_id:str}/deliveries/{delivery_id:str}", status_code=HTTP_200_OK, sync_to_thread=True)
def redeliver_from_page(
    webhook_id: FromPath[str], delivery_id: FromPath[str], webhooks: NamedDependency[Webhooks]
) -> Redirect:
    """Send a message again."""
    webhooks.redeliver(webhook_id, delivery_id)
    return see(f"/ui/webhooks/{webhook_id}")


def _secret(pages: Pages, webhook_id: str, secret: str, webhooks: Webhooks, *, renewed: bool) -> Response[str]:
    shown = webhook_view(webhooks.webhook(webhook_id), secret)
    answer = pages.page("webhook_secret.html", active="webhooks", webhook=shown, renewed=renewed)
    # Neither the browser nor anything on the way may keep it.
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _page(
    pages: Pages, webhooks: Webhooks, form: WebhookForm, *, faults: list[str] | None = None, note: str | None = None
) -> Response[str]:
    return pages.page(
        "webhooks.html",
        active="webhooks",
        status=HTTP_422_UNPROCESSABLE_ENTITY if faults else HTTP_200_OK,
        webhooks=webhook_page(webhooks.webhooks()).webhooks,
        form=form,
        events=EVENTS,
        faults=faults or [],
        note=note,
    )
