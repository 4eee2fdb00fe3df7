"""No login that somebody has put into an address is kept."""

import pytest

from common.addresses import without_login, without_logins


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://host/a@b", "https://host/a@b"),
        ("https://me:secret@host/x?y=1#z", "https://***@host/x?y=1#z"),
        ("http://me@host:80/x", "http://***@host:80/x"),
        ("https://me:sec@ret@host/", "https://***@host/"),
        ("https://@host/{name}.tar", "https://***@host/{name}.tar"),
        ("https://me:secret@[host/x", "***@[host/x"),
        ("a@b", "a@b"),
        ("", ""),
    ],
)
def test_an_address(given: str, shown: str) -> None:
    assert without_login(given) == shown
    assert without_login(shown) == shown


def test_whatever_is_in_a_request() -> None:
    given = {
        "url": "https://me:secret@host/",
        "more": [{"deep": "http://me:secret@host"}, 1, None],
        "precision": "int8",
    }
    shown = without_logins(given)
    assert "secret" not in str(shown)
    assert shown == {"url": "https://***@host/", "more": [{"deep": "http://***@host"}, 1, None], "precision": "int8"}
