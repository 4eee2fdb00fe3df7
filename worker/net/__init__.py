"""How Modelferry speaks to hubs about models: every call bounded, every address looked at, credentials kept at home."""

from worker.net.client import HubClient, Reply
from worker.net.guard import Guard

__all__ = ["Guard", "HubClient", "Reply"]
