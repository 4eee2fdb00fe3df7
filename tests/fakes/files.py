"""A plain file server on loopback: whole files and ranges, with what identifies them, and redirects."""

from __future__ import annotations

import hashlib

from tests.fakes.exchange import Reply, Request, reply_with, reply_with_file
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

MODIFIED = "Wed, 21 Oct 2026 07:28:00 GMT"


class FakeFiles(OnLoopback):
    """Serves `files` by their paths. Start it, or use it as a context manager. It speaks http; put TLS before it.

    `redirects` lead from a path to an address. `identified` says which headers tell one version from another.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.redirects: dict[str, str] = {}
        self.identified: tuple[str, ...] = ("ETag", "Last-Modified")
        self.heads = True
        """Whether HEAD is answered."""
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self._server = LoopbackServer("files", self.faults.around(self._answer), self.requests)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"http://{self._server.host}:{self.port}"

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.method not in ({"GET", "HEAD"} if self.heads else {"GET"}):
            return reply_with(405, headers={"Allow": "GET"})
        if request.path in self.redirects:
            return reply_with(302, headers={"Location": self.redirects[request.path]})
        content = self.files.get(request.path)
        if content is None:
            return reply_with(404, b"nothing here\n")
        known = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:20]}"', "Last-Modified": MODIFIED}
        return reply_with_file(request, content, len(content), {name: known[name] for name in self.identified})
