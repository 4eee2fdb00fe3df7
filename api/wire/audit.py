"""What is seen of the audit trail. See docs/access.md."""

from msgspec import UNSET, UnsetType

from api.wire import View
from common.access import Way
from common.vocabulary import Role


class AuditEntryView(View, frozen=True):
    """One request, and how it ended."""

    at: str
    caller: str
    """The name of the key, of the token's holder, or `admin`, `anybody`, `network`, `nobody`."""
    way: Way
    """How the caller was recognised."""
    address: str
    """Where the request came from."""
    operation: str
    """By its name in the OpenAPI document; pages have names of their own."""
    target: str
    """The path, without its query."""
    status: int
    request_id: str
    """As the answer's `X-Request-Id`, and the log's lines, have it."""
    role: Role | UnsetType = UNSET
    code: str | UnsetType = UNSET
    """Of a refusal, where it has one."""


class AuditPage(View, frozen=True):
    """Some entries, newest first."""

    entries: list[AuditEntryView]
    next_cursor: str | UnsetType = UNSET
    """For the page that follows; absent on the last one."""
