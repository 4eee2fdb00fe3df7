"""What requests about webhooks say, as pydantic models; and the readers that make values of them."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.compat.decoding import Reader
from api.compat.lenient import Whole
from common.webhooks import EVENTS, check_url

_TENANT = r"^([A-Za-z0-9._@:-]{1,64})?$"
_MOST_SHOWN = 1000


def _usable(url: str) -> str:
    check_url(url)
    return url


def _in_order(events: list[str]) -> list[str]:
    """Each once, as the documentation lists them."""
    return [event for event in EVENTS if event in events]


_Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="Where messages are POSTed: https, or http for hosts that the operator has named.",
        examples=["https://hooks.example/modelferry"],
    ),
    AfterValidator(_usable),
]
_Events = Annotated[
    list[Literal["job.completed", "job.failed", "job.canceled"]],
    Field(min_length=1, max_length=16, description="What it wants to hear of."),
    AfterValidator(_in_order),
]


class WebhookRequest(BaseModel):
    """A new webhook."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    url: _Url
    events: _Events = ["job.completed", "job.failed", "job.canceled"]
    tenant: Annotated[str, Field(pattern=_TENANT, description="Only of whose jobs; empty is of all.")] = ""


class WebhookChange(BaseModel):
    """What is to be changed. What is absent, or null, stays."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    enabled: Annotated[bool | None, Field(description="Nothing is sent to one that is not enabled.")] = None
    events: _Events | None = None
    url: _Url | None = None


class DeliveriesQuery(BaseModel):
    """How many messages to show."""

    model_config = ConfigDict(hide_input_in_errors=True)

    limit: Annotated[Whole, Field(ge=1, le=_MOST_SHOWN, description="At most so many.")] = 100


def read_webhook(body: bytes, content_type: str | None) -> WebhookRequest:
    """The body of a new webhook. Raises Unprocessable or UnreadableBody."""
    reader = Reader()
    asked = reader.body(WebhookRequest, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked


def read_change(body: bytes, content_type: str | None) -> WebhookChange:
    """The body of a change. Raises Unprocessable or UnreadableBody."""
    reader = Reader()
    asked = reader.body(WebhookChange, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked


def read_deliveries_query(values: Iterable[tuple[str, str]]) -> DeliveriesQuery:
    """The query of a list of messages. Raises Unprocessable."""
    reader = Reader()
    asked = reader.query(DeliveriesQuery, values)
    if asked is None:
        raise reader.refusal()
    return asked
