"""`modelferry jobs`: look at jobs, wait for them, end them, try them again."""

from typing import Annotated

import typer
from msgspec import UNSET

from api.cli.amounts import duration as in_words
from api.cli.amounts import moment, size
from api.cli.bars import doing
from api.cli.output import Form, Table, clean, facts, print_line
from api.cli.session import ServiceCommand, Session, duration, session
from api.cli.waiting import wait_and_show
from api.client import Client
from api.wire import JobPage, JobView
from api.wire.live import LogLine
from common.vocabulary import JobState

_PAGE = 200

Ids = Annotated[list[str], typer.Argument(help="Ids of jobs.", metavar="JOB...")]
Id = Annotated[str, typer.Argument(help="The id of a job.", metavar="JOB")]
Timeout = Annotated[str | None, typer.Option(help="Wait no longer than this: 90s, 30m, 2h.", metavar="DURATION")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at jobs, wait for them, end them.")
    group.command("ls", cls=ServiceCommand)(list_jobs)
    group.command("get", cls=ServiceCommand)(get_job)
    group.command("logs", cls=ServiceCommand)(show_log)
    group.command("wait", cls=ServiceCommand)(wait_for_jobs)
    group.command("cancel", cls=ServiceCommand)(cancel_jobs)
    group.command("retry", cls=ServiceCommand)(retry_jobs)
    group.command("rm", cls=ServiceCommand)(remove_jobs)
    app.add_typer(group, name="jobs")


def list_jobs(
    context: typer.Context,
    status: Annotated[JobState | None, typer.Option(help="Only jobs in this state.", case_sensitive=False)] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many. Default: all.", min=1)] = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False,
) -> None:
    r"""List jobs, the oldest first.

    \b
    modelferry jobs ls --status failed
    modelferry jobs ls --newest --limit 10 --format json
    """
    ours = session(context)
    with ours.client() as client:
        jobs = _jobs(client, status, limit, newest=newest)
    rows = [
        (
            job.id,
            job.model_name,
            job.hub,
            doing(job),
            _percent(job),
            size(job.progress.bytes_done),
            moment(job.creation_time),
        )
        for job in jobs
    ]
    columns = ("job", "model", "hub", "status", "done", "bytes", "created")
    table = Table(columns=columns, rows=rows, ids=[job.id for job in jobs], empty="There are no such jobs.")
    ours.output.show(JobPage(jobs=jobs), table)


def get_job(context: typer.Context, job_id: Id) -> None:
    r"""Show one job.

    \b
    modelferry jobs get JOB --format json
    """
    ours = session(context)
    with ours.client() as client:
        job = client.job(job_id)
    ours.output.show(job, _facts_of(job))


def show_log(
    context: typer.Context,
    job_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    r"""Show what has happened to a job. With --format json, one object a line.

    \b
    modelferry jobs logs JOB --follow
    """
    ours = session(context)
    with ours.client() as client:
        after = _show_lines(ours, client, job_id, None)
        if follow:
            for event in client.events(job_id, last_event_id=after):
                if event.event != "progress":
                    after = _show_lines(ours, client, job_id, after)


def wait_for_jobs(context: typer.Context, ids: Ids, timeout: Timeout = None) -> None:
    r"""Wait until jobs have ended, with bars. Ctrl-C leaves them running.

    \b
    modelferry jobs wait JOB JOB --timeout 30m
    """
    ours = session(context)
    patience = duration(timeout)
    with ours.client() as client:
        for job_id in ids:
            # Whoever is mistaken in a job or an address learns it now, and not after some patience.
            client.job(job_id)
    raise typer.Exit(wait_and_show(ours, ids, patience))


def cancel_jobs(context: typer.Context, ids: Ids) -> None:
    """End jobs now. What has arrived is kept."""
    ours = session(context)
    with ours.client() as client:
        answers = ours.each(ids, client.cancel)
    rows = [(answer.job_id, answer.status) for answer in answers]
    ids_done = [answer.job_id for answer in answers]
    ours.output.show(answers, Table(columns=("job", "status"), rows=rows, ids=ids_done))
    ours.end()


def retry_jobs(
    context: typer.Context,
    ids: Ids,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the new jobs.")] = False,
    timeout: Timeout = None,
) -> None:
    """Try failed or cancelled jobs again. Each is a new job, which goes on with what has arrived."""
    ours = session(context)
    patience = duration(timeout)
    with ours.client() as client:
        jobs = ours.each(ids, client.retry)
    if wait and jobs:
        ours.end(wait_and_show(ours, [job.id for job in jobs], patience))
    rows = [(job.id, job.model_name, job.retry_of) for job in jobs]
    table = Table(columns=("job", "model", "retry of"), rows=rows, ids=[job.id for job in jobs])
    ours.output.show(JobPage(jobs=jobs), table)
    ours.end()


def remove_jobs(context: typer.Context, ids: Ids) -> None:
    """Forget jobs that have ended. Their models stay."""
    ours = session(context)
    with ours.client() as client:
        ours.each(ids, client.delete)
    ours.end()


def _jobs(client: Client, status: JobState | None, limit: int | None, *, newest: bool) -> list[JobView]:
    jobs: list[JobView] = []
    cursor = ""
    while limit is None or len(jobs) < limit:
        wanted = _PAGE if limit is None else min(_PAGE, limit - len(jobs))
        page = client.page(cursor, limit=wanted, status=status, newest_first=newest)
        jobs += page.jobs
        if page.next_cursor is UNSET:
            break
        cursor = page.next_cursor
    return jobs


def _facts_of(job: JobView) -> Table:
    progress = job.progress
    total = "" if progress.bytes_total is None else f" of {size(progress.bytes_total)}"
    return facts(
        [
            ("job", job.id),
            ("model", job.model_name),
            ("hub", job.hub),
            ("revision", job.revision),
            ("operation", job.operation_type),
            ("status", job.status),
            ("doing", doing(job)),
            ("done", _percent(job)),
            ("bytes", f"{size(progress.bytes_done)}{total}"),
            ("speed", progress.speed_bps and f"{size(progress.speed_bps)}/s"),
            ("time left", progress.eta_s and in_words(progress.eta_s)),
            ("attempt", job.attempt),
            ("priority", job.priority),
            ("tenant", job.tenant),
            ("requested by", job.requested_by),
            ("created", moment(job.creation_time)),
            ("completed", _moment(job.completion_time)),
            ("path", job.path),
            ("error code", job.error_code),
            ("error", job.error),
            ("hint", job.hint),
            ("again at", _moment(job.retry_at)),
            ("last error", job.last_error),
            ("retry of", job.retry_of),
            ("trace", job.trace_id),
        ],
        ids=[job.id],
    )


def _moment(text: object) -> str | None:
    return moment(text) if isinstance(text, str) else None


def _bytes(job: JobView) -> str:
    return size(job.progress.bytes_done)


def _percent(job: JobView) -> str | None:
    return None if job.progress.percent is None else f"{job.progress.percent:.0f}%"


def _show_lines(ours: Session, client: Client, job_id: str, after: str | None) -> str | None:
    """Every line after the one with this id. The id of the last one."""
    while True:
        page = client.log(job_id, after=after, limit=_PAGE)
        for line in page.lines:
            _show_line(ours, line)
        if page.next_after is UNSET:
            return after
        after = page.next_after
        if len(page.lines) < _PAGE:
            return after


def _show_line(ours: Session, line: LogLine) -> None:
    if ours.form is Form.JSON:
        ours.output.json_line(line)
        return
    where = "" if line.stage is UNSET else f" {line.stage}{'' if line.attempt is UNSET else f' {line.attempt}'}:"
    print_line(clean(f"{moment(line.at)} {line.level:7} {line.event}{where} {line.message}"))
