"""Jobs: list, look at one, cancel."""

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams
from litestar.status_codes import HTTP_200_OK
from msgspec import UNSET

from api.compat.listing import JobsQuery, read_jobs_query
from api.problems import documented
from api.routes.documented import reads
from api.usecases import Jobs
from api.views import Places, cancel_view, job_view
from api.wire import CancelView, JobPage, JobView


@get(
    "/jobs",
    sync_to_thread=True,
    tags=["jobs"],
    summary="List jobs",
    operation_class=reads(query=JobsQuery),
    responses=documented(422, 503),
)
def list_jobs(query: QueryParams, jobs: NamedDependency[Jobs], places: NamedDependency[Places]) -> JobPage:
    asked = read_jobs_query(query.multi_items())
    records = jobs.jobs(asked.status, asked.limit, asked.offset or 0)
    total = jobs.count(asked.status) if asked.wants_total else UNSET
    return JobPage(jobs=[job_view(record, places) for record in records], total=total)


@get(
    "/jobs/{job_id:str}",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Look at a job",
    responses=documented(400, 404, 503),
)
def get_job(job_id: FromPath[str], jobs: NamedDependency[Jobs], places: NamedDependency[Places]) -> JobView:
    return job_view(jobs.job(job_id), places)


@post(
    "/jobs/{job_id:str}/cancel",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["jobs"],
    summary="Cancel a job",
    responses=documented(400, 404, 409, 503),
)
def cancel_job(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> CancelView:
    return cancel_view(jobs.cancel(job_id))
