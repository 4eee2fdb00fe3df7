"""Writes protobuf's text format from structured data, so that no value can break out of its place."""

import re
from dataclasses import dataclass
from typing import TypeAlias


class Word(str):
    """A bare word: the name of an enum's value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message in order. A field may come more than once."""

    fields: "tuple[tuple[str, Value], ...]"


Value: TypeAlias = bool | int | float | str | Word | Message

Optional: TypeAlias = Value | None


def message(*fields: tuple[str, Optional]) -> Message:
    """A message of those fields that have a value."""
    return Message(tuple((name, value) for name, value in fields if value is not None))


def lines(whole: Message, indent: str = "", separator: str = "") -> list[str]:
    """The lines of a message, one for each scalar."""
    written: list[str] = []
    for name, value in whole.fields:
        if isinstance(value, Message):
            # The server's own graphs put commas between options, and scripts that edit graphs expect them.
            inner = "," if name.startswith("[type.googleapis.com") else ""
            written += [f"{indent}{name}: {{", *lines(value, f"{indent}  ", inner), f"{indent}}}"]
        else:
            written.append(f"{indent}{name}: {_scalar(value)}{separator}")
    return written


def _scalar(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    # JSON reads best between single quotes; in both kinds of quotes the same characters are escaped.
    quote = "'" if '"' in value and "'" not in value else '"'
    escaped = re.sub(rf"[\\{quote}]", lambda match: f"\\{match[0]}", value)
    return quote + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):03o}", escaped) + quote
