"""The HTTP client for everything that is not bulk: listings, manifests, catalogues."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from common.errors import HubUnavailable, RateLimited, SourceUnsafe, StageError
from common.plugins import NetworkRules
from worker.net.connection import Answer, Broken, Connection, Follows, Network, Question, anywhere
from worker.net.origin import Credential, Origin, as_sent
from worker.net.waits import wished_wait

_CONNECT_S = 10.0
_SILENCE_S = 30.0
_CALL_S = 120.0
_MOST_BYTES = 16 * 1024 * 1024
_MOST_VALUES = 500_000
_MOST_CALLS = 1000
_READ_BYTES = 256 * 1024
_ABORT_EVERY_S = 0.1

NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are no JSON, or not the JSON that was wanted: a hub may send anything."""

Classify = Callable[[int, Mapping[str, str]], StageError | None]
"""What a hub means by a status of 4xx and its headers (in lower case). None leaves it to the caller."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. Header names are in lower case; `url` is where it came from in the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self) -> Any:
        """The body as JSON. Raises HubUnavailable where it is none, and SourceUnsafe as `check_extent` does."""
        check_extent(self.body)
        try:
            return msgspec.json.decode(self.body)
        except NO_JSON as error:
            raise HubUnavailable("The hub's answer is no JSON") from error


def check_extent(body: bytes) -> None:
    """Raise SourceUnsafe where JSON holds so many values that they would fill the memory, short as their text is."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise SourceUnsafe("The hub's answer holds far too many values")


class HubClient:
    """Asks one hub, for as long as one resolve takes. Use as a context manager, from one thread.

    Every call has an end in time and size; redirects are followed, and each address on the way is judged before a
    connection to it is made; the credential is shown to its own origin only. 429 and 5xx raise RateLimited and
    HubUnavailable; what `classify` makes of other statuses of 4xx is raised; the rest is for the caller to judge.
    """

    def __init__(
        self,
        home: str,
        rules: NetworkRules | None = None,
        *,
        credential: Credential | None = None,
        classify: Classify = lambda _status, _headers: None,
        trusted: bool = True,
        verify: bool = True,
        most_bytes: int = _MOST_BYTES,
        most_calls: int = _MOST_CALLS,
        call_s: float = _CALL_S,
        follows: Follows = anywhere,
    ) -> None:
        """`home` is the address below which relative ones lie. `trusted` says that the operator has named it.

        `follows` raises where a redirect to an address must not be followed.

        Raises SourceUnsafe where it is no http or https URL.
        """
        self._home = home.rstrip("/")
        self._origin = Origin.of(self._home)
        rules = rules or NetworkRules()
        network = Network(_CONNECT_S, _SILENCE_S, rules, trusted=trusted, verify=verify, follows=follows)
        self._connection = Connection(network, credential)
        self._classify = classify
        self._most_bytes = most_bytes
        self._most_calls = most_calls
        self._call_s = call_s
        self._calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(
        self, address: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """GET a path below `home`, or a whole URL."""
        return self.ask("GET", address, params=params, headers=headers)

    def head(self, address: str, *, headers: Mapping[str, str] | None = None) -> Reply:
        """HEAD a path below `home`, or a whole URL."""
        return self.ask("HEAD", address, headers=headers)

    def post(self, address: str, document: object, *, headers: Mapping[str, str] | None = None) -> Reply:
        """POST a JSON document to a path below `home`, or to a whole URL."""
        return self.ask("POST", address, headers=headers, document=document)

    def ask(
        self,
        method: str,
        address: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        document: object = None,
    ) -> Reply:
        """One call, through all redirects. `document` is sent as JSON, or as it is where it is bytes.

        A list among the `params` is repeated, and what is None is left out. Raises StageError.
        """
        content, sent = None, dict(headers or {})
        if document is not None:
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        self._calls += 1
        if self._calls > self._most_calls:
            raise SourceUnsafe("The hub's listing has no end")
        url = self._url(address, params or {})
        if self._origin.scheme == "https" and Origin.of(url).scheme != "https":
            raise SourceUnsafe("The hub leads from https to an unencrypted address")
        return self._judged(self._call(Question(method, url, self._home, sent, content)))

    def _url(self, address: str, params: Mapping[str, Any]) -> str:
        url = as_sent(address if "://" in address else f"{self._home}/{address.lstrip('/')}")
        query = urlencode({name: value for name, value in params.items() if value is not None}, doseq=True)
        return f"{url}{'&' if '?' in url else '?'}{query}" if query else url

    def _call(self, question: Question) -> Reply:
        deadline = time.monotonic() + self._call_s
        try:
            with ended_at(deadline, self._connection):
                answer = self._connection.ask(question)
                body = self._read(answer)
            # What was broken off may look like a short answer.
            self._check(deadline)
        except Broken as broken:
            self._connection.close()
            self._check(deadline)
            raise HubUnavailable(f"The hub cannot be reached: {broken}") from broken
        except BaseException:
            # The rest of this answer must not be taken for the start of the next one.
            self._connection.close()
            raise
        return Reply(answer.status, _joined(answer.headers), body, answer.url)

    def _check(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise HubUnavailable(f"The hub took more than {self._call_s:.0f} s for one answer")

    def _read(self, answer: Answer) -> bytes:
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise SourceUnsafe("The hub compresses what it was asked to send as it is")
        body, buffer = bytearray(), memoryview(bytearray(_READ_BYTES))
        while count := answer.read_into(buffer):
            body += buffer[:count]
            if len(body) > self._most_bytes:
                raise SourceUnsafe("The hub's answer is far too long")
        answer.finish()
        return bytes(body)

    def _judged(self, reply: Reply) -> Reply:
        wait_s = wished_wait(reply.headers)
        if reply.status == 429:
            raise RateLimited("The hub asks for fewer requests (429)", wait_s=wait_s)
        if reply.status == 408 or reply.status >= 500:
            raise HubUnavailable(f"The hub answered {reply.status}", wait_s=wait_s)
        error = self._classify(reply.status, reply.headers) if reply.status >= 400 else None
        if error is not None:
            raise error
        return reply


def _joined(headers: Message) -> dict[str, str]:
    """Each header once, the values of one that came several times with commas, as HTTP means them."""
    names = {name.lower() for name in headers}
    return {name: ", ".join(headers.get_all(name, [])) for name in names}


@contextmanager
def ended_at(deadline: float, connection: Connection) -> Iterator[None]:
    """Break off whatever is under way at the deadline: a server that sends a byte now and then defies every timeout."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(deadline - time.monotonic()):
            while not done.wait(_ABORT_EVERY_S):
                connection.abort()

    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
