"""How Modelferry speaks to hubs: every call bounded, every address looked at, credentials kept at home."""

from worker.net.client import NO_JSON, HubClient, Reply
from worker.net.connection import Network
from worker.net.guard import Guard
from worker.net.origin import Credential, Origin

__all__ = ["NO_JSON", "Credential", "Guard", "HubClient", "Network", "Origin", "Reply"]
