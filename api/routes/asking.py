"""Who asks, and under which key: the headers of requests that start work, and of the answers to them."""

import hashlib
import re
from collections.abc import Mapping

import msgspec
from litestar.datastructures import Headers, ResponseHeader
from litestar.openapi.spec import Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from pydantic_core import from_json

from api.caller import caller_of
from api.problems import AnyRequest
from api.usecases import TENANT, Accepted, Asker, RequestKey
from common import tracing
from common.access import Way
from common.errors import InvalidSpec
from common.records import Origin

_UNKNOWN = frozenset({Way.OPEN, Way.NOBODY})
_TENANT = "Modelferry-Tenant"
_KEY = "Idempotency-Key"
_REPLAYED = "Idempotent-Replayed"

_KEY_TEXT = re.compile(r"[ -~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

HEADERS = (
    Parameter(
        name=_KEY,
        param_in="header",
        required=False,
        description=(
            "A text of your choice, another one for each request, in double quotes or bare. The same request under "
            "the same key starts nothing anew: it gets the first answer again."
        ),
        schema=Schema(type=OpenAPIType.STRING, pattern=f"^{_KEY_TEXT.pattern}$", max_length=512),
    ),
    Parameter(
        name=_TENANT,
        param_in="header",
        required=False,
        description=(
            "Who asks. Tenants take turns. Without it the client's address is the tenant. A caller whose API key is "
            "bound to a tenant is that one, whatever stands here."
        ),
        schema=Schema(type=OpenAPIType.STRING, pattern=f"^{TENANT.pattern}$"),
    ),
)
"""What the routes that use this module document."""

REPLAYED_HEADER = ResponseHeader(
    name=_REPLAYED,
    documentation_only=True,
    required=False,
    description="`true` if this is the answer to an earlier request of the same Idempotency-Key.",
    value="true",
)


def read_asker(request: AnyRequest, call: str, subject: str, body: bytes = b"null") -> Asker:
    """Who asks; a key holds for this call, of this subject, with this body, which is JSON. Raises InvalidSpec.

    A caller whose API key is bound to a tenant asks as that tenant, whatever the request says.
    """
    named, key = caller_of(request).tenant or _tenant(request.headers), _key(request.headers)
    tenant = named or (request.client.host if request.client else "")
    known = RequestKey(key, fingerprint(call, subject, body), named) if key is not None else None
    return Asker(tenant=tenant, key=known, origin=_origin(request))


def _origin(request: AnyRequest) -> Origin:
    caller = caller_of(request)
    return Origin(caller=caller.name if caller.way not in _UNKNOWN else None, trace=tracing.traceparent())


def fingerprint(call: str, subject: str, body: bytes) -> str:
    """What tells a request from others. Two ways to write one JSON value are one request."""
    said = msgspec.json.encode([call, subject, from_json(body)], order="deterministic")
    return hashlib.sha256(said).hexdigest()


def replayed(accepted: Accepted) -> Mapping[str, str]:
    """The header that tells a repeated answer from a first one."""
    return {_REPLAYED: "true"} if accepted.replayed else {}


def _tenant(headers: Headers) -> str:
    name = _only(headers, _TENANT)
    if name is None:
        return ""
    if not TENANT.fullmatch(name):
        raise InvalidSpec(f"{_TENANT} must be 1 to 64 letters, digits or characters of . _ @ : -")
    return name


def _key(headers: Headers) -> str | None:
    given = _only(headers, _KEY)
    if given is None:
        return None
    quoted = _QUOTED.fullmatch(given)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else given
    if not _KEY_TEXT.fullmatch(key) or (given.startswith('"') and not quoted):
        raise InvalidSpec(f"{_KEY} must be 1 to 255 printable ASCII characters, in double quotes or bare")
    return key


def _only(headers: Headers, name: str) -> str | None:
    values = headers.getall(name, [])
    if len(values) > 1:
        raise InvalidSpec(f"{name} must not come more than once")
    return values[0] if values else None
