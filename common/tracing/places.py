"""A place in a trace, and how it is written: W3C's `traceparent`."""

import re
import secrets
from typing import Self

import msgspec

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_SPAN_BYTES = 8
_MOST_CHARS = 512
_SAMPLED = 1


class Place(msgspec.Struct, frozen=True):
    """One span in one trace."""

    trace_id: str
    span_id: str
    sampled: bool = True
    """Whether the trace is kept: whoever began it has decided that for everybody."""

    @property
    def traceparent(self) -> str:
        """As it is sent and stored."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"

    def below(self) -> Self:
        """A new place in the same trace."""
        return msgspec.structs.replace(self, span_id=new_span_id())


def new_span_id() -> str:
    """An id that no other span has."""
    while not int(made := secrets.token_hex(_SPAN_BYTES), 16):
        pass
    return made


def is_span_id(text: str) -> bool:
    """Whether this can be the id of a span."""
    return _SPAN_ID.fullmatch(text) is not None and int(text, 16) != 0


def place_of(traceparent: str | None) -> Place | None:
    """The place that somebody names. None where it is no such text; then it is as if nobody had named one."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) <= _MOST_CHARS else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Place(trace_id, span_id, sampled=bool(int(flags, 16) & _SAMPLED))
