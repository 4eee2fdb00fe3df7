"""Waiting for jobs at a terminal: bars, what came of them, and how to go on when the waiting is broken off."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from msgspec import UNSET

from api.cli.bars import display
from api.cli.exits import Exit, Stop, exit_of_jobs
from api.cli.following import follow, nothing
from api.cli.interrupts import Interrupted, interruptible
from api.cli.output import Output, Table, clean, note
from api.cli.session import Session
from api.client import TimedOut, Unreachable
from api.wire import JobPage, JobView
from common.errors import ModelferryError
from common.vocabulary import JobState


def wait_and_show(
    ours: Session,
    ids: Sequence[str],
    timeout_s: float | None,
    *,
    cancel: bool = False,
    tend: Callable[[], None] = nothing,
    lasting: bool = True,
) -> Exit:
    """Wait until all jobs have ended, and show them. Raises what breaks it off.

    `cancel`: so does Ctrl-C with the jobs. `lasting`: they go on without us, and the user is told how to come back.
    """
    try:
        # Where the jobs end with us, whoever has started the service heeds the signals, until it is gone.
        with interruptible() if lasting else nullcontext():
            jobs = follow(ours.client, ids, display(quiet=ours.quiet), timeout_s=timeout_s, tend=tend)
    except Interrupted as interrupt:
        if not lasting:
            raise
        if cancel:
            _cancel(ours, ids)
        else:
            note(f"Interrupted. {_how_to_go_on(ids)}")
        raise Stop(interrupt.exit_code) from None
    except (TimedOut, Unreachable) as error:
        if lasting and isinstance(error, TimedOut):
            note(_how_to_go_on(ids))
        elif lasting:
            note(f"The jobs are kept. To wait again: modelferry jobs wait {' '.join(ids)}")
        raise
    show_jobs(ours.output, jobs)
    return exit_of_jobs(jobs)


def show_jobs(output: Output, jobs: Sequence[JobView]) -> None:
    """Jobs that have ended: where the models are, and on standard error why others are not."""
    output.show(JobPage(jobs=list(jobs)), results_table(jobs))
    for job in jobs:
        if job.status is JobState.FAILED:
            tell_of_failure(output, job.model_name, job.error, job.error_code, job.hint)


def results_table(jobs: Sequence[JobView]) -> Table:
    """What came of jobs."""
    return Table(
        columns=("job", "model", "status", "path"),
        rows=[(job.id, job.model_name, job.status, job.path) for job in jobs],
        ids=[job.id for job in jobs],
    )


def tell_of_failure(output: Output, name: str, error: object, code: object, hint: object) -> None:
    """Why something has failed. With JSON that is in the data already."""
    if output.form == "json":
        return
    reason = f" ({code})" if code is not UNSET else ""
    told = clean(str(error)) if error is not UNSET else "nobody knows why"
    note(f"modelferry: {clean(name)} has failed{reason}: {told}")
    if hint is not UNSET:
        note(f"  {clean(str(hint))}")


def _how_to_go_on(ids: Sequence[str]) -> str:
    named = " ".join(ids)
    return f"The work goes on. To wait again: modelferry jobs wait {named}\nTo end it: modelferry jobs cancel {named}"


def _cancel(ours: Session, ids: Sequence[str]) -> None:
    with ours.client() as client:
        for job_id in ids:
            try:
                client.cancel(job_id)
            except ModelferryError:
                # It has ended meanwhile, or nobody answers any more.
                continue
    note("Interrupted. The jobs are cancelled; what has arrived is kept.")
