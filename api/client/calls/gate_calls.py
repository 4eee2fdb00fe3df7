"""What is asked of gates."""

from collections.abc import Sequence

from api.client.call import UNAVAILABLE, Call, as_view, check, json_body, path_of
from api.client.wanted import WantedModel
from api.wire.gates import GatePage, GateView


def gates() -> Call[GatePage]:
    """Every gate, by name."""
    return Call(method="GET", path="gates", read=as_view(GatePage))


def gate(name: str) -> Call[GateView]:
    """One gate, open or closed."""
    return Call(method="GET", path=path_of("gates", name), read=as_view(GateView, also=UNAVAILABLE))


def put_gate(name: str, models: Sequence[WantedModel], download_path: str = "") -> Call[GateView]:
    """Make a gate, or another of an old one: it opens when all these models are published and whole."""
    body = json_body({"models": models, "download_path": download_path})
    return Call(method="PUT", path=path_of("gates", name), body=body, read=as_view(GateView))


def remove_gate(name: str) -> Call[None]:
    """Remove a gate. Its models and jobs stay."""
    return Call(method="DELETE", path=path_of("gates", name), read=check)
