"""What the children of the tests of memory do."""

import ctypes
import subprocess
import sys
import time

from worker.forkserver import Channel
from worker.machine import no_memory

MB = 1024 * 1024
HOLDS = f"import time; hoard = b'x' * {150 * MB}; time.sleep(60)"


def grow(channel: Channel) -> None:
    """Take 10 MB more, again and again; the first message says that it begins."""
    channel.send("begun")
    hoard = []
    while True:
        hoard.append(b"x" * (10 * MB))
        time.sleep(0.02)


def leap(channel: Channel) -> int:
    """Take far too much at once."""
    try:
        hoard = bytearray(1 << 40)
    except MemoryError:
        channel.send(no_memory("no room").code)
        return 3
    return len(hoard)


def native_leap(channel: Channel) -> None:
    """The same in C++, which ends the process."""
    channel.send("begun")
    ctypes.CDLL("libstdc++.so.6")._Znwm(ctypes.c_size_t(1 << 40))


def delegate(channel: Channel) -> None:
    """Let another process take the memory."""
    with subprocess.Popen([sys.executable, "-c", HOLDS]):
        channel.send("begun")
        time.sleep(60)


def sleep(channel: Channel) -> None:
    channel.send("begun")
    time.sleep(60)
