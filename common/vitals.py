"""The port at which a process tells how it is: `/healthz`, `/readyz` and `/metrics`. It asks nobody for a key."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from common.settings import SettingsError

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 16
_SILENCE_S = 5.0
_CALL_S = 20.0
"""No question and answer last longer together, however slowly somebody writes or reads."""
_TRY_AGAIN_S = 2.0
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"

Lacks = Mapping[str, str | None]
"""Part -> what is wrong with it, or None."""


class Pulses:
    """Signs of life of the loops of one process. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._within_s: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def expect(self, name: str, within_s: float) -> None:
        """From now on this loop has to beat at least so often."""
        with self._lock:
            self._within_s[name], self._last[name] = within_s, self._clock()

    def beat(self, name: str) -> None:
        """Say that this loop moves."""
        with self._lock:
            if name in self._within_s:
                self._last[name] = self._clock()

    def dismiss(self, name: str) -> None:
        """Expect nothing of this loop any more: it has ended in order."""
        with self._lock:
            self._within_s.pop(name, None)

    def lacks(self) -> dict[str, str | None]:
        """Each loop, and whether it has stood still for too long."""
        now = self._clock()
        with self._lock:
            silent = {name: (now - self._last[name], within_s) for name, within_s in self._within_s.items()}
        return {
            name: f"It has not moved for {silent_s:.0f} s." if silent_s > within_s else None
            for name, (silent_s, within_s) in silent.items()
        }


class Vitals(NamedTuple):
    """What a process can be asked. Each is called in a thread of its own, and answers within some seconds."""

    alive: Callable[[], Lacks]
    """What has stopped moving, and will not move again by itself."""
    ready: Callable[[], Lacks]
    """What keeps it from doing its work just now."""
    metrics: Callable[[], bytes]
    metrics_type: str = _TEXT


class VitalsServer:
    """Answers in threads of its own, so that it can tell when everything else hangs.

    With `shared`, several processes have one port: who finds it taken tries again, and takes it over when it is free.
    """

    def __init__(self, host: str, port: int, vitals: Vitals, *, shared: bool = False) -> None:
        self._address = (host, port)
        self._vitals = vitals
        self._shared = shared
        self._server: _Server | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vitals", daemon=True)

    def start(self) -> None:
        """Answer until stopped. Raises SettingsError where nobody can listen at the address."""
        try:
            self._server = _Server(self._address, self._vitals)
        except OSError as error:
            if not self._shared:
                host, port = self._address
                reason = error.strerror or type(error).__name__
                raise SettingsError(f"MODELFERRY_METRICS_PORT={port}: cannot listen at {host}: {reason}") from error
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more. Safe to repeat, and for one that was never started."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_SILENCE_S)

    def _run(self) -> None:
        while self._server is None:
            if self._ended.wait(_TRY_AGAIN_S):
                return
            with suppress(OSError):
                self._server = _Server(self._address, self._vitals)
        with self._server as server:
            while not self._ended.is_set():
                server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    timeout = 0.2
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], vitals: Vitals) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.vitals = vitals
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(address, _Answerer)

    def server_bind(self) -> None:
        """As it is, without asking a name server what this machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: object, client_address: object) -> bool:  # noqa: ARG002 - the library's signature
        """Whoever comes when too many are there already is sent away."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, which ends in time."""
        deadline = threading.Timer(_CALL_S, _break_off, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that has gone early."""


class _Answerer(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        """The three paths, and nothing else."""
        path = self.path.partition("?")[0]
        try:
            status, kind, body = _answer(self.server.vitals, path)
        except Exception:
            log.exception("vitals.broken", extra={"path": path[:40]})
            status, kind, body = 500, _TEXT, b"The log says what has gone wrong.\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Who answers; which Python does is nobody's business."""
        return "modelferry"

    def log_message(self, *_: object) -> None:
        """Nothing: a probe comes every few seconds."""


def _answer(vitals: Vitals, path: str) -> tuple[int, str, bytes]:
    match path:
        case "/metrics":
            return 200, vitals.metrics_type, vitals.metrics()
        case "/healthz":
            return _told("alive", vitals.alive())
        case "/readyz":
            return _told("ready", vitals.ready())
        case _:
            return 404, _TEXT, b"Ask for /metrics, /healthz or /readyz.\n"


def _told(word: str, lacks: Lacks) -> tuple[int, str, bytes]:
    whole = not any(lacks.values())
    parts = {part: lack or "ok" for part, lack in lacks.items()}
    body = json.dumps({"status": word if whole else f"not {word}", "parts": parts}).encode()
    return 200 if whole else 503, _JSON, body


def _break_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
