"""Notes who did what: every change with how it ended, every refusal, and who looks at keys or at these notes."""

import asyncio
import logging
import re
import time
from collections import deque

from litestar.concurrency import sync_to_thread
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.status_codes import HTTP_401_UNAUTHORIZED
from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send
from msgspec import structs

from api.access.callers import NOBODY
from api.access.door import operation_of
from api.access.rate import address_of, home_of
from api.caller import SAFE
from api.problems import ERROR_CODE, status_of
from common.access import Caller, Way
from common.errors import Forbidden, ServiceUnavailable, TooManyRequests, Unauthenticated
from common.store.audit import AuditEntry, AuditStore

log = logging.getLogger(__name__)

LEFT_OUT = "refusals_left_out"
"""The operation of a row that says how many others are missing."""

REFUSALS_PER_MINUTE = 10
"""So many refusals of one caller, or of one address of nobody, have rows of their own."""

_ALL_REFUSALS_PER_MINUTE = 600
"""And so many of all together: addresses cost nothing."""

_READS = frozenset({"list_audit", "audit_trail_page", "list_keys", "get_key"})
"""What is noted although it changes nothing."""
_ASKS = frozenset({"plan_models", "list_hub_models", "plan", "mcp"})
"""What changes nothing although its method might: questions with a body. What MCP asks for is noted by itself."""
_REFUSED = frozenset({error.code for error in (Unauthenticated, Forbidden, TooManyRequests)})
_LONGEST = 300
_KEY = re.compile(r"(mf_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
_MOST_OWED = 10_000
_TRY_AGAIN_S = 2.0
_MINUTE_S = 60.0


class Trail:
    """Writes rows: those of requests that end at one moment in one transaction, in the order of their ends."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._noise = _Noise()
        self._waiting: deque[tuple[AuditEntry, float]] = deque()
        self._turn = asyncio.Lock()
        self._again_at = 0.0
        """Of a database that is away: when to try it again. Until then nobody waits for it here."""

    async def note(self, entry: AuditEntry) -> None:
        """Return when the row is on disk. Where the database is away, keep it for the next time and say so in the log.

        A refusal too many of one caller in one minute is only counted.
        """
        if _is_refusal(entry) and not self._noise.may_pass(entry):
            return
        self._waiting.append((entry, time.monotonic()))
        await self._write()

    async def tidy(self) -> None:
        """Write what has been counted only, where its minute is over. Cheap: call it with every request."""
        told = self._noise.told()
        self._waiting.extend((entry, time.monotonic()) for entry in told)
        if told or self._again_at:
            await self._write()

    async def close(self) -> None:
        """Write what is still owed, as far as the database can be reached."""
        self._waiting.extend((entry, time.monotonic()) for entry in self._noise.told(at_once=True))
        self._again_at = 0.0
        await self._write()

    async def _write(self) -> None:
        # Whoever has the turn writes what all have brought: the others find nothing left to do.
        async with self._turn:
            if not self._waiting or time.monotonic() < self._again_at:
                return
            rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                await sync_to_thread(self._store.add, [(entry, time.monotonic() - made) for entry, made in rows])
            except ServiceUnavailable:
                self._owe(rows)
            else:
                self._again_at = 0.0

    def _owe(self, rows: list[tuple[AuditEntry, float]]) -> None:
        self._waiting.extendleft(reversed(rows))
        self._again_at = time.monotonic() + _TRY_AGAIN_S
        log.warning("audit.owed", extra={"count": len(self._waiting)})
        while len(self._waiting) > _MOST_OWED:
            entry, _ = self._waiting.popleft()
            log.error("audit.lost", extra={f"audit_{name}": value for name, value in structs.asdict(entry).items()})


class _Noise:
    """Keeps refusals from filling the table: after so many of one source in a minute, the others are counted."""

    def __init__(self) -> None:
        self._refused: dict[str, int] = {}
        self._last: dict[str, AuditEntry] = {}
        self._passed = 0
        self._until = 0.0

    def may_pass(self, entry: AuditEntry) -> bool:
        """Whether this refusal gets a row of its own."""
        if not self._refused:
            self._until = time.monotonic() + _MINUTE_S
        source = home_of(entry.address) if entry.way is Way.NOBODY else f"{entry.way} {entry.caller}"
        if source not in self._refused and len(self._refused) >= _ALL_REFUSALS_PER_MINUTE:
            source = "others"
        self._refused[source] = self._refused.get(source, 0) + 1
        if self._refused[source] <= REFUSALS_PER_MINUTE and self._passed < _ALL_REFUSALS_PER_MINUTE:
            self._passed += 1
            return True
        self._left_out(source, entry)
        return False

    def told(self, *, at_once: bool = False) -> list[AuditEntry]:
        """One row for each source of which refusals were left out, once the minute is over."""
        if not self._refused or not (at_once or time.monotonic() >= self._until):
            return []
        told = [structs.replace(entry, target=f"{_number(entry)} more") for entry in self._last.values()]
        self._refused, self._last, self._passed = {}, {}, 0
        return told

    def _left_out(self, source: str, entry: AuditEntry) -> None:
        known = self._last.get(source)
        number = _number(known) + 1 if known is not None else 1
        told = structs.replace(entry, operation=LEFT_OUT, target=str(number))
        self._last[source] = structs.replace(told, address="", caller="nobody") if source == "others" else told


def _number(entry: AuditEntry) -> int:
    return int(entry.target)


class Audited(ASGIMiddleware):
    """Notes requests when it is known how they end, before their answer goes out. Stands outside the door."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Whoever reads an answer can rely on the row, but for a database that has gone away in between."""
        noted = False

        async def told(message: Message) -> None:
            nonlocal noted
            if message["type"] == "http.response.start" and not noted:
                noted = True
                await self._note(scope, message["status"], _code_in(message))
            await send(message)

        await self._trail.tidy()
        try:
            await next_app(scope, receive, told)
        except Exception as error:
            # What the door refuses becomes an answer further outside.
            if not noted:
                await self._note(scope, status_of(error), getattr(error, "code", None))
            raise

    async def _note(self, scope: Scope, status: int, code: str | None) -> None:
        operation = operation_of(scope)
        if code in _REFUSED or _is_noted(operation, str(scope.get("method", ""))):
            await self._trail.note(_entry(scope, operation, status, code))


def _is_refusal(entry: AuditEntry) -> bool:
    # A page has no code in its answer: that of the login is the one that can be refused for what it was sent.
    return entry.code in _REFUSED or entry.status == HTTP_401_UNAUTHORIZED


def _is_noted(operation: str, method: str) -> bool:
    return operation in _READS or (method not in SAFE and operation not in _ASKS)


def _entry(scope: Scope, operation: str, status: int, code: str | None) -> AuditEntry:
    caller: Caller = scope["state"].get("caller", NOBODY)
    return AuditEntry(
        caller=_line(caller.name),
        way=caller.way,
        role=caller.role,
        address=_line(address_of(scope)),
        operation=operation[:64],
        target=_told_target(scope["path"]),
        status=status,
        code=code,
        request_id=str(scope["state"].get("request_id", ""))[:64],
    )


def _told_target(path: str) -> str:
    """The path as it may be shown: in one line, not too long, and without a key that somebody has put there."""
    return _line(_KEY.sub(r"\1***", path[: 2 * _LONGEST]))


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST])


def _code_in(message: HTTPResponseStartEvent) -> str | None:
    code = Headers(message["headers"]).get(ERROR_CODE)
    return code[:64] if code else None
