"""The audit trail: who did what."""

from collections.abc import Mapping
from urllib.parse import urlencode

from litestar import Response, get
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import QueryParams
from msgspec import UNSET

from api.audit_views import audit_page
from api.compat.audit import AuditQuery, read_audit_query
from api.problems import AnyRequest, documented
from api.routes.documented import reads
from api.wire.audit import AuditPage
from common.store.audit import AuditStore

_LINK = ResponseHeader(
    name="Link",
    documentation_only=True,
    required=False,
    description='The path of the next page, with `rel="next"`; absent on the last one.',
    value='</audit?cursor=abc>; rel="next"',
)


@get(
    "/audit",
    sync_to_thread=True,
    tags=["access"],
    summary="Read the audit trail",
    operation_class=reads(query=AuditQuery),
    response_headers=[_LINK],
    responses=documented(422, 503),
)
def list_audit(request: AnyRequest, query: QueryParams, audit: NamedDependency[AuditStore]) -> Response[AuditPage]:
    """Who changed what, and who was refused, newest first. Looking at it is noted too."""
    asked = read_audit_query(query.multi_items())
    page = audit_page(asked, audit)
    return Response(page, headers=_next_link(request, asked, page))


def _next_link(request: AnyRequest, asked: AuditQuery, page: AuditPage) -> Mapping[str, str]:
    if page.next_cursor is UNSET:
        return {}
    again = asked.model_dump(mode="json", exclude={"cursor"}, exclude_none=True)
    return {"Link": f'<{request.url.path}?{urlencode(again | {"cursor": page.next_cursor})}>; rel="next"'}
