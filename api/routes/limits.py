"""Limits: how much may run and how fast, changed while everything runs."""

from typing import Annotated

from litestar import delete, get, put
from litestar.datastructures import Headers
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody
from pydantic import BaseModel, ConfigDict, Field

from api.compat.decoding import Reader
from api.compat.lenient import Whole
from api.problems import documented
from api.routes.documented import reads
from api.usecases import Limits
from api.views import limit_page, limit_view
from api.wire import LimitPage, LimitView
from common.errors import InvalidSpec, NoSuchLimit
from common.records import LimitRecord
from common.vocabulary import LimitScope

_SCOPES = {scope.value: scope for scope in LimitScope}


class LimitRequest(BaseModel):
    """What a limit says. Null, or nothing, is no limit."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    max_running: Annotated[Whole | None, Field(gt=0, lt=2**31, description="How many stages may run at once.")] = None
    bytes_per_s: Annotated[Whole | None, Field(gt=0, lt=2**63, description="How fast transfers may be together.")] = (
        None
    )


@get("/limits", sync_to_thread=True, tags=["limits"], summary="List limits and hubs", responses=documented(503))
def list_limits(limits: NamedDependency[Limits]) -> LimitPage:
    return limit_page(limits.limits(), limits.hubs())


@put(
    "/limits/{limit_scope:str}/{name:str}",
    sync_to_thread=True,
    tags=["limits"],
    summary="Set a limit",
    operation_class=reads(body=LimitRequest),
    responses=documented(400, 413, 422, 503),
)
def put_limit(
    limit_scope: FromPath[str], name: FromPath[str], headers: Headers, body: RawBody, limits: NamedDependency[Limits]
) -> LimitView:
    """Scopes: `service` (its name is `*`; bytes_per_s), `hub` (both), `tenant` and `pool` (max_running)."""
    known = _SCOPES.get(limit_scope)
    if known is None:
        raise InvalidSpec(f"There are no limits of such a scope. Use {', '.join(_SCOPES)}.")
    asked = _read_limit(body, headers.get("content-type"))
    limit = LimitRecord(scope=known, name=name, max_running=asked.max_running, bytes_per_s=asked.bytes_per_s)
    return limit_view(limits.put(limit))


@delete(
    "/limits/{limit_scope:str}/{name:str}",
    sync_to_thread=True,
    tags=["limits"],
    summary="Take a limit away",
    responses=documented(404, 503),
)
def remove_limit(limit_scope: FromPath[str], name: FromPath[str], limits: NamedDependency[Limits]) -> None:
    known = _SCOPES.get(limit_scope)
    if known is None:
        raise NoSuchLimit(f"There are no limits of such a scope. There are {', '.join(_SCOPES)}.")
    limits.remove(known, name)


def _read_limit(body: bytes, content_type: str | None) -> LimitRequest:
    reader = Reader()
    asked = reader.body(LimitRequest, body, content_type)
    if asked is None:
        raise reader.refusal()
    return asked
