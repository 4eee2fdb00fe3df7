"""A Geti 2 server on loopback, over TLS unless it is told otherwise."""

from __future__ import annotations

from typing import Self

from tests.fakes.exchange import Reply, Request, reply_with, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.geti import documents2
from tests.fakes.geti.exports import reply_with_zip
from tests.fakes.geti.shelves import Architecture, Export, Shelf, Training, new_id
from tests.fakes.geti.tls import Identity, TlsServer
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

TOKEN = "geti_pat_fake"
PAGE = b"<!doctype html><html><body>Geti</body></html>"


class FakeGeti2(OnLoopback):
    """Serves the shelves of one workspace. `form` is how the end of a download is told."""

    def __init__(self, identity: Identity | None = None, *, form: str = "chunked", most_per_page: int = 50) -> None:
        self.token = TOKEN
        self.form = form
        self.most_per_page = most_per_page
        self.organizations = [(new_id(), "2024-01-01T00:00:00.000000Z")]
        self.workspaces = {new_id(): "Default Workspace"}
        self.product_info = {"product-version": "2.13.0", "build-version": "2.13.0-release-20250901120000"}
        self.shelves: list[Shelf] = []
        self.requests = RequestLog()
        self.faults = FaultPlan()
        answer = self.faults.around(self._answer)
        self._scheme = "https" if identity else "http"
        self._server = (
            TlsServer("geti", answer, self.requests, identity)
            if identity
            else LoopbackServer("geti", answer, self.requests)
        )

    @property
    def host(self) -> str:
        """The value of GETI_HOST."""
        return f"{self._scheme}://localhost:{self._server.port}"

    @property
    def workspace(self) -> str:
        return next(iter(self.workspaces))

    def add(self, *shelves: Shelf) -> Self:
        self.shelves += shelves
        return self

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.segments[:2] != ["api", "v1"]:
            return reply_with(200, PAGE, {"Content-Type": "text/html"})
        if request.headers.get("x-api-key") != self.token:
            # A real server may well repeat what it was shown.
            return _refusal(401, "unauthorized", f"No such key: {request.headers.get('x-api-key')}")
        try:
            return self._answer_known(request, request.segments[2:])
        except (KeyError, IndexError, StopIteration):
            return _refusal(404, "not_found", f"Nothing at {request.path}")

    def _answer_known(self, request: Request, parts: list[str]) -> Reply:
        match parts:
            case ["product_info"]:
                return reply_with_json(self.product_info)
            case ["personal_access_tokens", "organization"]:
                return reply_with_json(self._organization())
            case ["organizations", organization, *rest] if organization == self._oldest():
                return self._answer_organization(request, rest)
        raise KeyError(request.path)

    def _organization(self) -> dict[str, object]:
        listed = [{"organizationId": one, "organizationCreatedAt": made} for one, made in self.organizations]
        return {"organizations": listed}

    def _oldest(self) -> str:
        return min(self.organizations, key=lambda pair: pair[1])[0]

    def _answer_organization(self, request: Request, parts: list[str]) -> Reply:
        match parts:
            case ["workspaces"]:
                listed = [{"id": key, "name": name} for key, name in self.workspaces.items()]
                return reply_with_json({"workspaces": listed})
            case ["balance"]:
                return reply_with_json({"available": 100, "incoming": 100, "blocked": 0})
            case ["workspaces", workspace, *rest] if workspace == self.workspace:
                return self._answer_workspace(request, rest)
        raise KeyError(request.path)

    def _answer_workspace(self, request: Request, parts: list[str]) -> Reply:
        if parts == ["projects"]:
            return self._projects(request)
        if parts == ["balance"]:
            return reply_with_json({"available": 100, "incoming": 100, "blocked": 0})
        shelf = next(one for one in self.shelves if parts[:2] == ["projects", one.id])
        if shelf.closed:
            return _refusal(403, "forbidden", "Not for this user")
        return self._answer_project(request, shelf, parts[2:])

    def _projects(self, request: Request) -> Reply:
        skip = int(request.asks("skip") or 0)
        limit = min(int(request.asks("limit") or self.most_per_page), self.most_per_page)
        page = self.shelves[skip : skip + limit]
        listed = [documents2.project(shelf) for shelf in page]
        return reply_with_json({"projects": listed, "project_counts": len(self.shelves)})

    def _answer_project(self, request: Request, shelf: Shelf, parts: list[str]) -> Reply:
        match parts:
            case []:
                return reply_with_json(documents2.project(shelf))
            case ["supported_algorithms"]:
                return reply_with_json(documents2.supported_algorithms())
            case ["model_groups"]:
                listed = [documents2.group(shelf, one) for one in shelf.architectures]
                return reply_with_json({"model_groups": listed})
            case ["model_groups", group, "models", model, *rest]:
                return self._answer_model(request, _training(shelf, group, model), rest)
        raise KeyError(request.path)

    def _answer_model(self, request: Request, training: Training, parts: list[str]) -> Reply:
        match parts:
            case []:
                return reply_with_json(documents2.model(training))
            case ["export"]:
                return reply_with_zip(training.base, form=self.form)
            case ["optimized_models", name, "export"]:
                export: Export = next(one for one in training.exports if one.id == name)
                only = request.asks("model_only") == "true"
                return reply_with_zip(export.packed(model_only=only), form=self.form)
        raise KeyError(request.path)


def _training(shelf: Shelf, group: str, model: str) -> Training:
    architecture: Architecture = next(one for one in shelf.architectures if one.id == group)
    return next(one for one in architecture.trainings if one.id == model)


def _refusal(status: int, code: str, message: str) -> Reply:
    return reply_with_json({"error_code": code, "message": message, "http_status": status}, status=status)
