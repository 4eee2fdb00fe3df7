"""How Modelferry speaks to hubs: every call bounded, every address looked at, credentials kept at home."""

from worker.net.client import NO_JSON, HubClient, Reply, ended_at
from worker.net.connection import Broken, Connection, Network, Question
from worker.net.guard import Guard
from worker.net.origin import Credential, Origin
from worker.net.waits import wished_wait

__all__ = [
    "NO_JSON", "Broken", "Connection", "Credential", "Guard", "HubClient", "Network", "Origin", "Question", "Reply",
    "ended_at", "wished_wait",
]  # fmt: skip
