"""An Ollama server that runs: it pulls by its own protocol, a line of JSON for each step, and lists what it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fakes.exchange import Pause, Piece, Reply, Request, reply_with, reply_with_json
from tests.fakes.faults import ArmedFault, Fault, FaultPlan
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

Line = Mapping[str, object]
Step = Line | Pause


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A model that the server can pull. Each layer is told of `ticks` times, so many seconds apart."""

    layers: tuple[int, ...] = (5_000_000, 700, 90)
    ticks: int = 5
    every_s: float = 0.0
    checking_s: float = 0.0
    fails_with: str | None = None
    """What a line says that ends the pull half-way."""
    ends_early: bool = False
    """The answer ends in good order, but without success."""
    gets_lost: bool = False
    """The server reports success, and has nothing then."""


class FakeOllamaServer(OnLoopback):
    """Models by their names in full, such as `llama3.2:latest`. Start it, or use it as a context manager."""

    def __init__(self) -> None:
        self.offers: dict[str, Offer] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.requests = RequestLog()
        self.faults = FaultPlan()
        self._server = LoopbackServer("server", self.faults.around(self._answer), self.requests)

    @property
    def endpoint(self) -> str:
        return f"http://{self._server.host}:{self._server.port}"

    def add_fault(self, fault: Fault) -> ArmedFault:
        return self.faults.add(fault)

    def _answer(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", "/api/version":
                return reply_with_json({"version": "0.32.0"})
            case "GET", "/api/tags":
                return reply_with_json({"models": list(self.models.values())})
            case "POST", "/api/pull":
                return self._pull(json.loads(request.body))
            case _:
                return reply_with(404, b"404 page not found", {"Content-Type": "text/plain"})

    def _pull(self, asked: Mapping[str, Any]) -> Reply:
        name = str(asked.get("model") or asked.get("name") or "")
        if not name or " " in name:
            return reply_with_json({"error": "invalid model name"}, status=400)
        full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        steps = self._steps(full, self.offers.get(full))
        if asked.get("stream", True) is False:
            last = [step for step in steps if not isinstance(step, Pause)][-1]
            return reply_with_json(last, status=500 if "error" in last else 200)
        headers = (("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked"))
        return Reply(status=200, headers=headers, pieces=_Live(lambda: _chunks(steps)))

    def _steps(self, name: str, offer: Offer | None) -> Iterator[Step]:
        yield {"status": "pulling manifest"}
        if offer is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        for number, size in enumerate(offer.layers):
            digest = f"sha256:{_digest(name, number)}"
            told = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size}
            yield told
            for tick in range(1, offer.ticks + 1):
                yield Pause(offer.every_s)
                yield {**told, "completed": size * tick // offer.ticks}
            if offer.fails_with is not None:
                yield {"error": offer.fails_with}
                return
        yield {"status": "verifying sha256 digest"}
        yield Pause(offer.checking_s)
        yield {"status": "writing manifest"}
        if offer.ends_early:
            return
        if not offer.gets_lost:
            self.models[name] = _listed(name, sum(offer.layers))
        yield {"status": "success"}


class _Live(tuple[Piece, ...]):  # noqa: SLOT001 - a tuple cannot have any
    """Pieces that are made while they are sent, so that a client that leaves early leaves nothing done."""

    _make: Callable[[], Iterator[Piece]]

    def __new__(cls, make: Callable[[], Iterator[Piece]]) -> _Live:  # noqa: PYI034 - tuple's own Self is no help
        live = super().__new__(cls)
        live._make = make
        return live

    def __iter__(self) -> Iterator[Piece]:
        return self._make()


def _chunks(steps: Iterator[Step]) -> Iterator[Piece]:
    for step in steps:
        if isinstance(step, Pause):
            yield step
        else:
            line = json.dumps(step).encode() + b"\n"
            yield b"%x\r\n%s\r\n" % (len(line), line)
    yield b"0\r\n\r\n"


def _digest(name: str, number: int = -1) -> str:
    return hashlib.sha256(f"{name}/{number}".encode()).hexdigest()


def _listed(name: str, size: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": "2026-08-01T10:00:00.123456789Z",
        "size": size,
        "digest": _digest(name),
        "details": {"format": "gguf", "family": "llama", "parameter_size": "1B", "quantization_level": "Q4_0"},
    }
