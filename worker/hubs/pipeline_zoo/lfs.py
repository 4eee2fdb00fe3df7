"""Git LFS: pointers that stand for large files, and the addresses that a server lends for a while to fetch them."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from common.errors import (
    HubUnavailable,
    IntegrityMismatch,
    SourceNotFound,
    SourcePrivateOrMissing,
    SourceUnsafe,
    StageError,
)
from worker.net import NO_JSON, Credential, HubClient, Origin

MOST_POINTER_BYTES = 1023
"""No pointer is longer; of most files nobody has to ask whether they are one."""

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]+\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n"
)
_MEDIA_TYPE = "application/vnd.git-lfs+json"
_AT_ONCE = 100
_LIFE_S = 900.0
"""How long an address is used of which the server does not say how long it lives."""
_LONGEST_LIFE_S = 7 * 24 * 3600
_HARMLESS = frozenset({"accept", "user-agent"})


@dataclass(frozen=True, slots=True)
class Pointer:
    """A large file: its sha256 and its size."""

    oid: str
    size: int


@dataclass(frozen=True, slots=True)
class Loan:
    """Addresses of large files by their sha256, good until a moment of the monotonic clock."""

    urls: dict[str, str] = field(default_factory=dict, repr=False)
    credential: Credential | None = None
    good_until: float = float("inf")


class _Action(msgspec.Struct, frozen=True):
    href: str
    header: dict[str, str] | None = None
    expires_in: int | None = None


class _Trouble(msgspec.Struct, frozen=True):
    code: int


class _Object(msgspec.Struct, frozen=True):
    oid: str
    size: int = -1
    actions: dict[str, _Action] | None = None
    error: _Trouble | None = None


class _Answer(msgspec.Struct, frozen=True):
    objects: list[_Object]
    transfer: str = "basic"
    hash_algo: str = "sha256"


def read_pointer(content: bytes) -> Pointer | None:
    """What a pointer stands for; None where the content is no pointer."""
    found = _POINTER.fullmatch(content)
    return Pointer(found[1].decode(), int(found[2])) if found else None


def borrow(client: HubClient, repository: str, wanted: Sequence[Pointer]) -> Loan:
    """Ask where these files can be fetched now. Raises StageError."""
    if not wanted:
        return Loan()
    asked_at, actions = time.monotonic(), dict[str, _Action]()
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        actions |= _actions(_ask(client, repository, some), some)
    lives = [_life_s(action) for action in actions.values()]
    return Loan(
        urls={oid: _checked(action.href, repository) for oid, action in actions.items()},
        credential=_credential(list(actions.values())),
        good_until=asked_at + min(lives),
    )


def _ask(client: HubClient, repository: str, wanted: Sequence[Pointer]) -> _Answer:
    question = {
        "operation": "download",
        "transfers": ["basic"],
        "hash_algo": "sha256",
        "objects": [{"oid": pointer.oid, "size": pointer.size} for pointer in wanted],
    }
    headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
    reply = client.post(f"{repository}.git/info/lfs/objects/batch", question, headers=headers)
    if reply.status != 200:
        raise HubUnavailable(f"The server of the large files answered {reply.status}")
    try:
        answer = msgspec.json.decode(reply.body, type=_Answer)
    except NO_JSON as error:
        raise HubUnavailable("The answer of the server of the large files makes no sense") from error
    if answer.transfer != "basic" or answer.hash_algo != "sha256":
        raise HubUnavailable("The server of the large files does not speak the protocol's basic form")
    return answer


def _actions(answer: _Answer, wanted: Sequence[Pointer]) -> dict[str, _Action]:
    found = {}
    objects = {one.oid: one for one in answer.objects}
    for pointer in wanted:
        one = objects.get(pointer.oid)
        if one is None:
            raise HubUnavailable("The server of the large files is silent about one of them")
        if one.error is not None:
            raise _trouble(one.error.code)
        action = (one.actions or {}).get("download")
        if action is None:
            raise SourceNotFound("The server of the large files does not have one that the repository lists")
        if one.size != pointer.size:
            raise IntegrityMismatch(f"A large file has {one.size} bytes at its server; the commit says {pointer.size}")
        found[pointer.oid] = action
    return found


def _trouble(code: int) -> StageError:
    if code in {404, 410}:
        return SourceNotFound("The server of the large files does not have one that the repository lists")
    if code in {401, 403}:
        return SourcePrivateOrMissing("The server of the large files refuses one that the repository lists")
    return HubUnavailable(f"The server of the large files answered {code} for one of them")


def _life_s(action: _Action) -> float:
    return _LIFE_S if action.expires_in is None else min(max(0, action.expires_in), _LONGEST_LIFE_S)


def _checked(url: str, repository: str) -> str:
    if Origin.of(url).scheme != "https" and Origin.of(repository).scheme == "https":
        raise SourceUnsafe("The Pipeline Zoo leads from https to an unencrypted address")
    return url


def _credential(actions: Sequence[_Action]) -> Credential | None:
    """The one header that the server wants to see again, if any; it is for the place of the files only."""
    wanted = {
        Credential(Origin.of(action.href), name, value)
        for action in actions
        for name, value in (action.header or {}).items()
        if name.lower() not in _HARMLESS
    }
    if len(wanted) > 1:
        raise HubUnavailable("The server of the large files wants more than one header with each request")
    return next(iter(wanted), None)
