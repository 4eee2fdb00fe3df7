"""How long a server asks us to stay away."""

import email.message
import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from common.clock import Clock, utc_now

_LONGEST_WAIT_S = 24 * 3600.0


def wished_wait(headers: Mapping[str, str] | email.message.Message, now: Clock = utc_now) -> float | None:
    """How many seconds, by `Retry-After` or by `RateLimit: "name";r=0;t=seconds`. None where it wishes for nothing."""
    waits = spent_quotas(headers)
    asked = (headers.get("Retry-After") or headers.get("retry-after") or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        waits.append(float(asked))
    elif asked:
        # No date, one without a zone, or one that no calendar has is as good as no wish.
        with suppress(TypeError, ValueError, OverflowError):
            waits.append((parsedate_to_datetime(asked) - now()).total_seconds())
    return min(max(0.0, *waits), _LONGEST_WAIT_S) if waits else None


def spent_quotas(headers: Mapping[str, str] | email.message.Message) -> list[float]:
    """When each of the server's quotas of which nothing remains is filled again, in seconds from now."""
    told = headers.get("RateLimit") or headers.get("ratelimit") or ""
    return [min(float(found), _LONGEST_WAIT_S) for found in re.findall(r";\s*r=0\s*;\s*t=(\d+)", told)]
