"""API keys: who may come in, with which role; and who the caller is."""

from litestar import Response, delete, get, post
from litestar.datastructures import Headers, ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from api.caller import caller_of
from api.compat.keys import KeyRequest, RotationRequest, read_key, read_rotation
from api.key_views import key_page, key_view, who_view
from api.keys import Keys, Made
from api.problems import AnyRequest, documented
from api.routes.documented import reads
from api.wire.access import KeyPage, KeyView, WhoView
from common.vocabulary import Role

_LOCATION = ResponseHeader(
    name="Location",
    documentation_only=True,
    required=True,
    description="The path of the new key.",
    value="/keys/0123456789ab",
)


@get("/whoami", sync_to_thread=False, tags=["access"], summary="Who the caller is")
def who_am_i(request: AnyRequest) -> WhoView:
    return who_view(caller_of(request))


@get("/keys", sync_to_thread=True, tags=["access"], summary="List API keys", responses=documented(503))
def list_keys(keys: NamedDependency[Keys]) -> KeyPage:
    return key_page(keys.keys())


@post(
    "/keys",
    status_code=HTTP_201_CREATED,
    sync_to_thread=True,
    tags=["access"],
    summary="Make an API key",
    operation_class=reads(body=KeyRequest),
    response_headers=[_LOCATION],
    responses=documented(400, 409, 413, 422, 503),
)
def add_key(request: AnyRequest, headers: Headers, body: RawBody, keys: NamedDependency[Keys]) -> Response[KeyView]:
    """The answer holds the key. It is shown here, and never again: only its digest is kept."""
    asked = read_key(body, headers.get("content-type"))
    made = keys.add(asked.name, Role(asked.role), tenant=asked.tenant, expires_in_days=asked.expires_in_days)
    return _shown_once(made, {"Location": f"{request.url.path.rstrip('/')}/{made.key.id}"})


@get("/keys/{key_id:str}", sync_to_thread=True, tags=["access"], summary="Look at an API key",
     responses=documented(404, 503))  # fmt: skip
def get_key(key_id: FromPath[str], keys: NamedDependency[Keys]) -> KeyView:
    return key_view(keys.key(key_id))


@post(
    "/keys/{key_id:str}/rotate",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["access"],
    summary="Give an API key another secret",
    operation_class=reads(body=RotationRequest),
    responses=documented(400, 404, 413, 422, 503),
)
def rotate_key(
    key_id: FromPath[str], headers: Headers, body: RawBody, keys: NamedDependency[Keys]
) -> Response[KeyView]:
    """The answer holds the new key. The former one lets in for a while too; the one before it no more."""
    asked = read_rotation(body, headers.get("content-type"))
    return _shown_once(keys.rotate(key_id, asked.former_lasts_hours))


@delete(
    "/keys/{key_id:str}",
    sync_to_thread=True,
    tags=["access"],
    summary="Revoke an API key",
    responses=documented(404, 503),
)
def revoke_key(key_id: FromPath[str], keys: NamedDependency[Keys]) -> None:
    """Within seconds it lets nobody in any more, at no replica. It is still listed."""
    keys.revoke(key_id)


def _shown_once(made: Made, headers: dict[str, str] | None = None) -> Response[KeyView]:
    return Response(key_view(made.key, made.text), headers={"Cache-Control": "no-store", **(headers or {})})
