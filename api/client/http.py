"""What both clients tell httpx."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import httpx

from api.client.call import Answer, Call
from api.client.errors import Unreachable
from api.client.stream import Stream
from common.settings import client_key

V = TypeVar("V")


class Bearer(httpx.Auth):
    """Sends an API key. At a redirect to another origin httpx leaves it out."""

    def __init__(self, api_key: str) -> None:
        """Raises ValueError, which does not repeat the key."""
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("An API key consists of printable ASCII characters, without spaces")
        self._header = f"Bearer {api_key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """One request, with the key."""
        request.headers["Authorization"] = self._header
        yield request


def options(address: str, timeout_s: float, tenant: str | None, api_key: str | None) -> dict[str, Any]:
    """The arguments of an httpx client that speaks to this address. Raises ValueError or SettingsError for a key."""
    key = client_key() if api_key is None else api_key
    return {
        "auth": Bearer(key) if key else None,
        "base_url": address,
        "timeout": timeout_s,
        # A proxy for the outside world cannot reach this very machine.
        "trust_env": not _is_loopback(address),
        "follow_redirects": True,
        "headers": {} if tenant is None else {"Modelferry-Tenant": tenant},
    }


def shown(address: str) -> str:
    """The address as it may stand in an error: without a user and a password."""
    return re.sub(r"//[^/?#]*@", "//", address)


@contextmanager
def request_of(call: Call[V], timeout_s: float) -> Iterator[dict[str, Any]]:
    """The arguments of a request. A file that it sends stays open as long as the context."""
    kind = {} if call.body is None else {"Content-Type": "application/json"}
    patience = httpx.Timeout(timeout_s, read=max(timeout_s, call.least_timeout_s))
    request: dict[str, Any] = {
        "method": call.method,
        "url": call.path,
        "params": call.query or None,
        "headers": {**kind, **call.headers},
        "timeout": patience,
    }
    if call.form is None:
        yield request | {"content": call.body}
        return
    with call.form.file.open("rb") as file:
        files: dict[str, tuple[str, IO[bytes], str]] = {"file": (call.form.file.name, file, "application/zip")}
        yield request | {"data": call.form.fields, "files": files}


def listening(stream: Stream, timeout_s: float) -> dict[str, Any]:
    """The arguments of a request for a stream."""
    return {
        "method": "GET",
        "url": stream.path,
        "params": stream.query or None,
        "headers": {name: value.encode() for name, value in stream.headers.items()},
        "timeout": httpx.Timeout(timeout_s, read=stream.silence_s),
    }


def answer_of(address: str, response: httpx.Response) -> Answer:
    """What came back; the response has been read."""
    return Answer(
        address,
        response.status_code,
        response.reason_phrase,
        response.content,
        code=response.headers.get("X-Error-Code"),
    )


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Raises Unreachable for whatever lies between us and an answer."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"No answer from {address}: {str(error) or type(error).__name__}") from error


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
