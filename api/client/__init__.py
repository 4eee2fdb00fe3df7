"""A typed client of the HTTP API, for programs, for the command line and for tests. It knows nothing but the wire."""

from api.client.async_client import AsyncClient
from api.client.call import Call
from api.client.client import Client
from api.client.errors import NotUnderstood, Refused, TimedOut, Unreachable
from api.client.events import StreamEvent
from api.client.wanted import WantedModel

__all__ = [
    "AsyncClient",
    "Call",
    "Client",
    "NotUnderstood",
    "Refused",
    "StreamEvent",
    "TimedOut",
    "Unreachable",
    "WantedModel",
]
