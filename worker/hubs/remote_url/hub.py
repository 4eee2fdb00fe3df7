"""The hub: finds out which archive is at an address, fetches it within limits, and unpacks it."""

import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import quote

from common.archives import ArchiveLimits, unpack
from common.catalog.remote_url import RemoteUrlOptions
from common.errors import (
    HubUnavailable,
    InvalidParameters,
    NothingToFetch,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from common.plugins import Access, Attempt, Hub
from common.spec import Digest, Manifest, RemoteFile, Source
from common.vocabulary import DigestAlgorithm, Format
from worker.hubs.remote_url.addresses import Address, Allowlist, Judge
from worker.net import HubClient, Reply
from worker.transfer import bring

log = logging.getLogger(__name__)

_ALLOWLIST = "EXTERNAL_SOURCES_URL_ALLOWLIST"
_NARROWED = f"REQUESTED_{_ALLOWLIST}"
_LARGEST = "MODELFERRY_MAX_UNPACKED_MB"
_DEFAULT_LARGEST_MB = 51_200
_MEBIBYTE = 1024 * 1024
_ARCHIVE = ".remote-url-archive"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_NEIGHBOUR = re.compile(rb"\s*\\?([0-9a-fA-F]{64})(?:\s[^\x00]{0,4096})?", re.DOTALL)
_MOST_NEIGHBOUR_BYTES = 64 * 1024
_UNKNOWN = "unknown-"
_LOOKS = 3
"""Behind one address may be several servers, which do not always agree on an ETag."""
_NO_HEAD = frozenset({405, 501})
_UNVERIFIED = (
    "The archive could not be verified: the request gives no sha256, and there is no .sha256 file beside the archive."
)


class RemoteUrlHub:
    """Archives below the prefixes of EXTERNAL_SOURCES_URL_ALLOWLIST; a request can make that list only shorter."""

    def __init__(self, access: Access) -> None:
        lists = [access.settings.get(_ALLOWLIST, "")]
        if _NARROWED in access.settings:
            lists.append(access.settings[_NARROWED])
        # What a request says is no word of the operator's, whoever hands it over as if it were.
        self._lists = [] if _ALLOWLIST in access.given else lists
        self._network = access.network
        megabytes = access.settings.get(_LARGEST) or _DEFAULT_LARGEST_MB
        self._most_bytes = int(megabytes) * _MEBIBYTE

    def resolve(self, source: Source, options: RemoteUrlOptions) -> Manifest:
        """Judge the address, and ask what is there now. Moves no archive.

        The revision is the archive's sha256 where somebody tells it, else what the server identifies it by; where the
        server has nothing to identify it by, each resolve makes another one, so that no copy is taken for the archive.
        """
        sha256 = _wanted_sha256(options)
        address = self._address(source, options)
        head = self._ask("HEAD", address, address)
        size = _size(head)
        if size is not None and size > self._most_bytes:
            raise self._too_large()
        sha256 = sha256 or self._neighbour(address)
        revision = sha256 or _identity(address, head, size)
        if source.revision not in {None, revision}:
            raise RevisionNotFound(
                f"The archive is not '{source.revision}', but '{revision}'",
                hint="Leave the revision out to take the archive as it is, or give its sha256 in 'config'.",
            )
        digest = Digest(algorithm=DigestAlgorithm.SHA256, value=sha256) if sha256 else None
        return Manifest(
            source=source,
            revision=revision,
            format=Format.ARCHIVE,
            files=(RemoteFile(path=_ARCHIVE, size=size, digest=digest, url=address.url),),
            facts={} if sha256 else {"warnings": {"message": _UNVERIFIED}},
        )

    def fetch(self, manifest: Manifest, options: RemoteUrlOptions, attempt: Attempt) -> tuple[str, ...]:
        """Bring the archive and unpack it. Returns the paths of what it held."""
        address = self._address(manifest.source, options)
        bring(
            manifest.files,
            attempt,
            network=self._network,
            trusted=False,
            follows=self._follows(address),
            most_bytes=self._most_bytes,
        )
        if manifest.files[0].digest is None:
            self._check_unchanged(address, manifest)
        archive = attempt.workspace / _ARCHIVE
        limits = ArchiveLimits(most_bytes=self._most_bytes)
        paths = unpack(archive, attempt.workspace, limits, rename=_checked_path, checkpoint=attempt.checkpoint)
        if not paths:
            raise NothingToFetch("The archive holds no file")
        return paths

    def _check_unchanged(self, address: Address, manifest: Manifest) -> None:
        """Raise HubUnavailable where another archive has come to the address since it was resolved."""
        for _ in range(_LOOKS):
            head = self._ask("HEAD", address, address)
            now = _identity(address, head, _size(head))
            if now.startswith(_UNKNOWN) or now == manifest.revision:
                return
        raise HubUnavailable("The archive has changed at its address while it was fetched")

    def _address(self, source: Source, options: RemoteUrlOptions) -> Address:
        if not options.url:
            raise InvalidParameters("hub 'remote-url' requires 'url' in the request config")
        judge = Judge([Allowlist.of(one) for one in self._lists])
        return judge.check(options.url.replace("{name}", quote(source.name, safe="")))

    def _follows(self, start: Address) -> Callable[[str], None]:
        """Judges where redirects lead that begin at this address."""
        return partial(Judge([Allowlist.of(one) for one in self._lists]).check_redirect, start)

    def _ask(self, method: str, address: Address, start: Address) -> Reply:
        rules = self._network
        with HubClient(
            address.place,
            rules,
            classify=_refusal,
            trusted=False,
            most_bytes=_MOST_NEIGHBOUR_BYTES,
            follows=self._follows(start),
        ) as client:
            return client.ask(method, address.url)

    def _neighbour(self, address: Address) -> str | None:
        """The sha256 in the file beside the archive, `<address>.sha256`, if there is one."""
        beside = address.beside(".sha256")
        if not Judge([Allowlist.of(one) for one in self._lists]).admits(beside):
            return None
        try:
            reply = self._ask("GET", beside, address)
        except (SourceNotFound, SourcePrivateOrMissing, SourceUnsafe):
            # Nothing there; a server that shows a page instead, or leads elsewhere, says the same.
            return None
        found = _NEIGHBOUR.fullmatch(reply.body) if reply.status == 200 else None
        return found[1].decode().lower() if found else None

    def _too_large(self) -> SourceUnsafe:
        return SourceUnsafe(
            f"The archive is larger than {self._most_bytes // _MEBIBYTE} MiB",
            hint=f"An operator can raise {_LARGEST}.",
        )


def _wanted_sha256(options: RemoteUrlOptions) -> str | None:
    if not options.sha256:
        return None
    if not _SHA256.fullmatch(options.sha256.strip()):
        raise InvalidParameters("'sha256' must be 64 hexadecimal digits")
    return options.sha256.strip().lower()


def _size(head: Reply) -> int | None:
    told = head.headers.get("content-length", "")
    return int(told) if head.status == 200 and told.isascii() and told.isdecimal() and len(told) < 19 else None


def _identity(address: Address, head: Reply, size: int | None) -> str:
    """What tells this archive from what may be at its address another day."""
    etag, modified = head.headers.get("etag", ""), head.headers.get("last-modified", "")
    if head.status == 200 and etag and not etag.startswith("W/"):
        return f"etag-{_hash(address.url, etag, str(size))}"
    if head.status == 200 and modified and size is not None:
        return f"modified-{_hash(address.url, modified, str(size))}"
    return f"{_UNKNOWN}{uuid.uuid4().hex}"


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:40]


def _refusal(status: int, headers: Mapping[str, str]) -> StageError | None:  # noqa: ARG001 - no header tells more
    if status in _NO_HEAD:
        return None
    if status in {401, 403}:
        return SourcePrivateOrMissing(
            f"The runtime URL refuses to be read ({status})", hint="The archive must be readable without a login."
        )
    if status in {404, 410}:
        return SourceNotFound(f"There is nothing at the runtime URL ({status})", hint="Check 'url' in 'config'.")
    return HubUnavailable(f"The runtime URL answers {status}")


def _checked_path(path: str) -> str | None:
    """Where a member goes: to its own path, unless that is where the archive itself lies."""
    if path.partition("/")[0] == _ARCHIVE:
        raise SourceUnsafe("The archive holds a name that is kept for Modelferry")
    return path


_contract: type[Hub[RemoteUrlOptions]] = RemoteUrlHub
