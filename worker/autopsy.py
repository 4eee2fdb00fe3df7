"""Why a child died: the operator's memory limit, the system's want of memory, or a crash."""

import logging
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from common.errors import ChildCrashed, MemoryLimitExceeded, OutOfMemory
from common.outcome import Failed, Outcome, Retry
from common.records import Claim
from common.seals import blot_out
from worker.forkserver import Exit

log = logging.getLogger(__name__)

_LOG_TAIL_BYTES = 4000
_LAST_LINES = 20
_OF_THE_LOG = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2} (debug|info|warning|error|critical) ")
# Libraries in C++ end the process when they find no memory; these last words are all they leave.
_NO_MEMORY = "std::bad_alloc"


def over_limit(claim: Claim, limit_bytes: int, used_bytes: int) -> Failed:
    """The outcome of a child that is stopped because it uses more memory than the operator allows."""
    detail = f"The {claim.kind} process used {_gb(used_bytes)}, and {_gb(limit_bytes)} are allowed"
    log.error("stage.over_limit", extra={"stage": claim.stage_id, "used": used_bytes, "limit": limit_bytes})
    return Failed(code=MemoryLimitExceeded.code, detail=detail, hint=MemoryLimitExceeded.hint)


def cause_of_death(
    claim: Claim,
    ended: Exit | None,
    log_file: Path,
    *,
    oom_killed: bool,
    memory_limit: int | None,
    peak_bytes: int,
    hidden: Sequence[str] = (),
) -> Outcome:
    """The outcome of a child that died without one, and that nobody here has killed. `hidden` is shown to nobody."""
    tail = blot_out(_tail(log_file), hidden)
    log.error("stage.child_died", extra={"stage": claim.stage_id, "exit": ended, "output": tail})
    if ended is not None and ended.signal == signal.SIGKILL and oom_killed and not ended.lost:
        detail = f"The system killed the {claim.kind} process for want of memory (it held {_gb(ended.max_rss_bytes)})"
        return Failed(code=OutOfMemory.code, detail=detail, hint=OutOfMemory.hint)
    if ended is not None and ended.signal == signal.SIGABRT and _NO_MEMORY in tail:
        error = OutOfMemory if memory_limit is None else MemoryLimitExceeded
        allowed = "" if memory_limit is None else f"; it had used {_gb(peak_bytes)} of the {_gb(memory_limit)} allowed"
        return Failed(code=error.code, detail=f"The {claim.kind} process got no memory{allowed}", hint=error.hint)
    cause = "it ended" if ended is None else f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
    detail = f"The {claim.kind} process died without an outcome ({cause})." + (f"\n{tail}" if tail else "")
    return Retry(code=ChildCrashed.code, detail=detail, hint=ChildCrashed.hint, crashed=True)


def last_words(log_file: Path) -> list[str]:
    """The last lines that a child wrote by itself: those of its log, which it has told as well, are left out."""
    lines = _tail(log_file).splitlines()
    # The first one may have lost its beginning.
    whole = lines[1:] if len(lines) > 1 else lines
    return [line for line in whole if line.strip() and not _OF_THE_LOG.match(line)][-_LAST_LINES:]


def _tail(log_file: Path) -> str:
    try:
        with log_file.open("rb") as stream:
            stream.seek(max(0, log_file.stat().st_size - _LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
