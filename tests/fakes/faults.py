"""Makes a stand-in misbehave on purpose: a fault says which requests it meets and what it does to them."""
# ruff: noqa: ARG002 - every kind of fault is shown the whole exchange and looks at what it needs

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tests.fakes.exchange import (
    HangUp,
    Pace,
    Pause,
    Piece,
    Reply,
    Request,
    read,
    reply_with,
    reply_with_json,
    split,
)
from tests.fakes.loopback import Answer
from tests.fakes.traffic import Match

ANY_REQUEST = Match()


class FaultKind:
    """What a fault does. Either method may return None: this exchange is none of its business."""

    def meet(self, request: Request) -> Request | Reply | None:
        """Change the request before it is answered, or answer it."""
        return None

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        """Change the reply before it is sent."""
        return None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of trouble for the requests that fit, after the first `skip` of them, `count` times or for ever."""

    kind: FaultKind
    match: Match = ANY_REQUEST
    count: int | None = None
    skip: int = 0


@dataclass(slots=True)
class ArmedFault:
    """A fault at work. `hits` is how often it has struck."""

    fault: Fault
    hits: int = 0
    met: int = 0


@dataclass(slots=True)
class FaultPlan:
    """The faults of one stand-in. Safe to change while it serves."""

    _armed: list[ArmedFault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> ArmedFault:
        armed = ArmedFault(fault)
        with self._lock:
            self._armed.append(armed)
        return armed

    def remove(self, armed: ArmedFault) -> None:
        with self._lock:
            self._armed.remove(armed)

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def around(self, answer: Answer) -> Answer:
        def answer_with_faults(request: Request) -> Reply:
            armed = self._fitting(request)
            met = self._meet(armed, request)
            reply = met if isinstance(met, Reply) else answer(met)
            return self._spoil(armed, request, reply)

        return answer_with_faults

    def _fitting(self, request: Request) -> list[ArmedFault]:
        with self._lock:
            armed = list(self._armed)
        facts = (request.origin, request.method, request.path, request.headers.get("range"))
        return [one for one in armed if one.fault.match.fits(*facts)]

    def _meet(self, armed: list[ArmedFault], request: Request) -> Request | Reply:
        for one in armed:
            met = one.fault.kind.meet(request)
            if met is None or not self._strikes(one):
                continue
            if isinstance(met, Reply):
                return met
            request = met
        return request

    def _spoil(self, armed: list[ArmedFault], request: Request, reply: Reply) -> Reply:
        for one in armed:
            spoilt = one.fault.kind.spoil(request, reply)
            if spoilt is not None and self._strikes(one):
                reply = spoilt
        return reply

    def _strikes(self, one: ArmedFault) -> bool:
        with self._lock:
            one.met += 1
            used_up = one.fault.count is not None and one.hits >= one.fault.count
            if one.met <= one.fault.skip or used_up:
                return False
            one.hits += 1
            return True


@dataclass(frozen=True)
class Status(FaultKind):
    """Answer with a status of its own, such as 429 or 503."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "refused on purpose"

    def meet(self, request: Request) -> Reply:
        headers = {"X-Error-Message": self.message, **self.headers}
        return reply_with_json({"error": self.message}, headers, self.status)


def rate_limited(seconds: int, *, header: str = "RateLimit", resource: str = "resolvers") -> Status:
    """A 429 that tells in one of the two known ways when to come back: `RateLimit` or `Retry-After`."""
    if header == "Retry-After":
        return Status(429, {"Retry-After": str(seconds)})
    policy = f'"fixed window";"{resource}";q=5000;w=300'
    return Status(429, {"RateLimit": f'"{resource}";r=0;t={seconds}', "RateLimit-Policy": policy})


@dataclass(frozen=True)
class Drop(FaultKind):
    """Close the connection before the first byte of the reply."""

    reset: bool = False

    def meet(self, request: Request) -> Reply:
        return Reply(status=0, pieces=(HangUp(self.reset),))


@dataclass(frozen=True)
class RedirectTo(FaultKind):
    """Send the client to another address."""

    location: str
    status: int = 302

    def meet(self, request: Request) -> Reply:
        return reply_with(self.status, headers={"Location": self.location})


@dataclass(frozen=True)
class RedirectLoop(FaultKind):
    """Send the client to where it already is."""

    relative: bool = False

    def meet(self, request: Request) -> Reply:
        location = request.target if self.relative else f"http://{request.address}{request.target}"
        return reply_with(302, headers={"Location": location})


@dataclass(frozen=True)
class ExpireSignedUrl(FaultKind):
    """Refuse each signed URL after it has been used so many times. Match it on the origin that serves them."""

    uses: int
    _used: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def meet(self, request: Request) -> Reply | None:
        with self._lock:
            self._used[request.target] += 1
            if self._used[request.target] <= self.uses:
                return None
        return reply_with(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")


@dataclass(frozen=True)
class IgnoreRange(FaultKind):
    """Answer a ranged request with the whole file and status 200."""

    def meet(self, request: Request) -> Request | None:
        return request.without_header("Range") if "range" in request.headers else None


@dataclass(frozen=True)
class WrongContentRange(FaultKind):
    """Claim that the bytes come from elsewhere: moved by `shift`, or with a header of its own."""

    shift: int = 1
    value: str | None = None

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        told = reply.header("Content-Range")
        if reply.status != 206 or told is None:
            return None
        span, _, total = told.removeprefix("bytes ").partition("/")
        start, _, last = span.partition("-")
        moved = f"bytes {int(start) + self.shift}-{int(last) + self.shift}/{total}"
        return reply.with_header("Content-Range", self.value or moved)


@dataclass(frozen=True)
class OmitHeader(FaultKind):
    name: str

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        return reply.without_header(self.name) if reply.header(self.name) is not None else None


@dataclass(frozen=True)
class SetHeader(FaultKind):
    name: str
    value: str

    def spoil(self, request: Request, reply: Reply) -> Reply:
        return reply.with_header(self.name, self.value)


@dataclass(frozen=True)
class Cut(FaultKind):
    """Close the connection after so many bytes of a body that is longer."""

    at: int
    reset: bool = False

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        if not _has_body_beyond(request, reply, self.at):
            return None
        head, _ = split(reply.pieces, self.at)
        return replace(reply, pieces=(*head, HangUp(self.reset)))


@dataclass(frozen=True)
class Stall(FaultKind):
    """Say nothing for a while: before the headers, or after `at` bytes of the body."""

    seconds: float
    at: int | None = None

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        if self.at is None:
            return replace(reply, delay_s=reply.delay_s + self.seconds)
        if not _has_body_beyond(request, reply, self.at):
            return None
        head, tail = split(reply.pieces, self.at)
        return replace(reply, pieces=(*head, Pause(self.seconds), *tail))


@dataclass(frozen=True)
class Trickle(FaultKind):
    """Send the body in drops."""

    chunk_bytes: int = 1
    interval_s: float = 0.1

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        paced = replace(reply, pace=Pace(self.chunk_bytes, self.interval_s))
        return paced if _has_body_beyond(request, reply, 0) else None


@dataclass(frozen=True)
class Throttle(FaultKind):
    """Send the body at a steady rate."""

    bytes_per_s: int

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        paced = replace(reply, pace=Pace.of_rate(self.bytes_per_s))
        return paced if _has_body_beyond(request, reply, 0) else None


@dataclass(frozen=True)
class FlipBit(FaultKind):
    """Change one bit of the file, at an offset in the file, in each reply that carries that byte."""

    offset: int
    bit: int = 0

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        at = self.offset - reply.offset
        if at < 0 or not _has_body_beyond(request, reply, at):
            return None
        head, rest = split(reply.pieces, at)
        victim, tail = split(rest, 1)
        flipped = bytes([_joined(victim)[0] ^ (1 << self.bit)])
        return replace(reply, pieces=(*head, flipped, *tail))


@dataclass(frozen=True)
class Gzip(FaultKind):
    """Compress the body although nobody asked for it."""

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        if not _has_body_beyond(request, reply, 0):
            return None
        packed = gzip.compress(_joined(reply.pieces))
        sized = reply.with_header("Content-Encoding", "gzip").with_header("Content-Length", str(len(packed)))
        return replace(sized, pieces=(packed,))


@dataclass(frozen=True)
class RewriteJson(FaultKind):
    """Change a JSON document before it is sent."""

    rewrite: Callable[[object], object]

    def spoil(self, request: Request, reply: Reply) -> Reply | None:
        if not (reply.header("Content-Type") or "").startswith("application/json"):
            return None
        body = json.dumps(self.rewrite(json.loads(_joined(reply.pieces)))).encode()
        return replace(reply.with_header("Content-Length", str(len(body))), pieces=(body,))


def _has_body_beyond(request: Request, reply: Reply, at: int) -> bool:
    return request.method != "HEAD" and reply.body_bytes > at


def _joined(pieces: tuple[Piece, ...]) -> bytes:
    return b"".join(read(piece) for piece in pieces)
