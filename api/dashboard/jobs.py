"""The pages of jobs: all of them, and one."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect
from msgspec import UNSET, structs

from api.compat.listing import JobsQuery, read_jobs_query
from api.dashboard.pages import Pages, see
from api.dashboard.snippets import snippets
from api.dashboard.timeline import steps
from api.live.streams import Streams
from api.live_views import log_page
from api.problems import AnyRequest
from api.routes.asking import read_asker
from api.usecases import Jobs
from api.views import Places, attempt_page, job_view
from api.wire import JobPage, JobView
from api.wire.live import LogLine
from common.errors import NoSuchJob
from common.lifecycle import ENDED_JOBS
from common.vocabulary import JobState, Operation

_PAGE = 25
_MOST_OF_A_MODEL = 200
_MOST_LINES = 1000


@get("/ui/jobs", sync_to_thread=True)
def jobs_page(
    request: AnyRequest, pages: NamedDependency[Pages], jobs: NamedDependency[Jobs], places: NamedDependency[Places]
) -> Response[str]:
    """Newest first, page by page; with `name` the jobs of one model."""
    return pages.page("jobs.html", active="jobs", **_listed(request, jobs, places))


@get("/ui/jobs/list", sync_to_thread=True)
def jobs_list(
    request: AnyRequest, pages: NamedDependency[Pages], jobs: NamedDependency[Jobs], places: NamedDependency[Places]
) -> Response[str]:
    """The table alone."""
    return pages.page("fragments/jobs.html", **_listed(request, jobs, places))


@get("/ui/jobs/{job_id:str}", sync_to_thread=True)
def job_page(
    *,
    request: AnyRequest,
    job_id: FromPath[str],
    pages: NamedDependency[Pages],
    jobs: NamedDependency[Jobs],
    streams: NamedDependency[Streams],
    places: NamedDependency[Places],
) -> Response[str]:
    jobs.job(job_id)
    lines = _lines(streams, job_id)
    # After the log, from whose end the page listens: what is shown must not be older than that.
    job = job_view(jobs.job(job_id), places)
    address = str(request.base_url).rstrip("/")
    return pages.page(
        "job.html",
        active="jobs",
        lines=lines[-_MOST_LINES:],
        last_line=lines[-1].id if lines else None,
        snippets=snippets(job, address),
        **_state(job, jobs),
    )


@get("/ui/jobs/{job_id:str}/state", sync_to_thread=True)
def job_state(
    job_id: FromPath[str],
    pages: NamedDependency[Pages],
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> Response[str]:
    """The part of a job's page that changes."""
    return pages.page("fragments/job.html", **_state(job_view(jobs.job(job_id), places), jobs))


@post("/ui/jobs/{job_id:str}/cancel", sync_to_thread=True)
def cancel(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> Redirect:
    return see(f"/ui/jobs/{jobs.cancel(job_id).id}")


@post("/ui/jobs/{job_id:str}/retry", sync_to_thread=True)
def retry(request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> Redirect:
    """Shows the new job."""
    accepted = jobs.retry(job_id, read_asker(request, "retry", job_id))
    return see(f"/ui/jobs/{accepted.ids[0]}")


@post("/ui/jobs/{job_id:str}/forget", sync_to_thread=True)
def forget(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> Redirect:
    jobs.delete(job_id)
    return see("/ui/jobs")


def _state(job: JobView, jobs: Jobs) -> dict[str, Any]:
    return {
        "job": job,
        "steps": steps(job, attempt_page(jobs.attempts(job.id)).attempts),
        "ended": job.status in ENDED_JOBS,
        "may_retry": job.status in {JobState.FAILED, JobState.CANCELED} and job.operation_type is not Operation.UPLOAD,
        "has_provenance": job.status is JobState.COMPLETED and job.result and job.result.artefact is not UNSET,
    }


def _lines(streams: Streams, job_id: str) -> list[LogLine]:
    return log_page(streams.events.of_job(job_id, limit=_MOST_LINES)).lines


def _listed(request: AnyRequest, jobs: Jobs, places: Places) -> dict[str, Any]:
    given = dict(request.query_params)
    name = given.get("name", "").strip()
    state = given.get("status") or None
    asked = read_jobs_query(
        [(key, given[key]) for key in ("status", "cursor") if given.get(key)]
        + [("sort", "-created_at"), ("limit", str(_PAGE))]
    )
    page = _of_model(name, asked, jobs, places) if name else _page(asked, jobs, places)
    return {
        "page": page,
        "name": name,
        "state": state,
        "first": not given.get("cursor"),
        "states": list(JobState),
        "query": {key: value for key, value in (("status", state), ("name", name)) if value},
        "cursor": given.get("cursor", ""),
    }


def _page(asked: JobsQuery, jobs: Jobs, places: Places) -> JobPage:
    begin = asked.beginning
    page = jobs.page(after=begin.after, limit=asked.page_limit, state=asked.status, newest_first=begin.newest_first)
    cursor = UNSET if page.next is None else structs.replace(begin, after=page.next).text()
    return JobPage(jobs=[job_view(record, places) for record in page.records], next_cursor=cursor)


def _of_model(name: str, asked: JobsQuery, jobs: Jobs, places: Places) -> JobPage:
    try:
        records = jobs.of_model(name)
    except NoSuchJob:
        return JobPage(jobs=[])
    views = [job_view(record, places) for record in reversed(records[-_MOST_OF_A_MODEL:])]
    return JobPage(jobs=[job for job in views if asked.status in {None, job.status}])
