"""Intel Geti: finds a trained model on a server of version 2 or 3, and brings one of its exports."""

from worker.hubs.geti.hub import GetiHub

__all__ = ["GetiHub"]
