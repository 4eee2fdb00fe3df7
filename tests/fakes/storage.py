"""A server of plain files, as object storages and code hosts are: strong ETags, ranges, and pages for what is missing."""

from __future__ import annotations

import hashlib

from tests.fakes.exchange import Pace, Reply, Request, reply_with, reply_with_file
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

MISSING_PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Nothing here.</body></html>\n" * 40


class FakeStorage(OnLoopback):
    """Files by their path, and paths that lead elsewhere. Knows GET and HEAD."""

    def __init__(self, *, bytes_per_s: int | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self.soft_missing = False
        """Whether a page is sent with status 200 in place of what is missing."""
        pace = Pace.of_rate(bytes_per_s) if bytes_per_s else None
        self._server = LoopbackServer("storage", self.faults.around(self._answer), self.requests, pace=pace)

    @property
    def endpoint(self) -> str:
        return f"http://{self._server.host}:{self._server.port}"

    def trouble(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.method not in {"GET", "HEAD"}:
            return reply_with(405, headers={"Allow": "GET, HEAD"})
        if request.path in self.moved:
            return reply_with(302, headers={"Location": self.moved[request.path]})
        content = self.files.get(request.path)
        if content is None:
            return reply_with(200 if self.soft_missing else 404, MISSING_PAGE, {"Content-Type": "text/html"})
        return reply_with_file(request, content, len(content), {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
