"""Which addresses may be spoken to. Names are resolved here, judged by their addresses, and not resolved again."""

import ipaddress
import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from common.errors import SourceUnsafe
from common.plugins import NetworkRules
from worker.net.origin import Origin

_HINT = "An operator can allow the host with MODELFERRY_PRIVATE_HOSTS."
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Where a network that speaks IPv6 only shows the hosts of IPv4, each in the last four bytes."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""What a socket is made for, and what it connects to."""


class Depth(IntEnum):
    """How far inside an address lies, as seen from the internet."""

    PUBLIC = 0
    PRIVATE = 1
    """A network of one house: 10.0.0.0/8, fc00::/7, ..."""
    LOOPBACK = 2
    """This very machine."""
    SPECIAL = 3
    """What no hub has: link-local (the metadata of a cloud's machine), multicast, unspecified, reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Judges addresses for one hub.

    `home` is the hub's own origin. Where it is `trusted`, because the operator has named it, it may be anywhere, and
    what it redirects to may lie as far inside as it does itself, but no further.
    """

    rules: NetworkRules
    home: Origin
    trusted: bool = True

    def addresses(self, origin: Origin) -> list[Address]:
        """Every address of an origin, to connect to. Raises SourceUnsafe if one of them is not allowed, and OSError."""
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            self.check(origin, str(address[0]))
        return [(family, address) for family, _, _, _, address in found]

    def check(self, origin: Origin, address: str) -> None:
        """Raise SourceUnsafe unless a connection for `origin` may end at this address."""
        depth = depth_of(address)
        if depth is Depth.PUBLIC or self._is_allowed(origin):
            return
        if self.trusted and (origin == self.home or depth <= min(self._depth_of_home(), Depth.LOOPBACK)):
            return
        raise SourceUnsafe(f"'{origin.host}' is inside a private network, which this hub may not lead to", hint=_HINT)

    def check_name(self, origin: Origin) -> None:
        """Judge what the name alone tells, where a proxy resolves it. Raises SourceUnsafe."""
        literal = literal_address(origin.host)
        if literal is not None:
            self.check(origin, literal)

    def _is_allowed(self, origin: Origin) -> bool:
        return bool({origin.host, f"{origin.host}:{origin.port}", origin.authority} & self.rules.private_hosts)

    def _depth_of_home(self) -> Depth:
        literal = literal_address(self.home.host)
        if literal is not None:
            return depth_of(literal)
        try:
            found = socket.getaddrinfo(self.home.host, self.home.port, type=socket.SOCK_STREAM)
        except OSError:
            return Depth.PUBLIC
        return max((depth_of(str(address[0])) for *_, address in found), default=Depth.PUBLIC)


def depth_of(address: str) -> Depth:
    """How far inside an address lies. One of IPv4 that is written as one of IPv6 is judged as what it is."""
    ip = _as_meant(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_loopback:
        return Depth.LOOPBACK
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved or _is_wrapped(ip):
        return Depth.SPECIAL
    local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return Depth.PUBLIC if ip.is_global and not local else Depth.PRIVATE


def literal_address(host: str) -> str | None:
    """The address that a host name is by itself, in any of the spellings that a resolver takes; None for a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        # Such as 127.1, 2130706433 and 0x7f000001. It would also take an address with words after it.
        return None if any(letter.isspace() for letter in host) else socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _as_meant(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip


def _is_wrapped(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this is a tunnel to an address of IPv4, as nobody uses them any more."""
    return isinstance(ip, ipaddress.IPv6Address) and (ip.sixtofour is not None or ip.teredo is not None)
