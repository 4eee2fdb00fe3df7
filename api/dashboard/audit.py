"""The page of the audit trail: who did what, newest first, page by page."""

from collections.abc import Mapping

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParams

from api.audit_views import audit_page
from api.compat.audit import read_audit_query
from api.compat.decoding import Unprocessable
from api.dashboard.pages import Pages
from api.wire.audit import AuditPage
from common.store.audit import AuditStore

_PAGE = "50"
_KINDS: Mapping[str, str] = {
    "2xx": "Done (2xx)", "3xx": "Done, then another page (3xx)", "4xx": "Refused (4xx)", "5xx": "Failed here (5xx)",
}  # fmt: skip
_FILTERS = ("caller", "operation", "since", "until", "status")


@get("/ui/audit", sync_to_thread=True)
def audit_trail_page(
    query: QueryParams, pages: NamedDependency[Pages], audit: NamedDependency[AuditStore]
) -> Response[str]:
    """With a filter that cannot be read it says so, and shows nothing."""
    given = {name: value.strip() for name, value in query.multi_items() if value.strip()}
    asked = {name: given[name] for name in (*_FILTERS, "cursor") if name in given}
    try:
        page, faults = audit_page(read_audit_query([*_in_utc(asked).items(), ("limit", _PAGE)]), audit), []
    except Unprocessable as error:
        page, faults = AuditPage(entries=[]), [f"{fault.loc[-1]}: {fault.msg}" for fault in error.faults]
    return pages.page(
        "audit.html",
        active="audit",
        page=page,
        faults=faults,
        kinds=_KINDS,
        query={name: asked[name] for name in _FILTERS if name in asked},
        first="cursor" not in asked,
    )


def _in_utc(asked: Mapping[str, str]) -> dict[str, str]:
    """Browsers send a moment without a time zone: here it is one of UTC, and the page says so."""
    return {
        name: f"{value}Z" if name in {"since", "until"} and not value.endswith("Z") and "+" not in value else value
        for name, value in asked.items()
    }
