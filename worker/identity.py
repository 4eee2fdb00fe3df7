"""Who a worker process is, so that others on the same machine can tell for certain that it is dead."""

import os
import socket
from pathlib import Path

_FIELDS = 5


def own_identity() -> str:
    """`host/boot/pid namespace/pid/start time` of this process: no two processes ever share it."""
    return "/".join((*_machine(), str(os.getpid()), _started(os.getpid()) or "0"))


def is_dead(identity: str) -> bool:
    """Whether this process has certainly ended. False for processes of other machines: nobody here can know."""
    parts = identity.split("/")
    if len(parts) != _FIELDS or tuple(parts[:3]) != _machine() or not parts[3].isdigit():
        return False
    return _started(int(parts[3])) != parts[4]


def _machine() -> tuple[str, str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return socket.gethostname().replace("/", "_"), boot, str(Path("/proc/self/ns/pid").readlink()).replace("/", "_")


def _started(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot (field 22 of proc(5) stat), None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    # A zombie has ended, whatever its parent thinks.
    return None if after_name[0] == "Z" else after_name[19]
