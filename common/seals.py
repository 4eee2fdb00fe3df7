"""Seals: the credentials that a request brought, as bytes that only this service can read again."""

import base64
import fcntl
import logging
import os
import secrets
import uuid
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from common.errors import CredentialsLost, ServiceUnavailable
from common.settings import Settings

log = logging.getLogger(__name__)

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORM = b"\x01"
"""Stands before each seal, so that another form can be told from this one."""
_NOTE = b"\x02"
"""The same of a note, which is sealed for a purpose and holds no credentials."""
_KEY_FILE = "seal.key"
_SHORTEST = 6
"""What is shorter is blotted out nowhere: it would be found in any text."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one request brought for one hub, under the names by which the hub's plugin asks for it."""

    settings: dict[str, str] = {}
    secrets: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.settings or self.secrets)

    def __repr__(self) -> str:
        return f"Credentials({', '.join(sorted({*self.settings, *self.secrets}))})"


NOTHING = Credentials()
"""What most requests bring."""


class Seal:
    """Seals credentials and opens them again, under the operator's key or one that is kept on the volume."""

    def __init__(self, key: bytes | None, folder: Path) -> None:
        """Without a key one is made in `folder`, once for all processes."""
        self._given = key
        self._folder = folder

    @staticmethod
    def of(settings: Settings) -> "Seal":
        """The seal that all processes of one service share. Touches no file yet."""
        return Seal(base64.b64decode(settings.secret_key) if settings.secret_key else None, settings.state_dir)

    def close(self, secret_id: str, credentials: Credentials) -> bytes:
        """Seal credentials; they can be opened under this id alone. Raises ServiceUnavailable without a usable key."""
        return self._closed(_FORM, secret_id, msgspec.json.encode(credentials))

    def open(self, secret_id: str, sealed: bytes | None) -> Credentials:
        """The credentials that were sealed under this id. Raises CredentialsLost where that cannot be."""
        if sealed is None:
            raise CredentialsLost("The credentials that came with this job's request are not kept any more")
        try:
            plain = self._opened(_FORM, secret_id, sealed)
        except (InvalidTag, OSError, ValueError) as error:
            raise CredentialsLost(
                "The credentials that came with this job's request cannot be read: they were sealed with another key"
            ) from error
        return msgspec.json.decode(plain, type=Credentials)

    def note(self, purpose: str, plain: bytes) -> bytes:
        """Seal what is no credential; it can be read for this purpose alone. Raises ServiceUnavailable as `close`."""
        return self._closed(_NOTE, purpose, plain)

    def noted(self, purpose: str, sealed: bytes) -> bytes | None:
        """What was sealed for this purpose; None for whatever else this is. Raises ServiceUnavailable without a key."""
        try:
            return self._opened(_NOTE, purpose, sealed)
        except InvalidTag:
            return None
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def _closed(self, form: bytes, name: str, plain: bytes) -> bytes:
        try:
            key = self._key()
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        nonce = os.urandom(_NONCE_BYTES)
        return form + nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, form + name.encode())

    def _opened(self, form: bytes, name: str, sealed: bytes) -> bytes:
        """Raises InvalidTag, or OSError or ValueError without a usable key."""
        key = self._key()
        if sealed[:1] != form or len(sealed) <= 1 + _NONCE_BYTES:
            raise InvalidTag
        # The form is sealed in with the name: of another one this makes nothing.
        nonce, box = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        return ChaCha20Poly1305(key).decrypt(nonce, box, form + name.encode())

    def _unusable(self, error: Exception) -> ServiceUnavailable:
        # The reason names a path of the machine, which is nothing for a client.
        log.error("seal.unusable", extra={"reason": str(error)})
        return ServiceUnavailable("Credentials cannot be sealed here; nothing was stored.")

    def _key(self) -> bytes:
        return self._given or _kept_key(self._folder)


def blot_out(text: str, hidden: Iterable[str]) -> str:
    """The text without these values, wherever a library may have put them into words of its own."""
    for value in hidden:
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return text


def _kept_key(folder: Path) -> bytes:
    """The key on the volume; whoever comes first makes it. Raises OSError, or ValueError for a file that is no key."""
    at = folder / _KEY_FILE
    try:
        return _read(at)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / f"{_KEY_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not at.exists():
            _make(at)
    finally:
        os.close(lock)
    return _read(at)


def _make(at: Path) -> None:
    """Write a new key under its name at once, whole and on the disk: a seal must never outlive its key."""
    fresh = at.with_name(f".{uuid.uuid4().hex}.fresh")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(file, secrets.token_bytes(_KEY_BYTES))
        os.fsync(file)
    finally:
        os.close(file)
    fresh.rename(at)
    folder = os.open(at.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(at: Path) -> bytes:
    file = os.open(at, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        key = os.read(file, _KEY_BYTES + 1)
    finally:
        os.close(file)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{at.name} is not {_KEY_BYTES} bytes long")
    return key
