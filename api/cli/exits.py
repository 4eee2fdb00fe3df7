"""Exit codes: what a script learns of how a command has ended."""

from collections.abc import Iterable
from enum import IntEnum

import msgspec
from msgspec import UnsetType

from api.client import Refused, TimedOut
from api.wire import JobView
from common.errors import ModelferryError
from common.vocabulary import JobState


class Exit(IntEnum):
    """The codes. docs/cli.md has them for readers; they are frozen."""

    OK = 0
    FAILED = 1
    """What was asked for was tried, and has failed or was cancelled."""
    USAGE = 2
    """The command line is wrong; nothing was asked."""
    NOT_FOUND = 3
    """No such job, model, gate, or no such model at the hub."""
    NOT_ALLOWED = 4
    """The service or the hub wants other credentials."""
    TIMED_OUT = 5
    """The time given by --timeout is over. What runs goes on."""
    UNREACHABLE = 6
    """Nobody answers, or somebody who cannot serve now."""
    REFUSED = 7
    """The service answered, and refused for another reason."""
    INTERRUPTED = 130


class Stop(Exception):
    """Ends the command with this code; its text, if it has any, is told first."""

    def __init__(self, code: int, detail: str = "", hint: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint


class Complaint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a command has failed: what `--format json` writes to standard error, on one line."""

    detail: str
    exit_code: int
    code: str = ""
    hint: str = ""
    status: int = 0
    """Of the service's answer."""


_NOT_FOUND_CODES = frozenset({"source_not_found", "revision_not_found"})
_NOT_ALLOWED_CODES = frozenset({
    "source_gated", "source_private_or_missing", "token_invalid", "credentials_refused", "credentials_invalid",
    "credentials_lost",
})  # fmt: skip
_UNABLE = frozenset({500, 503, 504})
"""The service is there, and cannot answer now."""


def complaint_about(error: ModelferryError | Stop) -> Complaint:
    """What is said of an error, and the exit code that goes with it."""
    if isinstance(error, Stop):
        return Complaint(detail=str(error), exit_code=error.code, hint=error.hint)
    if isinstance(error, Refused):
        code = error.code or ""
        return Complaint(
            detail=str(error), exit_code=_of_answer(error.status, code), code=code,
            hint=error.hint or _HINTS.get(code, ""), status=error.status,
        )  # fmt: skip
    if isinstance(error, TimedOut):
        return Complaint(detail=str(error), exit_code=Exit.TIMED_OUT)
    return Complaint(detail=str(error), exit_code=Exit.UNREACHABLE, hint=_START)


_HINTS = {
    "unauthenticated": "Set MODELFERRY_API_KEY, or name a file that holds a key with --api-key-file.",
    "forbidden": "`modelferry whoami` tells what your key may do; an admin makes others with `modelferry keys add`.",
}
_START = "Is the service running? `modelferry up` starts one; --url or MODELFERRY_URL name another."


def exit_of_jobs(jobs: Iterable[JobView]) -> Exit:
    """0 when all are completed; a reason of its own where every one that is not has failed for that reason."""
    codes = {exit_of_job(job) for job in jobs} - {Exit.OK}
    if not codes:
        return Exit.OK
    return codes.pop() if len(codes) == 1 else Exit.FAILED


def exit_of_job(job: JobView) -> Exit:
    """The exit code of one job that has ended."""
    if job.status is JobState.COMPLETED:
        return Exit.OK
    return exit_of_code(job.error_code)


def exit_of_code(code: str | UnsetType) -> Exit:
    """The exit code of what has failed with an error code."""
    if code in _NOT_FOUND_CODES:
        return Exit.NOT_FOUND
    return Exit.NOT_ALLOWED if code in _NOT_ALLOWED_CODES else Exit.FAILED


def _of_answer(status: int, code: str) -> Exit:
    if status == 404:
        return Exit.NOT_FOUND
    if status in {401, 403} or code in _NOT_ALLOWED_CODES:
        return Exit.NOT_ALLOWED
    return Exit.UNREACHABLE if status in _UNABLE else Exit.REFUSED
