"""A shelf on loopback: the plain web server that the sample plugin in tests/samples fetches from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.catalog.registry import Catalog
from common.plugins import Access
from tests.contract.places import MODEL, SECRET, Place
from tests.fakes.exchange import Pace, Reply, Request, reply_with, reply_with_file, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog


class FakeShelf(OnLoopback):
    """Serves models to whoever has its token; with no token, to all. Start it, or use it as a context manager.

    `/index.json` names the models, `/<name>/<channel>.json` the files of one, which lie below `/<name>/<revision>/`.
    """

    def __init__(self, token: str | None = None, *, pace: Pace | None = None) -> None:
        self.token = token
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self._pages: dict[str, object] = {}
        self._files: dict[str, bytes] = {}
        self._names: set[str] = set()
        self._server = LoopbackServer("shelf", self.faults.around(self._answer), self.requests, pace=pace)

    @property
    def url(self) -> str:
        return f"http://{self._server.host}:{self._server.port}"

    def add(self, name: str, files: Mapping[str, bytes], *, revision: str = "1", channel: str = "released") -> None:
        """Put a model on the shelf, or another revision of it in the place of the one before."""
        self._names.add(name)
        listed = {path: [len(content), _digest(content)] for path, content in files.items()}
        self._pages[f"/{name}/{channel}.json"] = {"revision": revision, "files": listed}
        self._files |= {f"/{name}/{revision}/{path}": content for path, content in files.items()}

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.method not in {"GET", "HEAD"}:
            return reply_with(405, headers={"Allow": "GET"})
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return reply_with(401, b"who are you?\n", {"WWW-Authenticate": "Bearer"})
        if request.path == "/index.json":
            return reply_with_json(sorted(self._names))
        if request.path in self._pages:
            return reply_with_json(self._pages[request.path])
        content = self._files.get(request.path)
        if content is None:
            return reply_with(404, b"nothing here\n")
        tag = hashlib.sha256(content).hexdigest()[:20]
        return reply_with_file(request, content, len(content), {"ETag": f'"{tag}"'})


def _digest(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


@contextmanager
def shelf_place(_folder: Path) -> Iterator[Place]:
    """For the tests of every hub: the plugin as it is installed, with a shelf."""
    with FakeShelf(SECRET) as shelf:
        shelf.add("org/model", MODEL)
        for number in range(4):
            shelf.add(f"org/other-{number}", {"config.json": b"{}"})
        access = Access(settings={"SHELF_URL": shelf.url}, secrets={"SHELF_TOKEN": SECRET})
        yield Place(Catalog.installed("all").hubs["shelf"], access, {})
