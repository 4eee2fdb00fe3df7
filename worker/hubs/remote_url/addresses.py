"""URLs taken apart and judged: which the operator allows, and where a redirect may lead."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from common.errors import InvalidParameters, SourceUnsafe

_HTTPS_PORT = 443
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_QUERY = re.compile(r"[\x21-\x7e]*", re.ASCII)
_SAFE_IN_SEGMENT = "!$&'()*+,;=:@"
_SHOWN = 200

COMPANIONS = {
    "github.com": frozenset(
        {
            "raw.githubusercontent.com",
            "objects.githubusercontent.com",
            "release-assets.githubusercontent.com",
            "codeload.github.com",
            "media.githubusercontent.com",
        }
    ),
}
"""Hosts that keep what another host offers, and that it redirects to: its own, under other names."""


@dataclass(frozen=True, slots=True)
class Address:
    """An https URL in its one form: host in lower case and ASCII, path in decoded parts, nothing that climbs."""

    host: str
    port: int
    parts: tuple[str, ...]
    query: str = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Take a URL apart. Raises InvalidParameters on one that is not https, has a login, or is ambiguous."""
        split = _split(url)
        if split.scheme != "https":
            raise InvalidParameters(f"Runtime URL must use https scheme: {_shown(split)}")
        if "@" in split.netloc:
            raise InvalidParameters("Runtime URL must not contain embedded credentials")
        if not _QUERY.fullmatch(split.query):
            raise InvalidParameters("Runtime URL has a query that must be percent-encoded")
        return cls(_host(split), _port(split), _parts(split.path), split.query)

    @property
    def url(self) -> str:
        """As it is asked for."""
        return f"{self.place}?{self.query}" if self.query else self.place

    @property
    def place(self) -> str:
        """Without what a query may hold: for people, and to tell one file from another."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _HTTPS_PORT else f":{self.port}"
        return f"https://{host}{port}/" + "/".join(quote(part, safe=_SAFE_IN_SEGMENT) for part in self.parts)

    def beside(self, suffix: str) -> Self:
        """The address of the file whose name is longer by this."""
        *folders, name = self.parts or ("",)
        return type(self)(self.host, self.port, (*folders, name + suffix))


@dataclass(frozen=True, slots=True)
class Allowlist:
    """`host[:port]/path/` prefixes, by whole parts: `example.com/a` allows `/a` and `/a/b`, and not `/ab`."""

    entries: tuple[Address, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Read prefixes, with commas. Raises InvalidParameters on one that is none."""
        entries = (entry.strip() for entry in text.split(","))
        return cls(tuple(cls._entry(entry) for entry in entries if entry))

    @staticmethod
    def _entry(text: str) -> Address:
        try:
            entry = Address.of(text if "://" in text else f"https://{text}")
        except InvalidParameters as error:
            raise InvalidParameters(
                f"EXTERNAL_SOURCES_URL_ALLOWLIST holds {text[:_SHOWN]!r}, which is no host/path/ prefix"
            ) from error
        # A slash at the end of a prefix says nothing that its parts do not say.
        return Address(entry.host, entry.port, tuple(part for part in entry.parts if part))

    def admits(self, address: Address) -> bool:
        """Whether the address is below one of the prefixes."""
        return any(
            (entry.host, entry.port) == (address.host, address.port)
            and address.parts[: len(entry.parts)] == entry.parts
            for entry in self.entries
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """Says which addresses may be asked: all of these lists must admit them."""

    lists: Sequence[Allowlist]

    def check(self, url: str) -> Address:
        """The address that a request names. Raises InvalidParameters."""
        address = Address.of(url)
        if not self.lists or not all(one.entries for one in self.lists):
            raise InvalidParameters(
                "No URL allowlist configured; runtime URL downloads are disabled.",
                hint="An operator can allow addresses with EXTERNAL_SOURCES_URL_ALLOWLIST.",
            )
        if not self.admits(address):
            raise InvalidParameters(
                f"Runtime URL is not on the allowlist: {address.place[:_SHOWN]}",
                hint="An operator can allow addresses with EXTERNAL_SOURCES_URL_ALLOWLIST.",
            )
        return address

    def admits(self, address: Address) -> bool:
        """Whether all lists do."""
        return all(one.admits(address) for one in self.lists)

    def check_redirect(self, start: Address, url: str) -> None:
        """Raise SourceUnsafe unless what began at `start` may go on at this URL."""
        try:
            split = _split(url)
            host, port = _host(split), _port(split)
            is_companion = host in COMPANIONS.get(start.host, ()) and port == start.port == _HTTPS_PORT
            if split.scheme == "https" and "@" not in split.netloc and is_companion:
                return
            if self.admits(Address.of(url)):
                return
        except InvalidParameters as error:
            raise SourceUnsafe("The runtime URL redirects to an address that must not be followed") from error
        raise SourceUnsafe(
            f"The runtime URL redirects to '{host}', to an address that is not on the allowlist",
            hint="An operator can allow it with EXTERNAL_SOURCES_URL_ALLOWLIST.",
        )


def _split(url: str) -> SplitResult:
    """The parts of a URL. What servers and libraries read in different ways is refused before it is read."""
    if "\\" in url or any(char.isspace() or not char.isprintable() for char in url):
        raise InvalidParameters("Runtime URL holds a character that no URL has")
    try:
        return urlsplit(url.partition("#")[0])
    except ValueError as error:
        raise InvalidParameters("Runtime URL is no URL") from error


def _host(split: SplitResult) -> str:
    try:
        host = (split.hostname or "").rstrip(".")
        host = host if ":" in host else host.encode("idna").decode("ascii").lower().rstrip(".")
    except (UnicodeError, ValueError) as error:
        raise InvalidParameters("Runtime URL has no usable host") from error
    if not _HOST.fullmatch(host) or ".." in host:
        raise InvalidParameters("Runtime URL has no usable host")
    return host


def _port(split: SplitResult) -> int:
    try:
        return split.port or _HTTPS_PORT
    except ValueError as error:
        raise InvalidParameters("Runtime URL has no usable port") from error


def _parts(path: str) -> tuple[str, ...]:
    """The decoded parts of a path; the last one is empty where the path ends with a slash."""
    decoded = tuple(_decoded(part) for part in path.removeprefix("/").split("/"))
    for number, part in enumerate(decoded):
        climbs = part in {".", ".."} or (not part and number < len(decoded) - 1)
        if climbs or any(char in "/\\" or not char.isprintable() for char in part) or _ESCAPE.search(part):
            raise InvalidParameters("Runtime URL has a path that can be read in more than one way")
    return decoded


def _decoded(part: str) -> str:
    if _BAD_ESCAPE.search(part):
        raise InvalidParameters("Runtime URL has a path with a broken escape")
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameters("Runtime URL has a path that is no UTF-8") from error


def _shown(split: SplitResult) -> str:
    """A URL for people: no login, no query."""
    host = split.netloc.rpartition("@")[2]
    return f"{split.scheme}://{host}{split.path}"[:_SHOWN]
