"""HTTP to hubs: kept connections, redirects by hand, proxies, TLS, and a credential that stays at home."""

import email.message
import errno
import functools
import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from common.errors import SourceUnsafe
from common.plugins import NetworkRules
from worker.net.guard import Address, Guard
from worker.net.origin import Credential, Origin, next_url, request_target
from worker.net.proxies import Proxy, proxy_for
from worker.net.tls import make_tls
from worker.net.waits import spent_quotas

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DRAIN_BYTES = 64 * 1024
"""A reply that nobody wants is read to its end, so that its connection can be kept, if it is not longer than this."""
_STALE = (http.client.RemoteDisconnected, ConnectionError)
_NEUTRAL = frozenset({"accept", "accept-language", "range", "if-range", "if-none-match", "user-agent"})
"""Headers that may go along to another origin. What else a caller sends may be a secret."""

Headers = Mapping[str, str]

Follows = Callable[[str], None]
"""Raises SourceUnsafe where a redirect to this URL must not be followed."""


def anywhere(url: str) -> None:
    """A redirect may lead to every address that the guard lets pass."""


class Broken(Exception):
    """The network failed: no connection, a reset, silence, or less than was announced. Names no URL."""


@dataclass(frozen=True)
class Network:
    """How this machine reaches one hub."""

    connect_s: float
    read_s: float
    rules: NetworkRules = field(default_factory=NetworkRules)
    trusted: bool = True
    """Whether the operator has named the hub's own address."""
    verify: bool = True
    follows: Follows = anywhere
    redirects: bool = True
    """Whether redirects are followed. Where they are not, they are answers as others are."""

    @functools.cached_property
    def tls(self) -> ssl.SSLContext:
        """Made once for all connections, and only if one needs it: it parses every known authority."""
        return make_tls(self.rules.ca_bundle, verify=self.verify)

    def guard(self, home: Origin) -> Guard:
        """Judges where a hub at `home` may lead."""
        return Guard(rules=self.rules, home=home, trusted=self.trusted)


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent. `home` is the hub's own address of what is asked for."""

    method: str
    url: str
    home: str
    headers: Headers = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)

    def led_to(self, location: str, status: int) -> "Question":
        """What to ask after a redirect. Raises SourceUnsafe where it must not be followed."""
        url = next_url(self.url, location)
        method, content = self.method, self.content
        if status == 303 or (status in {301, 302} and method == "POST"):
            method, content = ("HEAD" if method == "HEAD" else "GET"), None
        headers = dict(self.headers)
        if content is None:
            headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        if Origin.of(url) != Origin.of(self.url):
            if content is not None:
                raise SourceUnsafe("The hub redirects what was sent to it to another place")
            headers = {name: value for name, value in headers.items() if name.lower() in _NEUTRAL}
        return Question(method, url, self.home, headers, content)


class Answer:
    """The head of a reply, and its body, piece by piece. `url` is where it came from in the end."""

    def __init__(self, connection: "Connection", response: http.client.HTTPResponse, url: str) -> None:
        self.status = response.status
        self.headers: email.message.Message = response.headers
        self.url = url
        self.length = response.length
        """How long the body is, or None where the server does not say."""
        self.rest_s = 0.0
        """For how long the hub grants no further request, although it has granted this one."""
        self._connection = connection
        self._response = response
        self._left = response.length

    @property
    def span(self) -> tuple[int, int, int | None] | None:
        """What a Content-Range says: start, stop and total, None for an unknown total."""
        found = re.fullmatch(
            r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", self.headers.get("Content-Range", "").strip()
        )
        if found is None:
            return None
        return int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3])

    @property
    def total(self) -> int | None:
        """How long a 416 says that the file is."""
        found = re.fullmatch(r"bytes \*/(\d{1,18})", self.headers.get("Content-Range", "").strip())
        return int(found[1]) if found else None

    def read_into(self, view: memoryview) -> int:
        """Wait for some of the body; 0 is its end. Raises Broken."""
        with _network_errors():
            if self._left is None:
                return self._response.readinto(view)
            # Past HTTPResponse, which would wait until the buffer is full and lose it all on an error.
            count = self._response.fp.readinto1(view[: self._left]) if self._left else 0
            if count == 0 and self._left:
                raise Broken(f"the connection ended {self._left} bytes early")
            self._left -= count
            return count

    def finish(self) -> None:
        """Keep the connection if nothing is left on it, or little; close it otherwise."""
        if self._left is not None and 0 < self._left <= _DRAIN_BYTES:
            scrap = memoryview(bytearray(self._left))
            with suppress(Broken):
                while self._left:
                    self.read_into(scrap)
        whole = self._left == 0 or (self._left is None and self._response.isclosed())
        self._response.close()
        if not whole or self._response.will_close:
            self._connection.close(Origin.of(self.url))


class Connection:
    """What one thread talks to hubs through: at most one open connection to each origin."""

    def __init__(self, network: Network, credential: Credential | None, agent: str = "modelferry") -> None:
        self._network = network
        self._credential = credential
        self._agent = agent
        self._open: dict[Origin, tuple[Guard, http.client.HTTPConnection]] = {}
        self._sockets: dict[Origin, socket.socket] = {}

    def get(self, url: str, home: str, headers: Headers) -> Answer:
        """GET `url` and follow where it leads. `home` is the hub's own address of the file.

        Raises Broken, or SourceUnsafe where it leads to a place that it must not lead to.
        """
        return self.ask(Question("GET", url, home, headers))

    def ask(self, question: Question) -> Answer:
        """Ask, and follow where it leads. Raises Broken, and SourceUnsafe as `get` does."""
        guard = self._network.guard(Origin.of(question.home))
        rest_s = 0.0
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(question, guard)
            answer = Answer(self, response, question.url)
            if response.status == 407:
                self.close()
                raise Broken("the proxy wants another login (407)")
            if Origin.of(question.url) == guard.home:
                rest_s = max([rest_s, *spent_quotas(response.headers)])
            answer.rest_s = rest_s
            location = response.headers.get("Location")
            if not self._network.redirects or response.status not in _REDIRECTS or location is None:
                return answer
            answer.finish()
            question = question.led_to(location, response.status)
            self._network.follows(question.url)
        raise Broken(f"the hub redirects more than {MAX_REDIRECTS} times")

    def abort(self) -> None:
        """End whatever the owning thread waits for, from another thread."""
        for sock in list(self._sockets.values()):
            # It may have ended by itself. SSLSocket.shutdown would pull the TLS state away under the thread that reads.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self, origin: Origin | None = None) -> None:
        """Close the connection to one origin, or all of them."""
        for known in [origin] if origin is not None else list(self._open):
            self._sockets.pop(known, None)
            _, connection = self._open.pop(known, (None, None))
            if connection is not None:
                connection.close()

    def _ask(self, question: Question, guard: Guard) -> http.client.HTTPResponse:
        origin = Origin.of(question.url)
        if question.content is not None or self._open.get(origin, (guard,))[0] != guard:
            # Nobody knows whether a hub has acted on what was sent to a connection that it was about to close. And
            # what one hub may connect to, another may not.
            self.close(origin)
        for kept in (origin in self._open, False):
            try:
                with _network_errors(unless=_STALE if kept else ()):
                    response = self._send(question, origin, guard)
            except _STALE:
                # The server may close a connection that waits for its next request at any time.
                self.close(origin)
            except Broken:
                self.close(origin)
                self._tell(None)
                raise
            else:
                self._tell(response.status)
                return response
        raise AssertionError("the second try always ends the loop")

    def _tell(self, status: int | None) -> None:
        if self._network.rules.heard is not None:
            self._network.rules.heard(status)

    def _send(self, question: Question, origin: Origin, guard: Guard) -> http.client.HTTPResponse:
        proxy = proxy_for(origin, self._network.rules)
        connection = self._open[origin][1] if origin in self._open else self._connect(origin, guard, proxy)
        sent = {"User-Agent": self._agent, "Accept": "*/*", **question.headers}
        if self._credential is not None and self._credential.origin == origin:
            sent[self._credential.header] = self._credential.value
        absolute = proxy is not None and origin.scheme == "http"
        if proxy is not None and absolute:
            sent.update(proxy.login)
        sent.update({"Host": origin.authority, "Accept-Encoding": "identity"})
        target = request_target(question.url, absolute=absolute)
        connection.request(question.method, target, body=question.content, headers=sent)
        return connection.getresponse()

    def _connect(self, origin: Origin, guard: Guard, proxy: Proxy | None) -> http.client.HTTPConnection:
        """Open a connection, to nothing that the guard refuses. Raises SourceUnsafe and OSError."""
        try:
            if proxy is None:
                connection = self._connect_directly(origin, guard)
            else:
                guard.check_name(origin)
                connection = self._connect_through(proxy, origin)
        except BaseException:
            self._sockets.pop(origin, None)
            raise
        # It would connect anew by itself, to wherever the name leads by then, and without TLS.
        connection.auto_open = 0
        # http.client lets go of the socket as soon as the server announces to close it.
        self._sockets[origin] = connection.sock
        connection.sock.settimeout(self._network.read_s)
        self._open[origin] = (guard, connection)
        return connection

    def _connect_directly(self, origin: Origin, guard: Guard) -> http.client.HTTPConnection:
        sock = self._reach(origin, guard.addresses(origin))
        connection = http.client.HTTPConnection(origin.host, origin.port)
        connection.sock = sock
        if origin.scheme == "http":
            return connection
        try:
            secured = self._network.tls.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
            connection.sock = self._sockets[origin] = secured
            secured.do_handshake()
        except BaseException:
            connection.close()
            raise
        return connection

    def _reach(self, origin: Origin, addresses: list[Address]) -> socket.socket:
        """Connect to the first of these addresses that answers. Raises OSError of the last one that does not."""
        failure = OSError("the name has no address")
        for family, address in addresses:
            sock = self._sockets[origin] = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(self._network.connect_s)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure

    def _connect_through(self, proxy: Proxy, origin: Origin) -> http.client.HTTPConnection:
        timeout = self._network.connect_s
        if origin.scheme == "http":
            connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout)
        else:
            connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=self._network.tls)
            connection.set_tunnel(origin.host, origin.port, headers=proxy.login)
        try:
            connection.connect()
        except BaseException as error:
            connection.close()
            if type(error) is OSError and error.errno is None:
                # So http.client says that the proxy has answered with something else than 200.
                raise Broken("the proxy opens no tunnel to it") from None
            raise
        return connection


@contextmanager
def _network_errors(unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the many ways in which a network fails into one."""
    try:
        yield
    except unless:
        raise
    except TimeoutError as error:
        raise Broken("nothing came for too long") from error
    except OSError as error:
        raise Broken(_in_words(error)) from error
    except (http.client.HTTPException, AttributeError, ValueError) as error:
        # The last two: http.client trips over a response whose socket another thread has shut. What it says itself
        # may show a URL or a header, and is told to nobody.
        raise Broken(_in_words(error)) from None


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as we do"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return errno.errorcode.get(error.errno, "") + f" ({error.strerror})"
    return type(error).__name__
