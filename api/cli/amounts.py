"""Sizes, times and durations as people write and read them."""

import re
from datetime import UTC, datetime

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE)
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def seconds_in(text: str) -> float:
    """`90`, `90s`, `30m`, `1h30m`, `2d` in seconds. Raises ValueError."""
    parts = [*_DURATION.finditer(text.strip().lower())]
    if not parts or "".join(part[0] for part in parts) != text.strip().lower():
        raise ValueError(f"{text!r} is no duration; write 90, 90s, 30m, 1h30m or 2d")
    return sum(float(part[1]) * _UNITS[part[2] or "s"] for part in parts)


def bytes_in(text: str) -> int:
    """`5000000`, `5M`, `5MB/s` in bytes. Raises ValueError."""
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 5000000, 500k, 20M or 1G")
    return int(float(found[1]) * _MULTIPLES[found[2].lower()])


def size(count: float | None) -> str:
    """A number of bytes: `512 B`, `1.4 GB`. Nobody's knowledge is a dash."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """`12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def moment(text: str | None) -> str:
    """A time of the service in the time zone of this machine, to the second."""
    if not text:
        return "-"
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return text
    aware = then if then.tzinfo else then.replace(tzinfo=UTC)
    return aware.astimezone().strftime("%Y-%m-%d %H:%M:%S")
