"""Which addresses may be spoken to. The address is judged when the connection is made, and not the name."""

import ipaddress
import socket
from dataclasses import dataclass

from common.errors import SourceUnsafe
from common.plugins import NetworkRules
from worker.transfer.connection import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Judges addresses for one hub.

    `home` is the hub's own origin. Where it is `trusted`, because the operator has named it, it may be anywhere, and
    where it is inside a private network, what it redirects to may be there as well.
    """

    rules: NetworkRules
    home: Origin
    trusted: bool = True

    def check(self, origin: Origin, address: str) -> None:
        """Raise SourceUnsafe unless a connection for `origin` may end at this address."""
        if is_public(address) or self._is_allowed(origin):
            return
        if self.trusted and (origin == self.home or self._home_is_private()):
            return
        raise SourceUnsafe(
            f"'{origin.host}' is inside a private network, which this hub may not lead to",
            hint="An operator can allow the host with MODELFERRY_PRIVATE_HOSTS.",
        )

    def _is_allowed(self, origin: Origin) -> bool:
        return bool({origin.host, f"{origin.host}:{origin.port}"} & self.rules.private_hosts)

    def _home_is_private(self) -> bool:
        try:
            found = socket.getaddrinfo(self.home.host, self.home.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return not all(is_public(str(address[0])) for *_, address in found)


def is_public(address: str) -> bool:
    """Whether everyone in the internet means the same machine by this address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_global
