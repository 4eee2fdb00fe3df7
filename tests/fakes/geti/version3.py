"""A Geti 3 server on loopback: no organisations, no workspaces, no groups."""

from __future__ import annotations

from typing import Self

from tests.fakes.exchange import Reply, Request, reply_with, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.geti.exports import reply_with_zip
from tests.fakes.geti.shelves import Export, Shelf, Training
from tests.fakes.geti.version2 import PAGE
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog


class FakeGeti3(OnLoopback):
    """Serves shelves. It asks for no token, and shows its web page at every address that it does not know."""

    def __init__(self) -> None:
        self.shelves: list[Shelf] = []
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self._server = LoopbackServer("geti", self.faults.around(self._answer), self.requests)

    @property
    def host(self) -> str:
        """The value of GETI_HOST."""
        return f"http://localhost:{self._server.port}"

    def add(self, *shelves: Shelf) -> Self:
        self.shelves += shelves
        return self

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        if request.segments[:2] != ["api", "projects"]:
            return reply_with(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        try:
            return self._answer_known(request.segments[2:])
        except (KeyError, StopIteration):
            return reply_with_json({"detail": "Not Found"}, status=404)

    def _answer_known(self, parts: list[str]) -> Reply:
        if not parts:
            return reply_with_json([{"id": shelf.id, "name": shelf.name, "task": {}} for shelf in self.shelves])
        shelf = next(one for one in self.shelves if one.id == parts[0])
        trainings = [one for architecture in shelf.architectures for one in architecture.trainings]
        match parts[1:]:
            case ["models"]:
                return reply_with_json([_model(training) for training in trainings])
            case ["models", model, "variants", variant, "binary"]:
                training = next(one for one in trainings if one.id == model)
                export = next(one for one in training.exports if one.id == variant)
                return reply_with_zip(export.packed())
        raise KeyError(parts)


def _model(training: Training) -> dict[str, object]:
    return {
        "id": training.id,
        "name": training.name,
        "architecture": "Object_Detection_YOLOX_S",
        "training_info": {"status": training.status or "successful", "end_time": training.creation_date},
        "size": 4_000_000,
        "files_deleted": training.purged,
        "variants": [_variant(export) for export in training.exports],
    }


def _variant(export: Export) -> dict[str, object]:
    return {
        "id": export.id,
        "format": export.model_format.lower(),
        "precision": export.precision.lower(),
        "weights_size": 2_000_000,
        "files_deleted": export.purged,
        **export.fields,
    }
