"""Where a URL leads to, and the credentials that only one such place may see."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple, Self
from urllib.parse import quote, urljoin, urlsplit

from common.errors import SourceUnsafe, TokenInvalid

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w.:-]{1,253}", re.ASCII)
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"


class Origin(NamedTuple):
    """Scheme, host and port: what two URLs must share to be of one place."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of an http or https URL. Raises SourceUnsafe on any other."""
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme.lower(), _plain(parts.hostname or "")
            if scheme in _DEFAULT_PORTS and _HOST.fullmatch(host):
                return cls(scheme, host, parts.port or _DEFAULT_PORTS[scheme])
        except ValueError:
            pass
        raise SourceUnsafe("The hub names an address that is no http or https URL")

    @property
    def authority(self) -> str:
        """Host and port as a URL and a Host header have them: without the port that goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credential:
    """A header that only one origin may see. Raises TokenInvalid where the value cannot stand in a header."""

    origin: Origin
    header: str
    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not (self.value.isascii() and self.value.isprintable()):
            # Whoever is told of it by the library for HTTP would be shown the value.
            raise TokenInvalid("The token for this hub holds characters that no token has")

    @classmethod
    def bearer(cls, url: str, token: str) -> Self:
        """A token for the origin of `url`."""
        return cls(Origin.of(url), "Authorization", f"Bearer {token}")


def _plain(host: str) -> str:
    """The host as a resolver knows it. Digits and dots of other scripts are addresses, too. Raises ValueError."""
    return (host if host.isascii() else host.encode("idna").decode()).lower().rstrip(".")


def as_sent(url: str) -> str:
    """The URL as it may stand in a request: whatever is not written in ASCII, or is a space, is escaped."""
    return quote(url, safe=_SAFE_IN_URL)


def next_url(url: str, location: str) -> str:
    """Where a redirect leads. Raises SourceUnsafe on anything but http and https, and from https to http."""
    try:
        target = urljoin(url, as_sent(location)).partition("#")[0]
    except ValueError as error:
        raise SourceUnsafe("The hub names an address that is no http or https URL") from error
    if Origin.of(url).scheme == "https" and Origin.of(target).scheme != "https":
        raise SourceUnsafe("The hub redirects from https to an unencrypted address")
    return target


def request_target(url: str, *, absolute: bool) -> str:
    """What stands in the request line: path and query, after the origin where a proxy is asked. No login, ever."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    origin = Origin.of(url)
    return f"{origin.scheme}://{origin.authority}{target}" if absolute else target
