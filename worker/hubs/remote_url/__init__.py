"""Archives at addresses that the operator allows."""

from worker.hubs.remote_url.hub import RemoteUrlHub

__all__ = ["RemoteUrlHub"]
