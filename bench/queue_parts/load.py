"""HTTP clients of one process, cheap enough not to be what is measured: `python -m bench.queue_parts.load PLAN`.

A plan is a file that says what to ask: {"port", "requests": [[...], ...], "every_s", "for_s"}, one list of
[method, path, body] for each client, which it asks in turn, again and again. Without `every_s` a client asks as soon
as it has been answered; with it, at its fixed times, and its waiting time counts from then. The last line is JSON.
"""

import heapq
import json
import re
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SKIPPED_S = 0.5
"""The first moments, in which connections are made and caches filled, count for nothing."""


@dataclass
class Client:
    """One connection that is kept alive."""

    connection: socket.socket
    requests: list[bytes]
    due: float = 0.0
    asked: int = 0
    answers: int = 0
    received: bytearray = field(default_factory=bytearray)

    def ask(self) -> None:
        self.received.clear()
        self.connection.sendall(self.requests[self.asked % len(self.requests)])
        self.asked += 1

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete. Raises SystemExit unless it is a good one."""
        self.received += self.connection.recv(1 << 18)
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return False
        length = _LENGTH.search(self.received, 0, head)
        if not self.received.startswith(b"HTTP/1.1 2") or length is None:
            raise SystemExit(bytes(self.received[:500]).decode(errors="replace"))
        return len(self.received) >= head + 4 + int(length[1])


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    clients = [_client(plan["port"], requests) for requests in plan["requests"]]
    waited, seconds = _drive(clients, plan["every_s"], plan["for_s"])
    answered = sum(client.answers for client in clients)
    told = {"seconds": seconds, "answered": answered, "client_cpu": time.process_time() / seconds, "waited_s": waited}
    print(json.dumps(told))


def _drive(clients: list[Client], every_s: float | None, for_s: float) -> tuple[list[float], float]:
    """How long each answer took, and how long all that went on."""
    began = time.monotonic()
    counted_from, until = began + _SKIPPED_S, began + _SKIPPED_S + for_s
    waited: list[float] = []
    waiting = selectors.DefaultSelector()
    for number, client in enumerate(clients):
        waiting.register(client.connection, selectors.EVENT_READ, number)
    schedule = [(began + (every_s or 0.0) * n / len(clients), n) for n in range(len(clients))]
    while (now := time.monotonic()) < until:
        while schedule and schedule[0][0] <= now:
            due, number = heapq.heappop(schedule)
            clients[number].due = due if every_s else time.monotonic()
            clients[number].ask()
        left = min(until, schedule[0][0]) - now if schedule else until - now
        for key, _ in waiting.select(max(0.0, left)):
            asking = clients[key.data]
            if not asking.answered():
                continue
            asking.answers += 1
            now = time.monotonic()
            if now >= counted_from:
                waited.append(now - asking.due)
            if every_s:
                heapq.heappush(schedule, (asking.due + every_s, key.data))
            else:
                asking.due = now
                asking.ask()
    return waited, time.monotonic() - counted_from


def _client(port: int, requests: list[list[str]]) -> Client:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(connection, [_request(*request) for request in requests])


def _request(method: str, path: str, body: str) -> bytes:
    content = body.encode()
    told = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n".encode() + content


if __name__ == "__main__":
    main()
