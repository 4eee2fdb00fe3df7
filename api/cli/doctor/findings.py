"""What an examination has found."""

from collections.abc import Iterator
from enum import StrEnum

from api.wire import View


class Verdict(StrEnum):
    """How things are."""

    OK = "ok"
    WARN = "warn"
    """It works, but not well, or not all of it."""
    FAIL = "fail"


class Finding(View, frozen=True):
    """One line of the examination."""

    part: str
    verdict: Verdict
    text: str
    fix: str = ""
    """What to do about it."""


Findings = Iterator[Finding]


def ok(part: str, text: str) -> Finding:
    """Nothing is to be done."""
    return Finding(part=part, verdict=Verdict.OK, text=text)


def warn(part: str, text: str, fix: str) -> Finding:
    """Something could be better."""
    return Finding(part=part, verdict=Verdict.WARN, text=text, fix=fix)


def fail(part: str, text: str, fix: str) -> Finding:
    """Something has to be mended."""
    return Finding(part=part, verdict=Verdict.FAIL, text=text, fix=fix)
