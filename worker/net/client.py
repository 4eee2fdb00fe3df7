"""The HTTP client for everything that is not bulk: listings, manifests, catalogues."""

import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpcore
import httpx
import msgspec

from common.errors import HubUnavailable, RateLimited, SourceUnsafe, StageError
from common.plugins import NetworkRules
from worker.net.guard import Guard
from worker.transfer.connection import Credential, Origin, make_tls, proxy_for, wished_wait

_CONNECT_S = 10.0
_SILENCE_S = 30.0
_CALL_S = 120.0
_MOST_BYTES = 64 * 1024 * 1024
_MOST_CALLS = 1000
_READ_BYTES = 256 * 1024
_REDIRECTS = 5

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
        """The body as JSON. Raises HubUnavailable where it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise HubUnavailable("The hub's answer is no JSON") from error


class HubClient:
    """Asks one hub, for as long as one resolve takes. Use as a context manager.

    Every call has an end in time and size; redirects are followed, and each address on the way is judged when the
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
    ) -> None:
        """`home` is the address below which relative ones lie. `trusted` says that the operator has named it."""
        rules = rules or NetworkRules()
        self._home = home.rstrip("/")
        self._guard = Guard(rules=rules, home=Origin.of(home), trusted=trusted)
        self._credential = credential
        self._classify = classify
        self._most_bytes = most_bytes
        self._calls = 0
        self._client = httpx.Client(
            transport=_transport(self._guard, rules, _tls(rules, verify=verify)),
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
            trust_env=False,
            headers={"User-Agent": "modelferry", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

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
        """One call, through all redirects. Raises StageError."""
        url = str(httpx.URL(address if "://" in address else f"{self._home}/{address.lstrip('/')}", params=params))
        deadline = time.monotonic() + _CALL_S
        content = None if document is None else json.dumps(document).encode()
        for _ in range(_REDIRECTS + 1):
            self._calls += 1
            if self._calls > _MOST_CALLS:
                raise SourceUnsafe("The hub's listing has no end")
            reply = self._send(method, url, dict(headers or {}), content, deadline)
            location = reply.headers.get("location")
            if reply.status not in {301, 302, 303, 307, 308} or location is None:
                return self._judged(reply)
            url = self._next(url, location)
            if reply.status == 303:
                method, content = "GET", None
        raise HubUnavailable(f"The hub redirects more than {_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: dict[str, str], content: bytes | None, deadline: float) -> Reply:
        if content is not None:
            headers.setdefault("Content-Type", "application/json")
        if self._credential is not None and self._credential.origin == Origin.of(url):
            headers[self._credential.header] = self._credential.value
        try:
            with self._client.stream(method, url, headers=headers, content=content) as response:
                body = self._read(response, deadline)
                return Reply(response.status_code, dict(response.headers.items()), body, url)
        except httpx.HTTPError as error:
            raise HubUnavailable(f"The hub cannot be reached: {type(error).__name__}") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise SourceUnsafe("The hub names an address that is no http or https URL") from error

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceUnsafe("The hub compresses what it was asked to send as it is")
        body = bytearray()
        for piece in _pieces(response):
            body += piece
            if len(body) > self._most_bytes:
                raise SourceUnsafe("The hub's answer is far too long")
            if time.monotonic() > deadline:
                raise HubUnavailable(f"The hub took more than {_CALL_S:.0f} s for one answer")
        return bytes(body)

    def _next(self, url: str, location: str) -> str:
        target = str(httpx.URL(url).join(location))
        if Origin.of(url).scheme == "https" and Origin.of(target).scheme != "https":
            raise SourceUnsafe("The hub redirects from https to an unencrypted address")
        return target

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


def _pieces(response: httpx.Response) -> Iterable[bytes]:
    return response.iter_raw(_READ_BYTES)


def _tls(rules: NetworkRules, *, verify: bool) -> ssl.SSLContext:
    context = make_tls(rules.ca_bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _transport(guard: Guard, rules: NetworkRules, tls: ssl.SSLContext) -> httpx.BaseTransport:
    """Direct connections are judged by their address. A proxy resolves names itself, so it must filter itself."""
    proxy = rules.proxy or proxy_for(guard.home)
    transport = httpx.HTTPTransport(verify=tls, proxy=proxy, trust_env=False)
    if proxy is None:
        transport._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Guarded(guard))  # noqa: SLF001
    return transport


class _Guarded(httpcore.NetworkBackend):
    """Connects as the library would, and looks at where the connection has led."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        peer = stream.get_extra_info("server_addr")
        try:
            self._guard.check(Origin("https" if port == 443 else "http", host.lower(), port), str(peer[0]))
        except BaseException:
            stream.close()
            raise
        return stream
