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
from api.wire import FaultyRequest, Problem
from common.errors import (
    DestinationInvalid,
    DestinationOutside,
    InvalidSpec,
    JobEnded,
    ModelferryError,
    NoSuchJob,
    NotCancellable,
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
    Unprocessable: HTTP_422_UNPROCESSABLE_ENTITY,
    ServiceUnavailable: HTTP_503_SERVICE_UNAVAILABLE,
}

_MEANINGS: Mapping[int, str] = {
    HTTP_400_BAD_REQUEST: "The request asks for what cannot be; nothing was stored.",
    HTTP_404_NOT_FOUND: "There is no such thing.",
    HTTP_409_CONFLICT: "The job has ended, or is past the point of no return.",
    HTTP_413_REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTP_422_UNPROCESSABLE_ENTITY: "The request does not have the documented shape.",
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
    status = STATUS.get(type(error), HTTP_500_INTERNAL_SERVER_ERROR)
    headers = {"Retry-After": "5"} if status == HTTP_503_SERVICE_UNAVAILABLE else {}
    return Response(Problem(detail=str(error)), status_code=status, headers=headers)


def _unprocessable(_request: AnyRequest, error: Unprocessable) -> Response[FaultyRequest]:
    return Response(FaultyRequest(detail=error.faults), status_code=STATUS[Unprocessable])


def _framework(_request: AnyRequest, error: HTTPException) -> Response[Problem]:
    return Response(Problem(detail=error.detail), status_code=error.status_code, headers=error.headers)


def _unforeseen(request: AnyRequest, error: Exception) -> Response[Problem]:
    log.error("request.failed", extra={"method": request.method, "path": request.scope["path"]}, exc_info=error)
    return Response(Problem(detail="Internal Server Error"), status_code=HTTP_500_INTERNAL_SERVER_ERROR)


HANDLERS: ExceptionHandlersMap = {
    Unprocessable: _unprocessable,
    ModelferryError: _ours,
    HTTPException: _framework,
    Exception: _unforeseen,
}
