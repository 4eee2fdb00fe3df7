"""One connection at work: it fetches the blocks it is given, and bears with a hub that fails, lies or says no."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    RateLimited,
    SourceNotFound,
    SourcePrivateOrMissing,
    StageError,
    TransferStalled,
)
from worker.net.connection import Answer, Broken, Connection
from worker.net.origin import Origin
from worker.net.waits import wished_wait
from worker.transfer.content import UNKNOWN_END, Block, Content
from worker.transfer.pace import Pace, Patience
from worker.transfer.throttle import Throttle

log = logging.getLogger(__name__)

BUFFER_BYTES = 1024 * 1024

_APART_S = 0.3
"""After a silence lines come back one by one, not as one."""

Classify = Callable[[int, Mapping[str, str]], StageError | None]
"""What a hub means by a status and its headers (in lower case), where trying again is of no use.

None leaves it to the usual rules."""

_EXPIRED = frozenset({401, 403, 404, 410})
_BUSY = frozenset({408, 425, 429})


class Trouble(Exception):
    """One try failed. `error` is what it means if the next ones fail too."""

    def __init__(self, error: StageError, *, wait_s: float | None = None, lie: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s
        self.lie = lie
        """The server answered, but what it says cannot be true: a few tries tell enough."""


class _Stopped(Exception):
    """The transfer has ended meanwhile."""


@dataclass(slots=True, kw_only=True)
class Terms:
    """What all lines of a transfer share."""

    patience: Patience
    pace: Pace
    throttle: Throttle
    classify: Classify
    stop: threading.Event
    trouble: StageError | None = None
    """What went wrong last."""
    refused_until: float = 0.0
    """The hub has refused one of our requests, and wants none from anybody before this moment."""


class Line:
    """Fetches one block after another. `received` only grows."""

    def __init__(self, connection: Connection, terms: Terms) -> None:
        self.connection = connection
        self.received = 0
        self.block: Block | None = None
        self._terms = terms
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._idle_s = 0.0
        self._idle_since: float | None = None

    @property
    def idle_s(self) -> float:
        """For how long in all it has read nothing because it must not: there is a limit on the bandwidth."""
        since = self._idle_since
        return self._idle_s + (0.0 if since is None else time.monotonic() - since)

    def probe(self, content: Content) -> None:
        """Learn the size of a content and whether it can be fetched in ranges. Raises StageError."""
        self._persist(lambda: self._probe(content), lambda: True)

    def fetch(self, block: Block) -> None:
        """Bring a block, or as much of it as is needed. Raises StageError when there is no hope left."""
        self.block = block
        try:
            self._persist(lambda: self._pull(block), lambda: block.at < block.stop)
        finally:
            self.block = None

    def _persist(self, pull: Callable[[], bool], wanted: Callable[[], bool]) -> None:
        """Pull until it is done. Failures count while they follow each other without a gain between them."""
        failures = 0
        while wanted() and not self._terms.stop.is_set():
            received = self.received
            try:
                if pull():
                    return
            except _Stopped:
                return
            except Trouble as trouble:
                failures = 1 if self.received - received >= self._terms.patience.worth_bytes else failures + 1
                self._bear(trouble, failures)

    def _bear(self, trouble: Trouble, failures: int) -> None:
        """Wait for the next try, or give up."""
        terms, patience = self._terms, self._terms.patience
        terms.trouble = trouble.error
        if terms.stop.is_set():
            return
        if failures >= (patience.lies if trouble.lie else patience.tries):
            raise trouble.error
        wait_s = max(patience.wait_s(failures), trouble.wait_s or 0)
        if isinstance(trouble.error, RateLimited):
            terms.refused_until = max(terms.refused_until, time.monotonic() + wait_s)
            terms.pace.hush(terms.refused_until)
        if wait_s > patience.longest_s:
            raise trouble.error
        event = "transfer.rate_limited" if isinstance(trouble.error, RateLimited) else "transfer.retried"
        told = {"reason": str(trouble.error), "failures": failures, "wait_s": round(wait_s, 1)}
        log.warning(event, extra=told)
        terms.stop.wait(wait_s)

    def _probe(self, content: Content) -> bool:
        answer = self._get(content, content.url, {"Range": "bytes=0-0"})
        answer.finish()
        etag = _strong(answer.headers.get("ETag"))
        if answer.status == 416 and answer.total == 0:
            content.identify(etag, 0, single=True)
            return True
        content.etag = etag
        self._judge(answer, content)
        size = answer.length if answer.status == 200 else (answer.span or (0, 0, None))[2]
        # Ranges of a file that may change unnoticed between two requests do not make one file.
        unsafe = content.digest is None and etag is None
        content.identify(etag, content.size if size is None else size, single=unsafe or answer.status == 200)
        content.route = answer.url
        return True

    def _pull(self, block: Block) -> bool:
        """Fetch as much of the block as one reply brings. True where nothing is left to do for this line."""
        content = block.content
        answer = self._ask(block)
        if answer is None:
            return True
        try:
            self._judge(answer, content)
            if answer.status == 200 and not block.is_all and not content.widen(block):
                return True
            before = block.at
            self._pour(answer, block)
            if block.at == before < block.stop:
                raise Trouble(HubUnavailable(f"{content}: the hub sends nothing"))
        except Broken as broken:
            raise Trouble(TransferStalled(f"{content}: {broken}")) from broken
        finally:
            answer.finish()
        return block.at == block.stop

    def _ask(self, block: Block) -> Answer | None:
        """The reply to a request for the rest of the block; None where somebody else has become busy with it."""
        content = block.content
        headers = {}
        if not block.is_all:
            headers["Range"] = f"bytes={block.at}-" + ("" if block.stop == UNKNOWN_END else str(block.stop - 1))
            if content.digest is None and content.etag is not None:
                headers["If-Range"] = content.etag
        route = content.route
        if route is not None:
            return self._get(content, route, headers)
        with content.asking:
            if content.is_superseded(block) or self._terms.stop.is_set():
                return None
            answer = self._get(content, content.route or content.url, headers)
            if answer.status in {200, 206}:
                content.route = answer.url
            return answer

    def _get(self, content: Content, url: str, headers: Mapping[str, str]) -> Answer:
        self._await_leave(content, asks_hub=Origin.of(url) == Origin.of(content.url))
        try:
            answer = self.connection.get(url, content.url, headers)
        except Broken as broken:
            raise Trouble(HubUnavailable(f"{content}: {broken}")) from broken
        now, pace = time.monotonic(), self._terms.pace
        if answer.status == 429:
            # At once: other lines may be waiting for this very answer, to ask anew.
            pace.hush(now + (wished_wait(answer.headers) or self._terms.patience.first_s))
        elif answer.rest_s and answer.status < 400:
            pace.spare(now + answer.rest_s)
        return answer

    def _await_leave(self, content: Content, *, asks_hub: bool) -> None:
        """Make no request while the hub wants none. It may say so again, and for longer, while we wait."""
        pace, stop, longest_s = self._terms.pace, self._terms.stop, self._terms.patience.longest_s
        while not stop.is_set():
            now = time.monotonic()
            rest_s = pace.rest_s(now, asks_hub=asks_hub)
            if rest_s <= 0:
                return
            if asks_hub and pace.spent_until - now > longest_s:
                raise RateLimited(f"{content}: the hub grants no request for a while", wait_s=pace.spent_until - now)
            stop.wait(rest_s + random.uniform(0, _APART_S))  # noqa: S311 # nosec B311 # no secret hangs on it
        raise _Stopped

    def _judge(self, answer: Answer, content: Content) -> None:
        """Raise unless the reply carries bytes that can be true."""
        status = answer.status
        if status not in {200, 206}:
            raise self._refusal(answer, content)
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise _lie(content, "it is sent compressed, which was not asked for")
        if status == 200 and content.digest is None and _strong(answer.headers.get("ETag")) != content.etag:
            raise HubUnavailable(f"{content}: the file has changed at the hub while it was fetched")
        total = answer.length
        if status == 206:
            total = answer.span[2] if answer.span is not None else None
        if total is not None and content.size is not None and total != content.size:
            raise _lie(content, f"{content.size} bytes were expected, but the file has {total}")

    def _refusal(self, answer: Answer, content: Content) -> Exception:
        status, wish = answer.status, wished_wait(answer.headers)
        if status in {429, 503}:
            self._terms.pace.ease(time.monotonic())
        if status == 429:
            return Trouble(RateLimited(f"{content}: the hub asks for fewer requests (429)", wait_s=wish), wait_s=wish)
        if status in _BUSY or status >= 500:
            return Trouble(HubUnavailable(f"{content}: the hub answered {status}", wait_s=wish), wait_s=wish)
        if status in _EXPIRED and Origin.of(answer.url) != Origin.of(content.url):
            if content.route == answer.url:
                content.route = None
            return Trouble(HubUnavailable(f"{content}: the storage behind the hub answered {status}"))
        if status == 416:
            return _lie(content, f"{content.size} bytes were expected, but the hub knows no such range of the file")
        error = self._terms.classify(status, {name.lower(): value for name, value in answer.headers.items()})
        return error if error is not None else _by_status(status, content)

    def _pour(self, answer: Answer, block: Block) -> None:
        """Write the body where it belongs. What is there already (a server that starts at 0 again) is skipped."""
        content, part, stop = block.content, block.content.part, self._terms.stop
        position = self._first_offset(answer, block)
        while block.at < block.stop:
            count = self._read(answer, block.stop - position)
            if stop.is_set():
                return
            if count == 0:
                self._end_early(answer, block)
                return
            position += count
            fresh = position - block.at
            if fresh > 0:
                part.write(self._buffer[max(0, count - fresh) : count], block.at)
                block.at = position
                self.received += fresh
        if answer.length is None and answer.read_into(self._buffer[:1]):
            raise _lie(content, f"{content.size} bytes were expected, but more are sent")

    def _read(self, answer: Answer, most: int) -> int:
        """Read a piece of the body into the buffer, as soon as the limit on the bandwidth allows it."""
        throttle = self._terms.throttle
        if throttle.bytes_per_s is None:
            return answer.read_into(self._buffer[:most])
        with self._idle():
            allowed = throttle.take(min(most, len(self._buffer)))
        count = 0
        try:
            count = answer.read_into(self._buffer[:allowed])
        finally:
            throttle.give_back(allowed - count)
        return count

    @contextmanager
    def _idle(self) -> Iterator[None]:
        since = self._idle_since = time.monotonic()
        try:
            yield
        finally:
            self._idle_since = None
            self._idle_s += time.monotonic() - since

    def _first_offset(self, answer: Answer, block: Block) -> int:
        if answer.status == 200:
            return 0
        span = answer.span
        if span is None or span[0] != block.at or span[1] <= span[0]:
            raise _lie(block.content, "the hub sends another range than was asked for")
        return block.at

    def _end_early(self, answer: Answer, block: Block) -> None:
        """The body has ended in good order before the block did."""
        content = block.content
        if content.size is None:
            content.end_with(block)
        elif answer.length is None:
            raise _lie(content, f"{content.size} bytes were expected, but the body ends after {block.at}")


def _lie(content: Content, reason: str) -> Trouble:
    return Trouble(IntegrityMismatch(f"{content}: {reason}"), lie=True)


def _by_status(status: int, content: Content) -> Exception:
    if status in {401, 403}:
        return SourcePrivateOrMissing(f"{content}: the hub refuses it ({status})")
    if status in {404, 410}:
        return SourceNotFound(f"{content}: the hub does not have it ({status})")
    return Trouble(HubUnavailable(f"{content}: the hub answered {status}"))


def _strong(etag: str | None) -> str | None:
    """An ETag that promises the same bytes; a weak one does not."""
    return etag if etag and not etag.startswith("W/") else None
