"""Runs each stage in a process of its own, forked from one that has imported the heavy libraries and done no more.

The supervising process (many threads) speaks to the fork server (one thread) over a Unix socket. The server forks,
watches, signals and reaps; each child leads its own process group. Where one of the three dies, nothing outlives it:

- a child ends: the server kills what is left of its group;
- the server dies: the kernel kills its children, the supervising process their groups;
- the supervising process dies: the server sees its socket close, kills all groups and goes.
"""

from worker.forkserver.channel import Channel, ChannelBroken, ChannelClosed
from worker.forkserver.control import Child, ForkServer, Ready
from worker.forkserver.protocol import Exit

__all__ = ["Channel", "ChannelBroken", "ChannelClosed", "Child", "Exit", "ForkServer", "Ready"]
