"""What the children of the fork server's tests do."""

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from worker.forkserver import Channel, ChannelClosed

ANY: msgspec.json.Decoder[object] = msgspec.json.Decoder()
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def echo(channel: Channel) -> None:
    channel.send(["request", channel.request.decode()])
    for message in channel.messages(ANY):
        channel.send(["echo", message])


def leave(channel: Channel) -> int:
    how = channel.request.decode()
    if how == "raise":
        raise RuntimeError("planted")
    if how == "exit":
        sys.exit(4)
    if how == "words":
        sys.exit("last words")
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    return int(how or 0)


def describe(channel: Channel) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    own = Path("/proc/self")
    channel.send({
        "threads": len(list((own / "task").iterdir())),
        "files": sorted({_opened(file) for file in (own / "fd").iterdir()} - {""}),
        "group": os.getpgid(0) == os.getsid(0) == os.getpid(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "nice": os.nice(0),
        "oom": int((own / "oom_score_adj").read_text()),
        "frozen": gc.get_freeze_count() > 0,
        "preloaded": "colorsys" in sys.modules,
        "stdin": sys.stdin.read(),
    })  # fmt: skip


def _opened(file: Path) -> str:
    """What a descriptor is; the one that lists the descriptors is gone by now."""
    try:
        return str(file.readlink()).split(":", maxsplit=1)[0]
    except FileNotFoundError:
        return ""


def eat(channel: Channel) -> int:
    eaten: list[bytearray] = []
    try:
        while len(eaten) < 1000:
            eaten.append(bytearray(10 * 1024 * 1024))
    except MemoryError:
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        channel.send({"eaten": len(eaten), "limit": limit})
        return 3
    return 0


def breed(channel: Channel) -> None:
    """Start a grandchild that ignores SIGTERM, one in a session of its own, and wait."""
    if channel.request == b"ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchildren = [
        subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=session).pid for session in (False, True)
    ]
    time.sleep(0.2)
    channel.send(grandchildren)
    if channel.request == b"leave":
        return
    time.sleep(600)


def wait_for_term(channel: Channel) -> int:
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    channel.send("ready")
    told.wait(30)
    return 7


def until_closed(channel: Channel) -> int:
    try:
        channel.receive(ANY)
    except ChannelClosed:
        return 0
    return 1


def garbage(channel: Channel) -> None:
    os.write(channel.fileno(), (5).to_bytes(4) + b"{nope")
    channel.receive(ANY, timeout_s=5)
