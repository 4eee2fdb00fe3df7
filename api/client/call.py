"""A call as data: what is sent, and how the answer is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from api.client.errors import NotUnderstood, Refused
from api.wire import Fault

V = TypeVar("V")

Query = Sequence[tuple[str, str]]

UNAVAILABLE = 503
"""The status of an answer that says what is missing."""

LONG_S = 3600.0
"""For so long a call may stay without an answer that has the service read or write a whole model."""
ASKING_S = 150.0
"""For so long a call may stay without an answer that has a worker ask a hub."""


@dataclass(frozen=True)
class Answer:
    """What came back, in full."""

    address: str
    status: int
    reason: str
    content: bytes
    code: str | None = None
    """Of a refusal, where it tells one."""


@dataclass(frozen=True)
class Form:
    """A file to send, and what is said about it."""

    file: Path
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Call(Generic[V]):
    """One question to the service. Whoever runs it gets a V, or Refused or Unreachable."""

    method: str
    path: str
    read: Callable[[Answer], V]
    query: Query = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Form | None = None
    least_timeout_s: float = 0.0
    """A shorter patience than this would give up what is only slow."""


class _Problem(msgspec.Struct, frozen=True):
    """A `Problem`, a `FaultyRequest`, or a view that says what is wrong in the same keys."""

    detail: str | list[Fault]
    reason_code: str | None = None
    hint: str | None = None
    error_code: str | None = None


def as_view(kind: type[V], *, also: int | None = None) -> Callable[[Answer], V]:
    """Reads a view from an answer of success; `also` is another status that brings it."""

    def read(answer: Answer) -> V:
        if answer.status != also or not _decodes(answer, kind):
            check(answer)
        return decoded(answer.address, answer.content, kind)

    return read


def check(answer: Answer) -> None:
    """Raises Refused for anything but success."""
    if not 200 <= answer.status < 300:
        raise refusal(answer)


def refusal(answer: Answer) -> Refused:
    """The service's own words; for several faults, one line each."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused(answer.status, f"{answer.status} {answer.reason}".strip(), answer.code)
    detail = problem.detail
    if not isinstance(detail, str):
        detail = "\n".join(f"{'.'.join(str(step) for step in fault.loc)}: {fault.msg}" for fault in detail)
    return Refused(answer.status, detail, problem.error_code or problem.reason_code or answer.code, problem.hint)


def decoded(address: str, content: bytes | str, kind: type[V]) -> V:
    """Raises NotUnderstood for what no Modelferry has said."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotUnderstood(f"{address} does not speak Modelferry's language: {error}") from error


def path_of(*parts: str) -> str:
    """A path of these steps, whatever is in them."""
    return "/".join(quote(part, safe="") for part in parts)


def given(**query: str | float | None) -> Query:
    """What was given at all."""
    return [(name, str(value)) for name, value in query.items() if value is not None]


def asking(idempotency_key: str | None, tenant: str | None) -> dict[str, str]:
    """The headers of a request that starts work. The key is quoted: bare, its own quotes would not count."""
    headers = {} if tenant is None else {"Modelferry-Tenant": tenant}
    if idempotency_key is not None:
        escaped = idempotency_key.replace("\\", "\\\\").replace('"', '\\"')
        headers["Idempotency-Key"] = f'"{escaped}"'
    return headers


def json_body(content: object) -> bytes:
    """JSON, without what is unset."""
    return msgspec.json.encode(content)


def _decodes(answer: Answer, kind: type[V]) -> bool:
    try:
        msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
