"""The numbers of the drawings: templates draw them."""

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from api.dashboard.words import size
from api.wire.overview import HourView, VolumeView

HEIGHT = 100.0
STEP = 10.0
_WIDTH = 7.0
_LEAST = 1.5
"""So much of a column is seen of an hour in which anything at all happened."""
_RADIUS = 50.0


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One hour in a chart."""

    x: float
    y: float
    width: float
    height: float
    word: str
    failed: int


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """The hours of a day."""

    columns: list[Column]
    width: float
    height: float
    peak: str
    """What the highest column stands for."""
    marks: list[str]
    """Hours below it, evenly spread."""
    words: str
    """The chart for those who do not see it."""


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """A ring: what models take, what else is on the volume, what is free."""

    radius: float
    around: float
    own: float
    others: float
    """Lengths along the ring; `others` begins where `own` ends."""
    percent: int
    own_bytes: int
    other_bytes: int
    state: str
    """`good`, `warn` or `bad`: how near the end is."""


def throughput(hours: Sequence[HourView]) -> Chart:
    """Bytes per hour as columns."""
    most = max((hour.bytes_fetched for hour in hours), default=0)
    columns = [_column(place, hour, most) for place, hour in enumerate(hours)]
    total = sum(hour.bytes_fetched for hour in hours)
    words = (
        f"Fetched in the last 24 hours: {size(total)}, at most {size(most)} in one hour. "
        f"{sum(hour.completed for hour in hours)} jobs were completed, {sum(hour.failed for hour in hours)} failed."
    )
    marks = [_clock(hour) for hour in hours[::6]] + ["now"] if hours else []
    return Chart(
        columns=columns, width=len(hours) * STEP, height=HEIGHT, peak=size(most) if most else "", marks=marks,
        words=words,
    )  # fmt: skip


def gauge(volume: VolumeView) -> Gauge:
    """How full the volume is."""
    total = max(1, volume.total_bytes)
    used = max(0, volume.total_bytes - volume.free_bytes)
    own = min(volume.models_bytes, used)
    around = 2 * math.pi * _RADIUS
    full = used / total
    return Gauge(
        radius=_RADIUS,
        around=round(around, 2),
        own=round(around * own / total, 2),
        others=round(around * (used - own) / total, 2),
        percent=round(100 * full),
        own_bytes=own,
        other_bytes=used - own,
        state="bad" if full > 0.95 else "warn" if full > 0.85 else "good",
    )


def _column(place: int, hour: HourView, most: int) -> Column:
    share = hour.bytes_fetched / most if most else 0.0
    height = max(_LEAST, share * HEIGHT) if hour.bytes_fetched else 0.0
    words = [size(hour.bytes_fetched), f"{hour.completed} completed"]
    if hour.failed:
        words.append(f"{hour.failed} failed")
    return Column(
        x=place * STEP + (STEP - _WIDTH) / 2,
        y=round(HEIGHT - height, 2),
        width=_WIDTH,
        height=round(height, 2),
        word=f"{_clock(hour)}: {', '.join(words)}",
        failed=hour.failed,
    )


def _clock(hour: HourView) -> str:
    return datetime.fromisoformat(hour.begins_at).strftime("%H:%M")
