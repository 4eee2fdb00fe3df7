"""Secrets that are planted into a real service, and everything that the service leaves, said or showed."""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote, quote_plus

import httpx
import psutil
import redis
from sqlalchemy import inspect

from api.app import create_app
from common.settings import Settings
from common.store.database import Database
from tests.e2e.service import Service

_OFTEN_S = 0.03
_LARGEST = 2_000_000
_STREAM_S = 1.0

Places = dict[str, bytes]
"""Where something was found -> what it holds."""


def secret(of: str, more: str = "") -> str:
    """One that looks like no token: nothing but care hides it. Long enough to be nowhere by chance."""
    return f"Planted{of}{secrets.token_hex(16)}{more}"


def forms(value: str) -> dict[str, bytes]:
    """The ways in which a value can be written down."""
    plain = value.encode()
    written = {
        "as it is": plain,
        "in a URL": quote(value, safe="").encode(),
        "in a form": quote_plus(value).encode(),
        "in JSON": json.dumps(value)[1:-1].encode(),
        "in JSON in JSON": json.dumps(json.dumps(value))[3:-3].encode(),
        "in hex": binascii.hexlify(plain),
        "in HEX": binascii.hexlify(plain).upper(),
        "as Python shows it": repr(value)[1:-1].encode(),
    }
    # Behind other bytes base64 looks otherwise: for each of the three ways, what depends on this value alone.
    for before in range(3):
        for kind, encode in (("base64", base64.b64encode), ("base64 for URLs", base64.urlsafe_b64encode)):
            first, last = (before * 4 + 2) // 3, (before + len(plain)) * 4 // 3
            written[f"in {kind} after {before}"] = encode(b"\0" * before + plain)[first:last]
    return written


def found(value: str, places: Mapping[str, bytes]) -> list[str]:
    """Each place that holds a value in any form."""
    searched = {bytes_: form for form, bytes_ in forms(value).items()}
    return [
        f"{form}: {place}"
        for place, content in places.items()
        for bytes_, form in searched.items()
        if bytes_ in content
    ]


def rows(url: str) -> Places:
    """Every row of every table."""
    database = Database(url)
    held: Places = {}
    with database.read() as connection:
        for table in inspect(connection).get_table_names():
            for number, row in enumerate(connection.exec_driver_sql(f'SELECT * FROM "{table}"').mappings()):
                written = {
                    name: bytes(value).hex() if isinstance(value, bytes | memoryview) else value
                    for name, value in row.items()
                }
                raw = b"".join(bytes(value) for value in row.values() if isinstance(value, bytes | memoryview))
                held[f"{table} {number}"] = json.dumps(written, default=str, ensure_ascii=False).encode() + raw
    database.dispose()
    return held


def redis_content(url: str) -> Places:
    """Every key of a Redis."""
    client = redis.Redis.from_url(url)
    held: Places = {"redis config": repr(client.client_list()).encode()}
    for key in client.scan_iter():
        kind = client.type(key)
        value = (
            client.lrange(key, 0, -1)
            if kind == b"list"
            else client.hgetall(key)
            if kind == b"hash"
            else client.dump(key)
        )
        held[f"redis {key!r}"] = repr(value).encode()
    client.close()
    return held


@dataclass
class Eavesdropper:
    """Hears every command that a Redis is sent, and looks again and again at processes and at what lies on the volume."""

    service: Service
    redis_port: int
    password: str
    heard: bytearray = field(default_factory=bytearray)
    seen: Places = field(default_factory=dict)
    children: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._line = socket.create_connection(("127.0.0.1", self.redis_port), timeout=5)
        self._line.sendall(f"AUTH {self.password}\r\nMONITOR\r\n".encode())
        self._threads = [threading.Thread(target=watch, daemon=True) for watch in (self._hear, self._watch)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._line.close()

    def _hear(self) -> None:
        while not self._over.is_set():
            try:
                self.heard += self._line.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return

    def _watch(self) -> None:
        while not self._over.wait(_OFTEN_S):
            for name in ("api", "download", "convert", "reconcile"):
                if self.service.is_running(name):
                    self._look_at(name, self.service.pid(name))
            self._look_round()

    def _look_at(self, name: str, pid: int) -> None:
        with suppress(psutil.Error):
            self._keep(f"command line of {name}", _read(Path(f"/proc/{pid}/cmdline")))
            for child in psutil.Process(pid).children(recursive=True):
                self.children.add(f"{name} {child.pid}")
                # A process that has only just been forked, and not yet begun, still shows its parent's.
                self._keep(f"command line of a child of {name}, {child.pid}", _read(Path(f"/proc/{child.pid}/cmdline")))
                self._keep(f"environment of a child of {name}, {child.pid}", _read(Path(f"/proc/{child.pid}/environ")))

    def _look_round(self) -> None:
        """What is on the volume only for a while."""
        hidden = self.service.models_dir / ".modelferry"
        for path in _below(hidden):
            # What was there a moment ago may be gone.
            with suppress(OSError):
                if path.is_file() and path.stat().st_size < _LARGEST and str(path) not in self.seen:
                    self._keep(f"{path} for a while", path.read_bytes())

    def _keep(self, place: str, content: bytes) -> None:
        if content:
            self.seen[place] = content


def _below(folder: Path) -> Iterator[Path]:
    """What is there, whatever comes and goes meanwhile."""
    for at, _, names in os.walk(folder):
        yield from (Path(at, name) for name in names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def files(folder: Path) -> Places:
    """Every file below a folder, and its name."""
    return {str(path): path.read_bytes() + path.name.encode() for path in folder.rglob("*") if path.is_file()}


def answers(client: httpx.Client, known: Mapping[str, Sequence[str]]) -> Places:
    """What every route that can be asked with GET answers, for everything that is known by a name."""
    held: Places = {}
    for path in sorted(_paths()):
        for filled in _filled(path, known):
            with suppress(httpx.TimeoutException), client.stream("GET", filled, timeout=_STREAM_S) as answer:
                head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
                held[f"GET {filled} {answer.status_code}"] = head.encode()
                for piece in _for_a_while(answer):
                    held[f"GET {filled} {answer.status_code}"] += piece
    return held


def _for_a_while(answer: httpx.Response) -> Iterator[bytes]:
    """A stream goes on for ever: its beginning is enough."""
    until = time.monotonic() + _STREAM_S
    for piece in answer.iter_bytes():
        yield piece
        if time.monotonic() > until:
            return


def _paths() -> set[str]:
    application = create_app(Settings(models_dir=Path("/nowhere")))
    return {route.path for route in application.routes if "GET" in getattr(route, "methods", ())}


def _filled(path: str, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A path with all that its parameter may be; one with a parameter that nobody knows is asked with a word."""
    before, brace, rest = path.partition("{")
    if not brace:
        yield path
        return
    parameter, _, after = rest.partition("}")
    for value in known.get(parameter.partition(":")[0], ["anything"]):
        yield from _filled(before + quote(value, safe="") + after, known)
