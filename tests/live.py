"""Web processes that answer on real sockets, and a client that reads their event streams."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from litestar import Litestar

from api.embedded.redis_server import free_port
from tests.web import NOBODY

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Shared, because each client would read all certificates of the system for nothing."""


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    name: str
    data: dict[str, Any]
    id: str | None = None

    @property
    def what(self) -> str:
        """The name, or of something that has happened what that is."""
        return str(self.data["event"]) if self.name == "job" else self.name


class Watcher:
    """A client of one stream: reads in a thread, and remembers what has come."""

    def __init__(self, url: str, last_id: str | None = None) -> None:
        self.events: list[Event] = []
        self.comments = 0
        self.status: int | None = None
        self.ended = threading.Event()
        self._headers = {"Last-Event-ID": last_id} if last_id else {}
        self._client = httpx.Client(timeout=httpx.Timeout(5, read=60), verify=_NO_TLS)
        self._url = url
        self._response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def last_id(self) -> str | None:
        """The id of the last event that had one."""
        return next((event.id for event in reversed(self.events) if event.id), None)

    def names(self) -> list[str]:
        return [event.what for event in self.events if event.name != "progress"]

    def leave(self) -> None:
        """Close the connection in the middle of the stream."""
        response = self._response
        if response is not None:
            raw = response.extensions["network_stream"].get_extra_info("socket")
            if raw is not None:
                with suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _read(self) -> None:
        try:
            with self._client, self._client.stream("GET", self._url, headers=self._headers) as response:
                self._response, self.status = response, response.status_code
                found: dict[str, str] = {}
                for line in response.iter_lines():
                    self._take(line, found)
        except httpx.HTTPError:
            pass
        finally:
            self.ended.set()

    def _take(self, line: str, found: dict[str, str]) -> None:
        if line:
            name, _, value = line.partition(":")
            self.comments += not name
            found[name] = value.removeprefix(" ")
            return
        if "data" in found:
            self.events.append(Event(found["event"], json.loads(found["data"]), found.get("id")))
        found.clear()


class Reader:
    """A client that comes back with the last id whenever its stream ends, as browsers do, until that is of no use."""

    def __init__(self, url: str) -> None:
        self.seen: list[Event] = []
        self.opened = 0
        self.ended = threading.Event()
        self._url = url
        self._stopped = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _read(self) -> None:
        last_id: str | None = None
        while not self._stopped.is_set():
            watcher = Watcher(self._url, last_id)
            while not watcher.ended.wait(0.05) and not self._stopped.is_set():
                pass
            watcher.leave()
            self.opened += 1
            self.seen += watcher.events
            last_id = watcher.last_id or last_id
            if watcher.status == 204:
                break
        self.ended.set()


def until(true: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.02)


@contextmanager
def serving(app: Litestar) -> Iterator[str]:
    """The application on a socket of its own, in this process: its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


class Process:
    """`python -m api.asgi` on a database."""

    def __init__(self, database_url: str, models_dir: Path) -> None:
        self.port = free_port()
        own = {
            "MODELS_DIR": str(models_dir), "DATABASE_URL": database_url, "REDIS_URL": NOBODY,
            "HOST": "127.0.0.1", "PORT": str(self.port),
        }  # fmt: skip
        # Not a pipe: one that nobody reads is full after some hundred requests, and holds the process.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process has ended
        self.running = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "api.asgi"], env={**os.environ, **own}, stderr=self._log, text=True
        )
        self.log = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.running.poll() is None:
            try:
                httpx.get(f"{self.address}/health", timeout=2)
            except httpx.HTTPError:
                time.sleep(0.05)
            else:
                return
        self.kill()
        raise AssertionError(f"the web process did not start: {self.log}")

    def end(self, within_s: float) -> int:
        """Ask it to end; its exit code."""
        self.running.send_signal(signal.SIGTERM)
        try:
            code = self.running.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it has not ended within {within_s} s: {self.log}") from None
        self._read_log()
        return code

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()
        self._read_log()

    def _read_log(self) -> None:
        if not self._log.closed:
            self._log.seek(0)
            self.log = self._log.read()
            self._log.close()
