"""A receiver of webhooks: keeps what was sent to it, and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook

from tests.fakes.exchange import Reply, Request, reply_with
from tests.fakes.loopback import LoopbackServer, OnLoopback
from tests.fakes.traffic import RequestLog

OK = reply_with(204)


@dataclass(frozen=True)
class Letter:
    """One request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.body)
        return read

    def verified(self, secret: str) -> dict[str, Any]:
        """The content, if the signature holds. Raises WebhookVerificationError otherwise."""
        read: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return read


class WebhookReceiver(OnLoopback):
    """A server on loopback. `answers` are given in turn; after the last one, everything is taken."""

    def __init__(self, *answers: Reply, log: RequestLog | None = None) -> None:
        self.log = log or RequestLog()
        self._server = LoopbackServer("receiver", self._answer, self.log)
        self._answers = list(answers)
        self._letters: list[Letter] = []
        self._lock = threading.Lock()
        self.otherwise: Callable[[Request], Reply] = lambda _request: OK

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook"

    @property
    def letters(self) -> list[Letter]:
        with self._lock:
            return list(self._letters)

    def wait(self, count: int, timeout_s: float = 10.0) -> list[Letter]:
        """The letters, once there are so many."""
        until = time.monotonic() + timeout_s
        while len(letters := self.letters) < count:
            assert time.monotonic() < until, f"{len(letters)} of {count} letters after {timeout_s} s"
            time.sleep(0.01)
        return letters

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            self._letters.append(Letter(request.target, dict(request.headers), request.body))
            given = self._answers.pop(0) if self._answers else None
        return given or self.otherwise(request)
