"""Where a repository's parts are at GitHub or at a GitHub Enterprise server, and what its commits hold."""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

import msgspec

from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    RateLimited,
    RevisionNotFound,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from worker.net import NO_JSON, HubClient

_GITHUB = "https://github.com"
_GITHUB_API = "https://api.github.com"
_GITHUB_RAW = "https://raw.githubusercontent.com"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_REVISION = re.compile(r"[\w./+@-]{1,200}", re.ASCII)
_PLAIN_FILES = frozenset({"100644", "100755"})
_QUOTA_S = 3600.0
_QUOTA_HINT = (
    "GitHub answers 60 questions an hour to each address that does not log in; a download asks two. Wait, or set "
    "PIPELINE_ZOO_URL to a mirror."
)


@dataclass(frozen=True, slots=True)
class Forge:
    """The addresses of one repository."""

    repository: str
    api: str
    raw: str

    @classmethod
    def of(cls, url: str, api: str | None = None) -> Self:
        """Those of the repository at this address, `https://host/owner/name`. Raises SourceUnsafe on any other."""
        repository = url.rstrip("/").removesuffix(".git")
        parts = urlsplit(repository)
        base, _, path = repository.rpartition("/")
        base, _, owner = base.rpartition("/")
        if parts.scheme not in {"http", "https"} or not path or not owner or not urlsplit(base).hostname:
            raise SourceUnsafe(
                "PIPELINE_ZOO_URL is not the address of a repository, https://host/owner/name",
                hint="An operator must correct PIPELINE_ZOO_URL.",
            )
        public = base == _GITHUB
        questions = (api or (_GITHUB_API if public else f"{base}/api/v3")).rstrip("/")
        return cls(
            repository=repository,
            api=f"{questions}/repos/{owner}/{path}",
            raw=f"{_GITHUB_RAW if public else f'{base}/raw'}/{owner}/{path}",
        )

    def file(self, commit: str, path: str) -> str:
        """Where Git's own content of a file is: of a large one, the pointer."""
        return f"{self.raw}/{commit}/{quote(path)}"


class Entry(msgspec.Struct, frozen=True):
    """A file in the tree of a commit. `sha` is Git's name of its content, `size` that of its content in Git."""

    path: str
    mode: str
    type: str
    sha: str
    size: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a file, and not a link or another repository."""
        return self.type == "blob" and self.mode in _PLAIN_FILES


class _Tree(msgspec.Struct, frozen=True):
    tree: list[Entry]
    truncated: bool = False


def commit_of(api: HubClient, revision: str) -> str:
    """The commit that a branch, a tag or a commit's name means. Raises StageError."""
    if not _REVISION.fullmatch(revision) or {"", ".", ".."} & set(revision.split("/")):
        # Whoever asks for it would ask for another address.
        raise RevisionNotFound(f"The Pipeline Zoo has no revision {revision[:100]!r}")
    reply = api.get(f"commits/{quote(revision)}", headers={"Accept": "application/vnd.github.sha"})
    if reply.status in {409, 422}:
        raise RevisionNotFound(f"The Pipeline Zoo has no revision '{revision[:100]}'")
    commit = reply.body.decode("ascii", "replace").strip()
    if reply.status != 200 or not _COMMIT.fullmatch(commit):
        raise HubUnavailable(f"The Pipeline Zoo's answer about revision '{revision[:100]}' makes no sense")
    return commit


def files_of(api: HubClient, revision: str) -> list[Entry]:
    """All that a revision holds, but folders. Raises StageError."""
    reply = api.get(f"git/trees/{quote(revision)}", params={"recursive": "1"})
    if reply.status != 200:
        raise HubUnavailable(f"The Pipeline Zoo answered {reply.status} when asked for its files")
    try:
        listing = msgspec.json.decode(reply.body, type=_Tree)
    except NO_JSON as error:
        raise HubUnavailable("The Pipeline Zoo's list of files makes no sense") from error
    if listing.truncated:
        raise SourceUnsafe(
            "The Pipeline Zoo's repository holds more files than can be listed",
            hint="Set PIPELINE_ZOO_URL to a repository that holds models only.",
        )
    return [entry for entry in listing.tree if entry.type != "tree"]


def content_of(client: HubClient, url: str, entry: Entry) -> bytes:
    """The content that Git has of a small file, verified. Raises StageError."""
    reply = client.get(url)
    if reply.status != 200:
        raise HubUnavailable(f"The Pipeline Zoo answered {reply.status} when asked for {entry.path}")
    named = hashlib.sha1(b"blob %d\x00" % len(reply.body) + reply.body, usedforsecurity=False).hexdigest()
    if named != entry.sha:
        raise IntegrityMismatch(f"{entry.path} is not what its commit holds")
    return reply.body


def refusal(status: int, headers: Mapping[str, str]) -> StageError | None:
    """What GitHub means by a status of 4xx."""
    if status == 403 and (headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers):
        return RateLimited("GitHub asks for fewer requests (403)", hint=_QUOTA_HINT, wait_s=_wait(headers))
    if status in {401, 403}:
        return SourcePrivateOrMissing("The Pipeline Zoo's repository refuses to be read without a login")
    if status in {404, 410}:
        return SourceNotFound(
            "The Pipeline Zoo's repository was not found, or has lost a file that it lists",
            hint="Check the operator's PIPELINE_ZOO_URL.",
        )
    return None


def _wait(headers: Mapping[str, str]) -> float | None:
    """How long to wait: said in seconds, or as the moment when a new quota is granted. At most as long as one lasts."""
    try:
        told = headers.get("retry-after")
        wait_s = float(headers["x-ratelimit-reset"]) - time.time() if told is None else float(told)
        return min(max(0.0, wait_s), _QUOTA_S)
    except (KeyError, ValueError):
        return None
