"""How jobs come along, for the person at the terminal: bars where one is, else a line for every change."""

from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from msgspec import UNSET

from api.cli.amounts import duration, size
from api.cli.output import clean, note
from api.cli.terminal import TOTAL, TerminalBars, bars_wanted
from api.wire import JobView
from common.vocabulary import JobState, Phase

ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})

_WORDS = {
    Phase.WAITING: "waiting",
    Phase.RESOLVING: "asking the hub",
    Phase.DOWNLOADING: "fetching",
    Phase.VERIFYING: "verifying",
    Phase.CONVERTING: "converting",
    Phase.CHECKING: "checking",
    Phase.PUBLISHING: "publishing",
    Phase.DONE: "done",
}


class Display(Protocol):
    """Shows jobs while they change. A context manager."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and leave the terminal as it was."""

    def show(self, job: JobView) -> None:
        """Show a job as it is now."""


def display(*, quiet: bool) -> Display:
    """Bars where somebody watches and wants them."""
    return Bars() if bars_wanted(quiet=quiet) else Lines()


class Lines:
    """One line for every change of what a job is doing; none for bytes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to end."""

    def show(self, job: JobView) -> None:
        """Say what is new, if anything is."""
        words = doing(job)
        if self._said.get(job.id) != words:
            self._said[job.id] = words
            note(f"{clean(job.model_name)}: {words}")


class Bars:
    """A bar for each job, and one for all of them where there are several."""

    def __init__(self) -> None:
        self._bars = TerminalBars()
        self._jobs: dict[str, JobView] = {}

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def show(self, job: JobView) -> None:
        """Move its bar, and that of all."""
        self._jobs[job.id] = job
        self._bars.move(job.id, job.model_name, doing(job), _share(job), amount=_amount([job]), pace=_pace([job]))
        if len(self._jobs) > 1:
            jobs = list(self._jobs.values())
            self._bars.move(TOTAL, TOTAL, _count(jobs), _shares(jobs), amount=_amount(jobs), pace=_pace(jobs))


def doing(job: JobView) -> str:
    """What a job is doing, in a word or a few."""
    if job.status is JobState.FAILED:
        return f"failed ({job.error_code})" if job.error_code is not UNSET else "failed"
    if job.status in ENDED:
        return job.status.value
    if job.retry_at is not UNSET:
        reason = "" if job.last_error_code is UNSET else f" ({job.last_error_code})"
        return f"again {_at(job.retry_at)}{reason}"
    return _WORDS[job.progress.phase]


def _at(moment: str) -> str:
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return "later"
    aware = then if then.tzinfo else then.replace(tzinfo=UTC)
    return f"at {aware.astimezone():%H:%M:%S}"


def _share(job: JobView) -> float | None:
    if job.status is JobState.COMPLETED:
        return 1.0
    progress = job.progress
    if progress.percent is not None:
        return progress.percent / 100
    return progress.bytes_done / progress.bytes_total if progress.bytes_total else None


def _shares(jobs: list[JobView]) -> float:
    """How much of everything is done: by bytes where all sizes are known, else each job counts the same."""
    sizes = [job.progress.bytes_total or 0 for job in jobs]
    weights = sizes if all(sizes) else [1] * len(jobs)
    return sum((_share(job) or 0.0) * weight for job, weight in zip(jobs, weights, strict=True)) / sum(weights)


def _amount(jobs: list[JobView]) -> str:
    done = sum(job.progress.bytes_done for job in jobs)
    totals = [job.progress.bytes_total for job in jobs]
    known = [total for total in totals if total is not None]
    if not known:
        return size(done) if done else ""
    # The plus: of some, nobody knows the size yet.
    return f"{size(done)} / {size(sum(known))}{'' if len(known) == len(totals) else ' +'}"


def _pace(jobs: list[JobView]) -> str:
    fetching = [job.progress for job in jobs if job.status not in ENDED]
    speed = sum(progress.speed_bps or 0.0 for progress in fetching)
    waits = [progress.eta_s for progress in fetching if progress.eta_s is not None]
    if not speed:
        return ""
    return f"{size(speed)}/s" + (f", {duration(max(waits))}" if waits else "")


def _count(jobs: list[JobView]) -> str:
    return f"{sum(job.status in ENDED for job in jobs)} of {len(jobs)}"
