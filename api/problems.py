"""Which HTTP status an error has: one table, and the handlers that read it."""

import logging
from collections.abc import Mapping
from math import ceil
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.status_codes import (
    HTTP_400_BAD_REQUEST,
    HTTP_401_UNAUTHORIZED,
    HTTP_403_FORBIDDEN,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_421_MISDIRECTED_REQUEST,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_429_TOO_MANY_REQUESTS,
    HTTP_500_INTERNAL_SERVER_ERROR,
    HTTP_501_NOT_IMPLEMENTED,
    HTTP_502_BAD_GATEWAY,
    HTTP_503_SERVICE_UNAVAILABLE,
    HTTP_507_INSUFFICIENT_STORAGE,
)
from litestar.types import ExceptionHandlersMap
from msgspec import UNSET, UnsetType

from api.compat.decoding import Unprocessable, UnreadableBody
from api.compat.leaving import ClientGone
from api.questions import ListingFailed
from api.wire import Fault, FaultyRequest, Problem
from common.errors import (
    CredentialsInvalid,
    CredentialsRefused,
    DestinationInvalid,
    DestinationOutside,
    DiskFull,
    Forbidden,
    GatesFull,
    HubCannotList,
    InvalidSpec,
    JobActive,
    JobEnded,
    KeyInFlight,
    KeyReused,
    KeysFull,
    ModelBusy,
    ModelExists,
    ModelferryError,
    NoSuchGate,
    NoSuchJob,
    NoSuchKey,
    NoSuchLimit,
    NoSuchModel,
    NoSuchWebhook,
    NotCancellable,
    NothingMade,
    NotManaged,
    NotRetryable,
    PluginUnavailable,
    PublicationRefused,
    ServiceUnavailable,
    StageError,
    TooManyRequests,
    Unauthenticated,
    UnknownHost,
    UploadRefused,
    UploadTooLarge,
    WebhookOff,
    WebhooksFull,
    WebhookUnreadable,
)

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]

STATUS: Mapping[type[ModelferryError], int] = {
    InvalidSpec: HTTP_400_BAD_REQUEST,
    PluginUnavailable: HTTP_400_BAD_REQUEST,
    DestinationOutside: HTTP_400_BAD_REQUEST,
    DestinationInvalid: HTTP_400_BAD_REQUEST,
    UnreadableBody: HTTP_400_BAD_REQUEST,
    ClientGone: HTTP_400_BAD_REQUEST,
    CredentialsInvalid: HTTP_400_BAD_REQUEST,
    CredentialsRefused: HTTP_401_UNAUTHORIZED,
    Unauthenticated: HTTP_401_UNAUTHORIZED,
    Forbidden: HTTP_403_FORBIDDEN,
    TooManyRequests: HTTP_429_TOO_MANY_REQUESTS,
    UnknownHost: HTTP_421_MISDIRECTED_REQUEST,
    NoSuchKey: HTTP_404_NOT_FOUND,
    KeysFull: HTTP_409_CONFLICT,
    HubCannotList: HTTP_501_NOT_IMPLEMENTED,
    ListingFailed: HTTP_502_BAD_GATEWAY,
    NoSuchJob: HTTP_404_NOT_FOUND,
    JobEnded: HTTP_409_CONFLICT,
    NotCancellable: HTTP_409_CONFLICT,
    JobActive: HTTP_409_CONFLICT,
    NotRetryable: HTTP_409_CONFLICT,
    NothingMade: HTTP_409_CONFLICT,
    KeyInFlight: HTTP_409_CONFLICT,
    NoSuchLimit: HTTP_404_NOT_FOUND,
    NoSuchGate: HTTP_404_NOT_FOUND,
    GatesFull: HTTP_409_CONFLICT,
    NoSuchModel: HTTP_404_NOT_FOUND,
    NoSuchWebhook: HTTP_404_NOT_FOUND,
    WebhooksFull: HTTP_409_CONFLICT,
    WebhookOff: HTTP_409_CONFLICT,
    WebhookUnreadable: HTTP_409_CONFLICT,
    ModelBusy: HTTP_409_CONFLICT,
    ModelExists: HTTP_409_CONFLICT,
    NotManaged: HTTP_409_CONFLICT,
    PublicationRefused: HTTP_409_CONFLICT,
    UploadRefused: HTTP_400_BAD_REQUEST,
    UploadTooLarge: HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    DiskFull: HTTP_507_INSUFFICIENT_STORAGE,
    KeyReused: HTTP_422_UNPROCESSABLE_ENTITY,
    Unprocessable: HTTP_422_UNPROCESSABLE_ENTITY,
    ServiceUnavailable: HTTP_503_SERVICE_UNAVAILABLE,
}

ERROR_CODE = "X-Error-Code"
"""The header that tells what went wrong in one word, as it does at the Hugging Face hub."""

_RETRY_AFTER_S: Mapping[type[ModelferryError], int] = {KeyInFlight: 1, ServiceUnavailable: 5}

_MEANINGS: Mapping[int, str] = {
    HTTP_400_BAD_REQUEST: "The request asks for what cannot be; nothing was stored.",
    HTTP_401_UNAUTHORIZED: "The hub wants credentials, or others.",
    HTTP_404_NOT_FOUND: "There is no such thing.",
    HTTP_409_CONFLICT: (
        "The state of the job or the model does not allow it, or the first request of this Idempotency-Key is not "
        "answered yet."
    ),
    HTTP_413_REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTP_422_UNPROCESSABLE_ENTITY: (
        "The request does not have the documented shape, or its Idempotency-Key stood on another request."
    ),
    HTTP_501_NOT_IMPLEMENTED: "The hub cannot do that.",
    HTTP_502_BAD_GATEWAY: "The hub has not given what it was asked for.",
    HTTP_503_SERVICE_UNAVAILABLE: (
        "The job table cannot be reached, or no worker has answered in time; nothing was stored. Try again shortly."
    ),
    HTTP_507_INSUFFICIENT_STORAGE: "The volume of the models has no room; nothing was stored.",
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


def status_of(error: Exception) -> int:
    """The status with which an error is answered."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTP_500_INTERNAL_SERVER_ERROR)


def _ours(_request: AnyRequest, error: ModelferryError) -> Response[Problem]:
    kinds = type(error).__mro__
    status = status_of(error)
    wait_s = next((_RETRY_AFTER_S[kind] for kind in kinds if kind in _RETRY_AFTER_S), None)
    if isinstance(error, TooManyRequests):
        wait_s = ceil(error.wait_s)
    headers = code_header(error) | ({} if wait_s is None else {"Retry-After": str(wait_s)})
    if isinstance(error, TooManyRequests) and error.most is not None:
        headers |= {"RateLimit-Limit": str(error.most), "RateLimit-Remaining": "0", "RateLimit-Reset": str(wait_s)}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="modelferry"'
    return Response(Problem(detail=str(error), hint=_hint(error)), status_code=status, headers=headers)


def code_header(error: ModelferryError) -> dict[str, str]:
    """The error's public code. In a header: today's clients know the bodies of refusals to the letter."""
    code = getattr(error, "code", None)
    return {ERROR_CODE: code} if code else {}


def _hint(error: ModelferryError) -> str | UnsetType:
    return (error.advice or UNSET) if isinstance(error, StageError) else UNSET


def _no_list(_request: AnyRequest, error: ListingFailed) -> Response[Problem]:
    problem = Problem(detail=str(error), reason=error.reason, reason_code=error.reason_code, hint=error.hint or UNSET)
    return Response(problem, status_code=STATUS[ListingFailed], headers=code_header(error))


def _unprocessable(_request: AnyRequest, error: Unprocessable) -> Response[FaultyRequest]:
    faulty = FaultyRequest(detail=error.faults)
    return Response(faulty, status_code=STATUS[Unprocessable], headers=code_header(error))


def _key_reused(_request: AnyRequest, error: KeyReused) -> Response[FaultyRequest]:
    fault = Fault(type=error.code, loc=["header", "idempotency-key"], msg=str(error))
    return Response(FaultyRequest(detail=[fault]), status_code=STATUS[KeyReused], headers=code_header(error))


def _framework(_request: AnyRequest, error: HTTPException) -> Response[Problem]:
    return Response(Problem(detail=error.detail), status_code=error.status_code, headers=error.headers)


def _unforeseen(request: AnyRequest, error: Exception) -> Response[Problem]:
    log.error("request.failed", extra={"method": request.method, "path": request.scope["path"]}, exc_info=error)
    return Response(Problem(detail="Internal Server Error"), status_code=HTTP_500_INTERNAL_SERVER_ERROR)


HANDLERS: ExceptionHandlersMap = {
    Unprocessable: _unprocessable,
    KeyReused: _key_reused,
    ListingFailed: _no_list,
    ModelferryError: _ours,
    HTTPException: _framework,
    Exception: _unforeseen,
}
