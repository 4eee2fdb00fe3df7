"""Addresses as they may be kept and shown: without the user name and password that somebody has put into them."""

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

_HIDDEN = "***"


def without_login(address: str) -> str:
    """The address with `***` for user name and password; what cannot be taken apart loses all before the last @."""
    if "@" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{_HIDDEN}@{address.rpartition('@')[2]}"
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{_HIDDEN}@{host}")) if login or parts.netloc.startswith("@") else address


def without_logins(given: Mapping[str, object]) -> dict[str, object]:
    """What a request has brought, as it may be shown again: with no login in any address in it."""
    return {name: _shown(value) for name, value in given.items()}


def _shown(value: object) -> object:
    match value:
        case str():
            return without_login(value)
        case dict():
            return without_logins(value)
        case list():
            return [_shown(one) for one in value]
        case _:
            return value
