"""Remembers every request that a stand-in received, so that a test can ask what went over the wire."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TextIO

from tests.fakes.exchange import Request, range_start

RangeStart = int | Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are meant. A path is a glob over the decoded path or its last parts, or a pattern to search for."""

    path: str | re.Pattern[str] | None = None
    origin: str | None = None
    method: str | None = None
    range_start: RangeStart | None = None

    def fits(self, origin: str, method: str, path: str, range_header: str | None) -> bool:
        return (
            self.origin in (None, origin)
            and self.method in (None, method)
            and self._fits_path(path)
            and self._fits_range(range_header)
        )

    def _fits_path(self, path: str) -> bool:
        if self.path is None:
            return True
        if isinstance(self.path, re.Pattern):
            return self.path.search(path) is not None
        return fnmatchcase(path, self.path) or fnmatchcase(path, f"*/{self.path}")

    def _fits_range(self, header: str | None) -> bool:
        if self.range_start is None:
            return True
        start = range_start(header)
        if start is None:
            return False
        return self.range_start(start) if callable(self.range_start) else self.range_start == start


@dataclass(slots=True)
class RecordedRequest:
    """One request and how far its reply has come; a request that is still being answered goes on changing."""

    origin: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    started_s: float
    status: int = 0
    bytes_sent: int = 0
    finished: bool = False
    seconds: float = 0.0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def range_start(self) -> int | None:
        return range_start(self.range)

    @property
    def had_authorization(self) -> bool:
        return "authorization" in self.headers


@dataclass(slots=True)
class RequestLog:
    """All requests in the order of their arrival. Safe to read and clear while servers write to it."""

    access_log: TextIO | None = None
    _recorded: list[RecordedRequest] = field(default_factory=list)
    _open: Counter[str] = field(default_factory=Counter)
    _peak: Counter[str] = field(default_factory=Counter)
    _in_flight: Counter[str] = field(default_factory=Counter)
    _peak_in_flight: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._snapshot())

    def __iter__(self) -> Iterator[RecordedRequest]:
        return iter(self._snapshot())

    def __getitem__(self, index: int) -> RecordedRequest:
        return self._snapshot()[index]

    def matching(
        self,
        path: str | re.Pattern[str] | None = None,
        *,
        origin: str | None = None,
        method: str | None = None,
        range_start: RangeStart | None = None,
        status: int | None = None,
    ) -> list[RecordedRequest]:
        match = Match(path, origin, method, range_start)
        return [
            request
            for request in self._snapshot()
            if match.fits(request.origin, request.method, request.path, request.range)
            and status in (None, request.status)
        ]

    def count(
        self,
        path: str | re.Pattern[str] | None = None,
        *,
        origin: str | None = None,
        method: str | None = None,
        range_start: RangeStart | None = None,
        status: int | None = None,
    ) -> int:
        found = self.matching(path, origin=origin, method=method, range_start=range_start, status=status)
        return len(found)

    def bytes_served(self, path: str | re.Pattern[str] | None = None, *, origin: str | None = None) -> int:
        """Body bytes handed to the kernel, which may be a little more than the client took."""
        return sum(request.bytes_sent for request in self.matching(path, origin=origin))

    def peak_connections(self, origin: str) -> int:
        """How many connections to this origin were open at once, since the last clear."""
        with self._lock:
            return self._peak[origin]

    def peak_in_flight(self, origin: str) -> int:
        """How many requests of this origin were being answered at once, since the last clear."""
        with self._lock:
            return self._peak_in_flight[origin]

    def clear(self) -> None:
        with self._lock:
            self._recorded.clear()
            self._peak = Counter(self._open)
            self._peak_in_flight = Counter(self._in_flight)

    def connected(self, origin: str) -> None:
        with self._lock:
            self._open[origin] += 1
            self._peak[origin] = max(self._peak[origin], self._open[origin])

    def disconnected(self, origin: str) -> None:
        with self._lock:
            self._open[origin] -= 1

    def received(self, request: Request) -> RecordedRequest:
        recorded = RecordedRequest(
            origin=request.origin,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            started_s=time.monotonic(),
        )
        with self._lock:
            self._recorded.append(recorded)
            self._in_flight[request.origin] += 1
            self._peak_in_flight[request.origin] = max(
                self._peak_in_flight[request.origin], self._in_flight[request.origin]
            )
        return recorded

    def sent(self, recorded: RecordedRequest, count: int) -> None:
        with self._lock:
            recorded.bytes_sent += count

    def finished(self, recorded: RecordedRequest) -> None:
        with self._lock:
            recorded.finished = True
            recorded.seconds = time.monotonic() - recorded.started_s
            self._in_flight[recorded.origin] -= 1
            if self.access_log is not None:
                self.access_log.write(json.dumps(_access_line(recorded)) + "\n")
                self.access_log.flush()

    def _snapshot(self) -> list[RecordedRequest]:
        with self._lock:
            return list(self._recorded)


def _access_line(recorded: RecordedRequest) -> dict[str, object]:
    return {
        "origin": recorded.origin,
        "method": recorded.method,
        "path": recorded.path,
        "range": recorded.range,
        "authorization": recorded.had_authorization,
        "status": recorded.status,
        "bytes": recorded.bytes_sent,
        "started_s": round(recorded.started_s, 3),
        "seconds": round(recorded.seconds, 6),
    }
