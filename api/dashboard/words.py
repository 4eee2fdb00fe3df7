"""Values as people read them: the filters of the templates."""

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from common.clock import utc_now

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_STEP = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
UNKNOWN = "—"


def size(count: float | UnsetType | None) -> str:
    """Bytes in the unit that fits, in powers of ten as hubs and disks count them."""
    if count is None or isinstance(count, UnsetType):
        return UNKNOWN
    value, unit = float(count), 0
    while value >= _STEP - 0.5 and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def rate(bytes_per_s: float | UnsetType | None) -> str:
    """Bytes per second."""
    return UNKNOWN if bytes_per_s is None or isinstance(bytes_per_s, UnsetType) else f"{size(bytes_per_s)}/s"


def duration(seconds: float | UnsetType | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None or isinstance(seconds, UnsetType):
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def ago(moment: str) -> str:
    """How long ago this moment of a view was, or how soon it is."""
    seconds = (utc_now() - datetime.fromisoformat(moment)).total_seconds()
    if abs(seconds) < 5:
        return "now"
    return f"in {_about(-seconds)}" if seconds < 0 else f"{_about(seconds)} ago"


def moment(text: str) -> str:
    """A moment of a view in full."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(text: str) -> str:
    """The time of day of a moment of a view, in UTC."""
    return datetime.fromisoformat(text).strftime("%H:%M:%S")


def number(value: float | UnsetType | None) -> str:
    """A count with its thousands apart."""
    return UNKNOWN if value is None or isinstance(value, UnsetType) else f"{value:,}"


def seconds_between(begin: str, end: str) -> float:
    """Between two moments of views."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def known(value: object) -> bool:
    """Whether a key of a view has a value."""
    return value is not UNSET and value is not None


def shortened(digest: str) -> str:
    """The beginning of a long id or digest, enough to tell it from others."""
    return digest[:12] if len(digest) > 20 else digest


def literal(value: object) -> str:
    """A value of an option as a request would give it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _about(seconds: float) -> str:
    for length, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


FILTERS: Mapping[str, Callable[..., object]] = {
    "size": size,
    "rate": rate,
    "duration": duration,
    "ago": ago,
    "moment": moment,
    "clock": clock,
    "number": number,
    "shortened": shortened,
    "known": known,
    "literal": literal,
    "seconds_to": seconds_between,
}
