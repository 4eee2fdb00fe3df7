"""Which HTTP status an error has: one table, and the handlers that read it."""

import logging
from collections.abc import Mapping
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.status_codes import (
    HTTP_400_BAD_REQUEST,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_500_INTERNAL_SERVER_ERROR,
    HTTP_503_SERVICE_UNAVAILABLE,
)
from litestar.types import ExceptionHandlersMap

from api.compat.decoding import Unprocessable, UnreadableBody
from api.wire import Fault, FaultyRequest, Problem
from common.errors import (
    DestinationInvalid,
    DestinationOutside,
    InvalidSpec,
    JobActive,
    JobEnded,
    KeyInFlight,
    KeyReused,
    ModelferryError,
    NoSuchJob,
    NoSuchLimit,
    NotCancellable,
    NothingMade,
    NotRetryable,
    PluginUnavailable,
    ServiceUnavailable,
)

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]

STATUS: Mapping[type[ModelferryError], int] = {
    InvalidSpec: HTTP_400_BAD_REQUEST,
    PluginUnavailable: HTTP_400_BAD_REQUEST,
    DestinationOutside: HTTP_400_BAD_REQUEST,
    DestinationInvalid: HTTP_400_BAD_REQUEST,
    UnreadableBody: HTTP_400_BAD_REQUEST,
    NoSuchJob: HTTP_404_NOT_FOUND,
    JobEnded: HTTP_409_CONFLICT,
    NotCancellable: HTTP_409_CONFLICT,
    JobActive: HTTP_409_CONFLICT,
    NotRetryable: HTTP_409_CONFLICT,
    NothingMade: HTTP_409_CONFLICT,
    KeyInFlight: HTTP_409_CONFLICT,
    NoSuchLimit: HTTP_404_NOT_FOUND,
    KeyReused: HTTP_422_UNPROCESSABLE_ENTITY,
    Unprocessable: HTTP_422_UNPROCESSABLE_ENTITY,
    ServiceUnavailable: HTTP_503_SERVICE_UNAVAILABLE,
}

_RETRY_AFTER_S: Mapping[type[ModelferryError], int] = {KeyInFlight: 1, ServiceUnavailable: 5}

_MEANINGS: Mapping[int, str] = {
    HTTP_400_BAD_REQUEST: "The request asks for what cannot be; nothing was stored.",
    HTTP_404_NOT_FOUND: "There is no such thing.",
    HTTP_409_CONFLICT: (
        "The state of the job does not allow it, or the first request of this Idempotency-Key is not answered yet."
    ),
    HTTP_413_REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTP_422_UNPROCESSABLE_ENTITY: (
        "The request does not have the documented shape, or its Idempotency-Key stood on another request."
    ),
    HTTP_503_SERVICE_UNAVAILABLE: "The job table cannot be reached; nothing was stored. Try again shortly.",
}


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """The refusals of a route, for its documentation."""
    return {
        status: ResponseSpec(
            data_container=FaultyRequest if status == HTTP_422_UNPROCESSABLE_ENTITY else Problem,
            description=_MEANINGS[status],
            generate_examples=False,
        )
        for status in statuses
    }


def _ours(_request: AnyRequest, error: ModelferryError) -> Response[Problem]:
    kinds = type(error).__mro__
    status = next((STATUS[kind] for kind in kinds if kind in STATUS), HTTP_500_INTERNAL_SERVER_ERROR)
    wait_s = next((_RETRY_AFTER_S[kind] for kind in kinds if kind in _RETRY_AFTER_S), None)
    headers = {} if wait_s is None else {"Retry-After": str(wait_s)}
    return Response(Problem(detail=str(error)), status_code=status, headers=headers)


def _unprocessable(_request: AnyRequest, error: Unprocessable) -> Response[FaultyRequest]:
    return Response(FaultyRequest(detail=error.faults), status_code=STATUS[Unprocessable])


def _key_reused(_request: AnyRequest, error: KeyReused) -> Response[FaultyRequest]:
    fault = Fault(type=error.code, loc=["header", "idempotency-key"], msg=str(error))
    return Response(FaultyRequest(detail=[fault]), status_code=STATUS[KeyReused])


def _framework(_request: AnyRequest, error: HTTPException) -> Response[Problem]:
    return Response(Problem(detail=error.detail), status_code=error.status_code, headers=error.headers)


def _unforeseen(request: AnyRequest, error: Exception) -> Response[Problem]:
    log.error("request.failed", extra={"method": request.method, "path": request.scope["path"]}, exc_info=error)
    return Response(Problem(detail="Internal Server Error"), status_code=HTTP_500_INTERNAL_SERVER_ERROR)


HANDLERS: ExceptionHandlersMap = {
    Unprocessable: _unprocessable,
    KeyReused: _key_reused,
    ModelferryError: _ours,
    HTTPException: _framework,
    Exception: _unforeseen,
}
