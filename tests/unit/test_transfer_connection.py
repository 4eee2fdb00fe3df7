"""Connections: addresses, redirects, and how long a server asks us to wait."""

from datetime import UTC, datetime

import pytest

from common.errors import SourceUnsafe
from worker.net.origin import Credential, Origin, next_url
from worker.net.waits import wished_wait

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ({"Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "99999999999"}, 86400),
        ({"RateLimit": '"resolvers";r=0;t=42'}, 42),
        ({"RateLimit": '"api";r=12;t=42'}, None),
        ({"RateLimit": '"api";r=3;t=9, "resolvers";r=0;t=5'}, 5),
        ({"RateLimit": '"api"; r=0; t=9', "Retry-After": "20"}, 20),
        ({"RateLimit": "nonsense"}, None),
    ],
    ids=str,
)
def test_the_wait_that_a_server_wishes(headers: dict[str, str], wait_s: float | None) -> None:
    assert wished_wait(headers, lambda: NOW) == wait_s


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Hub.example/a", ("https", "hub.example", 443)),
        ("http://hub.example:8080/a?b", ("http", "hub.example", 8080)),
        ("HTTPS://user:pw@hub.example/", ("https", "hub.example", 443)),
        ("http://[::1]:5/", ("http", "::1", 5)),
        ("https://h\u00fcb.example/", ("https", "xn--hb-xka.example", 443)),
        ("https://\uff11\uff12\uff17.1/", ("https", "127.1", 443)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert Origin.of(url) == origin


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "hub.example/a", "https://", "http://h:99999/", "//h/x", "http://[::1"]
)
def test_anything_else_is_no_address(url: str) -> None:
    with pytest.raises(SourceUnsafe):
        Origin.of(url)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://hub.example/other"),
        ("https://cdn.example/x?sig=%2F#part", "https://cdn.example/x?sig=%2F"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("a b\u00e9", "https://hub.example/org/a%20b%C3%A9"),
    ],
)
def test_a_redirect_is_followed(location: str, target: str) -> None:
    assert next_url("https://hub.example/org/file", location) == target


@pytest.mark.parametrize("location", ["http://hub.example/org/file", "file:///etc/passwd", "ftp://hub.example/x"])
def test_a_redirect_never_leaves_https(location: str) -> None:
    with pytest.raises(SourceUnsafe):
        next_url("https://hub.example/org/file", location)


def test_a_credential_does_not_show_its_value() -> None:
    assert "hf_secret" not in repr(Credential.bearer("https://hub.example", "hf_secret"))
