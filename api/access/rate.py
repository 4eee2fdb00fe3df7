"""How often callers may ask: counted for all replicas together through Redis, and in each alone while it is away."""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from typing import Any, NamedTuple

from limits import parse
from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.access.door import operation_of
from api.access.needs import PUBLIC
from api.caller import HANDED_ON
from common.access import Caller, Way, digest_of
from common.errors import TooManyRequests

log = logging.getLogger(__name__)

UNCOUNTED = PUBLIC | {"get_gate"}
"""What is asked again and again by those who only look whether something is there."""

_PATIENCE_S = 0.25
_LOOK_AGAIN_S = 1.0
_CONNECTIONS = 32
_AWAY = (StorageError, OSError, TimeoutError)
"""How a Redis that cannot be asked shows itself."""
_MOST_COUNTED = 50_000
_IPV6_HOME = 64
"""After so many bits of an address of IPv6 begins what one customer of a network has to himself."""


class Rate(NamedTuple):
    """So many requests in so many seconds."""

    most: int
    window_s: int

    @classmethod
    def of(cls, text: str) -> "Rate":
        """As the settings write it, such as `600/minute`."""
        item = parse(text)
        return cls(item.amount, item.get_expiry())


class Standing(NamedTuple):
    """How a caller stands at one moment."""

    rate: Rate
    asked: int
    """In this window, with the request that is being looked at."""
    resets_in_s: int
    """Seconds until the next window begins."""

    @property
    def left(self) -> int:
        """How many more requests this window takes."""
        return max(0, self.rate.most - self.asked)

    @property
    def is_over(self) -> bool:
        """Whether this request is one too many."""
        return self.asked > self.rate.most


class Counts:
    """Counts in windows that begin with the clock: at the full minute, hour and so on.

    Redis counts for all replicas in one step (`limits` adds and asks how many there are with one script), so the
    answer can say truly how many are left; windows that slide would need a second question to know that, and two
    replicas could be told the same number. The price: twice the rate is possible around the turn of a window.

    All this happens on the event loop, with the library's asynchronous storage: it waits for a socket, not in a thread.
    A Redis that is away costs the first request a quarter of a second at most. From then on this process counts alone,
    and looks once a second, beside the requests, whether Redis is back. No request fails for any of that.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._shared: RedisStorage | None = None
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._looking: asyncio.Task[None] | None = None
        self._alone = OwnCounts()

    async def standing(self, name: str, rate: Rate) -> Standing:
        """Count one request of this name. Of two windows the later one knows nothing of the earlier."""
        now = time.time()
        window = int(now // rate.window_s)
        asked = await self._counted(f"{name}:{window}", rate.window_s)
        return Standing(rate, asked, max(1, ceil((window + 1) * rate.window_s - now)))

    async def close(self) -> None:
        """Leave Redis."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        if self._shared is not None:
            await _client(self._shared).aclose()
            self._shared = None

    async def _counted(self, name: str, window_s: int) -> int:
        if self._looking is None:
            async with self._places:
                # Redis may have been left while this request waited for its place.
                if self._looking is None:
                    try:
                        return await self._asked(name, window_s)
                    except _AWAY as error:
                        self._leave(error)
        return self._alone.add(name, window_s)

    async def _asked(self, name: str, window_s: int) -> int:
        shared = self._storage()
        async with asyncio.timeout(_PATIENCE_S):
            return await shared.incr(name, window_s)

    def _storage(self) -> RedisStorage:
        if self._shared is None:
            url = self._url.replace("unix://", "redis+unix://", 1) if self._url.startswith("unix:") else self._url
            options: dict[str, Any] = {
                "socket_timeout": _PATIENCE_S,
                "socket_connect_timeout": _PATIENCE_S,
                # Nothing is tried again: the next request is the next try.
                "retry": None,
            }
            self._shared = RedisStorage(
                url, wrap_exceptions=True, implementation="redispy", key_prefix="modelferry:rate", **options
            )
        return self._shared

    def _leave(self, error: Exception) -> None:
        if self._looking is None:
            reason = type(error.__cause__ or error).__name__
            log.warning("rate.counted_alone", extra={"reason": reason})
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            with suppress(*_AWAY):
                await self._asked("back", 1)
                break
        self._looking = None
        log.info("rate.counted_together")


class OwnCounts:
    """Counts of this process, in memory that has an end. Use it on the event loop alone."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._ends: dict[str, float] = {}
        self._tidy_at = 0.0

    def add(self, name: str, lasts_s: float) -> int:
        """One more. Returns how many there are now; they are forgotten together."""
        now = time.monotonic()
        if now >= self._tidy_at or len(self._counts) > _MOST_COUNTED:
            self._tidy(now)
        self._counts[name] += 1
        self._ends.setdefault(name, now + lasts_s)
        return self._counts[name]

    def _tidy(self, now: float) -> None:
        self._tidy_at = now + 10.0
        kept = {} if len(self._counts) > _MOST_COUNTED else {name: end for name, end in self._ends.items() if end > now}
        self._counts = Counter({name: self._counts[name] for name in kept})
        self._ends = kept


class RateLimited(ASGIMiddleware):
    """Refuses callers who ask more often than the operator allows, with TooManyRequests. Stands behind the door."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, counts: Counts, rate: str) -> None:
        """An empty rate is no limit."""
        self._counts = counts
        self._rate = Rate.of(rate) if rate else None

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Tells in every answer that was counted how the caller stands."""
        if self._rate is None or _is_uncounted(scope):
            await next_app(scope, receive, send)
            return
        standing = await self._counts.standing(counted_as(scope["state"]["caller"], scope), self._rate)
        if standing.is_over:
            raise TooManyRequests(
                f"More than {self._rate.most} requests within {self._rate.window_s} s: "
                f"ask again in {standing.resets_in_s} s.",
                standing.resets_in_s,
                most=self._rate.most,
            )

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_headers(standing)]
            await send(message)

        await next_app(scope, receive, told)


def _is_uncounted(scope: Scope) -> bool:
    # What this process asks itself for somebody was counted when that somebody asked.
    return operation_of(scope) in UNCOUNTED or scope.get("method") == "OPTIONS" or HANDED_ON in scope


def counted_as(caller: Caller, scope: Scope) -> str:
    """Under which name a caller is counted: its own where it has one, else where it asks from."""
    if caller.key_id is not None:
        return f"key:{caller.key_id}"
    if caller.way is Way.TOKEN:
        return f"token:{digest_of(caller.name)}"
    if caller.way is Way.SETTING:
        return "setting"
    return f"address:{home_of(address_of(scope))}"


def address_of(scope: Scope) -> str:
    """Where a request comes from; empty where nobody knows, as over a Unix socket."""
    client = scope.get("client")
    return client[0] if client is not None else ""


def home_of(address: str) -> str:
    """The address, or of IPv6 the network whose every address one and the same client can use."""
    with suppress(ValueError):
        known = ip_address(address)
        if isinstance(known, IPv6Address):
            return str(known.ipv4_mapped or IPv6Network((int(known), _IPV6_HOME), strict=False))
    return address


def _headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    return [
        (b"ratelimit-limit", str(standing.rate.most).encode()),
        (b"ratelimit-remaining", str(standing.left).encode()),
        (b"ratelimit-reset", str(standing.resets_in_s).encode()),
    ]


def _client(storage: RedisStorage) -> Any:
    # The library has no way to close what it has opened.
    return storage.bridge.storage  # type: ignore[attr-defined]
