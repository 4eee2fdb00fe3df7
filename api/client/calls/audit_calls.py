"""What is asked of the audit trail."""

from api.client.call import Call, as_view, given
from api.wire.audit import AuditPage


def audit(
    cursor: str = "",
    *,
    caller: str | None = None,
    operation: str | None = None,
    since: str | None = None,
    until: str | None = None,
    status: str | None = None,
    limit: int | None = None,
) -> Call[AuditPage]:
    """Who did what, newest first; `next_cursor` of the answer leads to what was before. For admins.

    `since` and `until` are times as ISO 8601 writes them, with their zone; `status` is `2xx`, `4xx` and the like.
    """
    query = given(
        cursor=cursor, caller=caller, operation=operation, since=since, until=until, status=status, limit=limit
    )
    return Call(method="GET", path="audit", query=query, read=as_view(AuditPage))
