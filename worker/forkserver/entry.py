"""What a forked process does before and after the work that it was made for."""

import ctypes
import faulthandler
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, cast

from worker.forkserver.channel import Channel, ChannelClosed
from worker.forkserver.protocol import Spawn

Target = Callable[[Channel], int | None]

_PR_SET_PDEATHSIG = 1
_SACRIFICE = 300
"""How much sooner than the supervising process a child is chosen when the machine runs out of memory."""


def become_child(spawn: Spawn, parent: int, channel: int, log: int) -> NoReturn:
    """Leave the fork server behind, call the target, and end the process with its exit code."""
    code = 1
    try:
        _stand_alone(parent)
        _keep_only(channel, log)
        _limit(spawn)
        code = _work(spawn.target, Channel(socket.socket(fileno=channel)))
    except BaseException:  # noqa: BLE001 - the process ends here, whatever happened
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _stand_alone(parent: int) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the kernel was told to take us along.
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _keep_only(channel: int, log: int) -> None:
    """Send all output to the log, and close every file that the fork server had open but the channel."""
    for output in (1, 2):
        os.dup2(log, output)
    for file in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if file not in {0, 1, 2, channel}:
            with suppress(OSError):
                os.close(file)
    for stream in (sys.stdout, sys.stderr):
        cast("TextIOWrapper", stream).reconfigure(line_buffering=True, errors="backslashreplace")
    # A crash inside a library leaves at least a stack in the log.
    faulthandler.enable()


def _limit(spawn: Spawn) -> None:
    os.environ.update(spawn.environment)  # noqa: TID251 - a process entry: this is where a child's environment is made
    if spawn.nice:
        os.nice(spawn.nice)
    with suppress(OSError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text("ascii")) + _SACRIFICE)), "ascii")
    if spawn.memory_bytes is not None:
        most = _mapped_bytes() + spawn.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _mapped_bytes() -> int:
    """What this process has mapped of its own, in the kernel's reckoning for the limit."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def _work(target: str, channel: Channel) -> int:
    try:
        channel.request = channel.receive_frame() or b""
    except ChannelClosed:
        return 1
    module, _, name = target.partition(":")
    try:
        function = cast("Target", getattr(importlib.import_module(module), name))
        return function(channel) or 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return 1
