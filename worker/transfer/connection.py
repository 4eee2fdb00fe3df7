"""HTTP for the byte mover: kept connections, redirects by hand, proxies, TLS, and a credential that stays at home."""

import email.message
import errno
import functools
import http.client
import ipaddress
import re
import socket
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Self
from urllib.parse import quote, unquote, urljoin, urlsplit

import certifi

from common.clock import Clock, utc_now
from common.errors import SourceUnsafe

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_DRAIN_BYTES = 64 * 1024
"""A reply that nobody wants is read to its end, so that its connection can be kept, if it is not longer than this."""
_LONGEST_WAIT_S = 24 * 3600.0
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"
_STALE = (http.client.RemoteDisconnected, ConnectionError)

Headers = Mapping[str, str]


class Broken(Exception):
    """The network failed: no connection, a reset, silence, or less than was announced. Names no URL."""


class Origin(NamedTuple):
    """Where a URL leads to, as far as credentials are concerned."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of an http or https URL. Raises SourceUnsafe on any other."""
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
            if scheme in _DEFAULT_PORTS and host:
                return cls(scheme, host, parts.port or _DEFAULT_PORTS[scheme])
        except ValueError:
            pass
        raise SourceUnsafe("The hub names an address that is no http or https URL")


@dataclass(frozen=True, slots=True)
class Credential:
    """A header that only one origin may see."""

    origin: Origin
    header: str
    value: str = field(repr=False)

    @classmethod
    def bearer(cls, url: str, token: str) -> Self:
        """A token for the origin of `url`."""
        return cls(Origin.of(url), "Authorization", f"Bearer {token}")


@dataclass(frozen=True)
class Network:
    """How this machine reaches others."""

    connect_s: float
    read_s: float
    ca_bundle: str | None = None

    @functools.cached_property
    def tls(self) -> ssl.SSLContext:
        """Made once for all connections, and only if one needs it: it parses every known authority."""
        return make_tls(self.ca_bundle)


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
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", self.headers.get("Content-Range", "").strip())
        if found is None:
            return None
        return int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3])

    @property
    def total(self) -> int | None:
        """How long a 416 says that the file is."""
        found = re.fullmatch(r"bytes \*/(\d+)", self.headers.get("Content-Range", "").strip())
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
        self._open: dict[Origin, http.client.HTTPConnection] = {}
        self._sockets: dict[Origin, socket.socket] = {}

    def get(self, url: str, home: str, headers: Headers) -> Answer:
        """Ask for `url` and follow where it leads. `home` is the hub's own address of the file.

        Raises Broken, or SourceUnsafe where a redirect leads to a place that it must not lead to.
        """
        rest_s = 0.0
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(url, Origin.of(home), headers)
            answer = Answer(self, response, url)
            if Origin.of(url) == Origin.of(home):
                rest_s = max([rest_s, *_spent(response.headers)])
            answer.rest_s = rest_s
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return answer
            answer.finish()
            url = next_url(url, location)
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
            connection = self._open.pop(known, None)
            if connection is not None:
                connection.close()

    def _ask(self, url: str, home: Origin, headers: Headers) -> http.client.HTTPResponse:
        origin = Origin.of(url)
        for kept in (origin in self._open, False):
            try:
                with _network_errors(unless=_STALE if kept else ()):
                    return self._send(url, origin, home, headers)
            except _STALE:
                # The server may close a connection that waits for its next request at any time.
                self.close(origin)
            except Broken:
                self.close(origin)
                raise
        raise AssertionError("the second try always ends the loop")

    def _send(self, url: str, origin: Origin, home: Origin, headers: Headers) -> http.client.HTTPResponse:
        proxy = proxy_for(origin)
        connection = self._open.get(origin) or self._connect(origin, home, proxy)
        sent = {"User-Agent": self._agent, "Accept": "*/*", **headers}
        if self._credential is not None and self._credential.origin == origin:
            sent[self._credential.header] = self._credential.value
        absolute = proxy is not None and origin.scheme == "http"
        if proxy is not None and absolute:
            sent.update(_proxy_login(proxy))
        # http.client asks for `identity` encoding by itself.
        connection.request("GET", _target(url, absolute=absolute), headers=sent)
        return connection.getresponse()

    def _connect(self, origin: Origin, home: Origin, proxy: str | None) -> http.client.HTTPConnection:
        connection = self._make(origin, proxy)
        connection.connect()
        sock = connection.sock
        try:
            if proxy is None and origin != home:
                _refuse_inward(sock, home)
            sock.settimeout(self._network.read_s)
        except BaseException:
            connection.close()
            raise
        self._open[origin] = connection
        # http.client lets go of the socket as soon as the server announces to close it.
        self._sockets[origin] = sock
        return connection

    def _make(self, origin: Origin, proxy: str | None) -> http.client.HTTPConnection:
        host, port, timeout = origin.host, origin.port, self._network.connect_s
        if proxy is not None:
            through = urlsplit(proxy)
            host, port = through.hostname or "", through.port or _DEFAULT_PORTS.get(through.scheme, 80)
        if origin.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._network.tls)
        if proxy is not None:
            connection.set_tunnel(origin.host, origin.port, headers=_proxy_login(proxy))
        return connection


def next_url(url: str, location: str) -> str:
    """Where a redirect leads. Raises SourceUnsafe on anything but http and https, and from https to http."""
    target = urljoin(url, quote(location, safe=_SAFE_IN_URL)).partition("#")[0]
    if Origin.of(url).scheme == "https" and Origin.of(target).scheme != "https":
        raise SourceUnsafe("The hub redirects from https to an unencrypted address")
    return target


def wished_wait(headers: Mapping[str, str] | email.message.Message, now: Clock = utc_now) -> float | None:
    """How many seconds a server asks us to stay away, by `Retry-After` or by `RateLimit: "name";r=0;t=seconds`."""
    waits = _spent(headers)
    asked = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        waits.append(float(asked))
    elif asked:
        # No date, or one without a zone, is as good as no wish.
        with suppress(TypeError, ValueError):
            waits.append((parsedate_to_datetime(asked) - now()).total_seconds())
    return min(max(0.0, *waits), _LONGEST_WAIT_S) if waits else None


def _spent(headers: Mapping[str, str] | email.message.Message) -> list[float]:
    """When each of the server's quotas of which nothing remains is filled again, in seconds from now."""
    told = headers.get("RateLimit") or ""
    return [min(float(found), _LONGEST_WAIT_S) for found in re.findall(r";\s*r=0\s*;\s*t=(\d+)", told)]


def make_tls(ca_bundle: str | None = None) -> ssl.SSLContext:
    """Trust this bundle of authorities; without one the system's (SSL_CERT_FILE and SSL_CERT_DIR say which)."""
    if ca_bundle is not None:
        return ssl.create_default_context(cafile=ca_bundle)
    known = ssl.get_default_verify_paths()
    if known.cafile is None and known.capath is None:
        return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()


def may_lead_inward(peer: str, home_addresses: list[str]) -> bool:
    """Whether a redirect may end at this address: at a private one only if the hub itself has a private one."""
    return _is_public(peer) or not all(_is_public(address) for address in home_addresses)


@contextmanager
def _network_errors(unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the many ways in which a network fails into one."""
    try:
        yield
    except unless:
        raise
    except TimeoutError as error:
        raise Broken("nothing came for too long") from error
    except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:
        # The last two: http.client trips over a response whose socket another thread has shut.
        raise Broken(_in_words(error)) from error


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, "") + f" ({error.strerror})"
    return type(error).__name__


def _target(url: str, *, absolute: bool) -> str:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}{target}" if absolute else target


def proxy_for(origin: Origin) -> str | None:
    # These two read HTTPS_PROXY, HTTP_PROXY and NO_PROXY from the environment, as every tool beside us does.
    proxies = urllib.request.getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    return proxy if "//" in proxy else f"//{proxy}"


def _proxy_login(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}


def _refuse_inward(sock: socket.socket, home: Origin) -> None:
    """Refuse a redirect into a network that only this machine can see. The address is checked, not the name."""
    peer = sock.getpeername()[0]
    if _is_public(peer):
        return
    found = socket.getaddrinfo(home.host, home.port, type=socket.SOCK_STREAM)
    if not may_lead_inward(peer, [str(address[0]) for *_, address in found]):
        raise SourceUnsafe("The hub redirects to an address inside a private network")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_global
