"""The audit trail as it is asked for and shown: by the API, and by a page."""

from msgspec import UNSET

from api.compat.audit import AuditQuery, Cursor
from api.wire.audit import AuditEntryView, AuditPage
from common.store.audit import AuditFilter, AuditRecord, AuditStore


def audit_page(asked: AuditQuery, audit: AuditStore) -> AuditPage:
    """The page that is asked for. Raises ServiceUnavailable."""
    wanted = AuditFilter(
        caller=asked.caller, operation=asked.operation, since=asked.since, until=asked.until, hundred=asked.hundred
    )
    before = None if asked.cursor is None else asked.cursor.before
    page = audit.page(wanted, before=before, limit=asked.limit)
    cursor = UNSET if page.next is None else Cursor(before=page.next).text()
    return AuditPage(entries=[_entry_view(record) for record in page.records], next_cursor=cursor)


def _entry_view(record: AuditRecord) -> AuditEntryView:
    return AuditEntryView(
        at=record.at.isoformat(),
        caller=record.caller,
        way=record.way,
        address=record.address,
        operation=record.operation,
        target=record.target,
        status=record.status,
        request_id=record.request_id,
        role=record.role or UNSET,
        code=record.code or UNSET,
    )
