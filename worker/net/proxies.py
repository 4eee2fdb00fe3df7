"""Which proxy stands before an origin, if any."""

import urllib.request
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from common.errors import HubUnavailable
from common.plugins import NetworkRules
from worker.net.origin import Origin


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is spoken to without encryption: it passes on plain requests, and opens tunnels for https."""

    host: str
    port: int
    login: dict[str, str] = field(default_factory=dict, repr=False)
    """The header that names us to the proxy."""

    @classmethod
    def at(cls, address: str) -> Self:
        """Read `http://user:password@host:port`. Raises HubUnavailable on anything that is no such address."""
        try:
            parts = urlsplit(address if "//" in address else f"http://{address}")
            if parts.scheme in {"http", ""} and parts.hostname:
                return cls(parts.hostname, parts.port or 80, _login(parts.username, parts.password))
        except ValueError:
            pass
        raise HubUnavailable("The proxy for this hub is not named as http://host:port", hint="See docs/connections.md.")


def proxy_for(origin: Origin, rules: NetworkRules) -> Proxy | None:
    """The hub's own proxy, for wherever its files lead; otherwise the one that the environment names.

    HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read as every tool beside us reads them.
    """
    if rules.proxy:
        return Proxy.at(rules.proxy)
    proxies = urllib.request.getproxies()
    address = proxies.get(origin.scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    return Proxy.at(address)


def _login(username: str | None, password: str | None) -> dict[str, str]:
    if username is None:
        return {}
    login = f"{unquote(username)}:{unquote(password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}
