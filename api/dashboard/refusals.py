"""What a person sees in the place of a page that cannot be shown."""

import logging
from dataclasses import dataclass
from typing import Any

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.response import Redirect
from litestar.status_codes import HTTP_200_OK, HTTP_500_INTERNAL_SERVER_ERROR
from litestar.types import ExceptionHandlersMap

from api.dashboard.login import to_login
from api.dashboard.pages import Pages, wants_fragment
from api.problems import HANDLERS, STATUS, AnyRequest
from common.errors import ModelferryError, Unauthenticated

log = logging.getLogger(__name__)

_TITLES = {403: "Refused", 404: "Not found", 409: "Not possible now", 503: "Not available"}


@dataclass(frozen=True, slots=True)
class Refusals:
    """The same errors as on the wire, as pages."""

    pages: Pages

    def handlers(self) -> ExceptionHandlersMap:
        """For the router of the pages."""
        # The most special handler wins, so those of the wire are met one by one.
        ours: dict[int | type[Exception], Any] = {
            kind: self._ours for kind in HANDLERS if isinstance(kind, type) and issubclass(kind, ModelferryError)
        }
        return {**ours, HTTPException: self._framework, Exception: self._unforeseen}

    def _ours(self, request: AnyRequest, error: ModelferryError) -> Response[str] | Redirect:
        if isinstance(error, Unauthenticated):
            return to_login(request)
        status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTP_500_INTERNAL_SERVER_ERROR)
        return self._answer(request, str(error), status)

    def _framework(self, request: AnyRequest, error: HTTPException) -> Response[str]:
        return self._answer(request, error.detail, error.status_code)

    def _unforeseen(self, request: AnyRequest, error: Exception) -> Response[str]:
        log.error("request.failed", extra={"method": request.method, "path": request.scope["path"]}, exc_info=error)
        return self._answer(request, "Something went wrong here. The service's log says what.", 500)

    def _answer(self, request: AnyRequest, message: str, status: int) -> Response[str]:
        title = _TITLES.get(status, "That did not work")
        if wants_fragment(request):
            # For the script that shows it, a refusal is a good answer.
            return self.pages.page("fragments/refusal.html", status=HTTP_200_OK, title=title, message=message)
        return self.pages.to(request).page("refusal.html", status=status, title=title, message=message)
