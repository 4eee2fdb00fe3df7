"""What both sides of a webhook must agree on: its secret, how messages are signed, and which addresses it may have."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

import msgspec

from common.errors import CredentialsLost
from common.seals import Credentials, Seal

EVENTS = ("job.completed", "job.failed", "job.canceled")
"""What a webhook can hear of."""
TEST = "test"
"""The message that somebody has asked for, to see whether it arrives."""

_MARK = "whsec_"
_KEY_BYTES = 32
_URL, _SECRET = "url", "secret"
_WRITTEN = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Za-z\[\]_~]{1,2048}")
"""The characters that may stand in a URL as it is sent, but for those that no two programs read alike."""
_NO_URL = "must be an https URL with a host"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


class Box(msgspec.Struct, frozen=True):
    """What is kept sealed of a webhook: the whole of its URL, which may hold a token, and the secret that signs."""

    url: str
    secret: str

    def __repr__(self) -> str:
        return f"Box({shown(self.url)})"

    def closed(self, seal: Seal, webhook_id: str) -> bytes:
        """Sealed, for this webhook alone. Raises ServiceUnavailable without a usable key."""
        return seal.close(webhook_id, Credentials(settings={_URL: self.url}, secrets={_SECRET: self.secret}))

    @staticmethod
    def opened(seal: Seal, webhook_id: str, sealed: bytes) -> "Box":
        """What was sealed for this webhook. Raises CredentialsLost where that cannot be read."""
        held = seal.open(webhook_id, sealed)
        if _URL not in held.settings or _SECRET not in held.secrets:
            raise CredentialsLost("What was sealed for this webhook is something else")
        return Box(held.settings[_URL], held.secrets[_SECRET])


def new_secret() -> str:
    """A secret to sign with, as receivers configure it."""
    return _MARK + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def signature(secret: str, delivery_id: str, seconds: int, body: str) -> str:
    """The signature of one message at one time, as Standard Webhooks defines it."""
    key = base64.b64decode(secret.removeprefix(_MARK))
    signed = hmac.digest(key, f"{delivery_id}.{seconds}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def check_url(url: str) -> None:
    """Raise ValueError, in words that do not repeat it, unless this may be a webhook's URL. Resolves no name."""
    if not _WRITTEN.fullmatch(url):
        raise ValueError("must be a URL of at most 2048 characters, in ASCII, with everything else escaped")
    parts = _split(url)
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(_NO_URL)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password")
    if "#" in url:
        raise ValueError("must not hold a fragment")


def may_be_plain(url: str, private_hosts: Collection[str]) -> bool:
    """Whether the operator has named the host, so that http is enough for it."""
    parts = _split(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    bracketed = f"[{host}]" if ":" in host else host
    return not {host, bracketed, f"{host}:{port}", f"{bracketed}:{port}"}.isdisjoint(private_hosts)


def shown(url: str) -> str:
    """The URL without its query, which may hold a token."""
    before, mark, _ = url.partition("?")
    return f"{before}?***" if mark else before


def _split(url: str) -> SplitResult:
    """Raises ValueError where it is no URL, or its port none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_NO_URL) from None
    if port == 0:
        raise ValueError(_NO_URL)
    return parts
