"""Jobs: list, look at one, cancel, retry, forget."""

from collections.abc import Mapping
from urllib.parse import urlencode

from litestar import Response, delete, get, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParams
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED
from msgspec import UNSET, structs

from api.compat.listing import JobsQuery, read_jobs_query
from api.problems import AnyRequest, documented
from api.routes.asking import HEADERS, REPLAYED_HEADER, read_asker, replayed
from api.routes.documented import reads
from api.usecases import Jobs
from api.views import Places, attempt_page, cancel_view, job_view
from api.wire import AttemptPage, CancelView, JobPage, JobView

_LINK = ResponseHeader(
    name="Link",
    documentation_only=True,
    required=False,
    description='The path of the next page, with `rel="next"`; absent on the last one.',
    value='</jobs?cursor=abc>; rel="next"',
)
_LOCATION = ResponseHeader(
    name="Location", documentation_only=True, required=True, description="The path of the new job.", value="/jobs/abc"
)


@get(
    "/jobs",
    sync_to_thread=True,
    tags=["jobs"],
    summary="List jobs",
    operation_class=reads(query=JobsQuery),
    response_headers=[_LINK],
    responses=documented(422, 503),
)
def list_jobs(
    request: AnyRequest, query: QueryParams, jobs: NamedDependency[Jobs], places: NamedDependency[Places]
) -> Response[JobPage]:
    asked = read_jobs_query(query.multi_items())
    if asked.wants_page:
        return _page(request, asked, jobs, places)
    records = jobs.jobs(asked.status, asked.limit, asked.offset or 0)
    total = jobs.count(asked.status) if asked.wants_total else UNSET
    return Response(JobPage(jobs=[job_view(record, places) for record in records], total=total))


@get(
    "/jobs/{job_id:str}",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Look at a job",
    responses=documented(400, 404, 503),
)
def get_job(job_id: FromPath[str], jobs: NamedDependency[Jobs], places: NamedDependency[Places]) -> JobView:
    return job_view(jobs.job(job_id), places)


@get(
    "/jobs/{job_id:str}/attempts",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Look at every attempt",
    responses=documented(400, 404, 503),
)
def list_attempts(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> AttemptPage:
    return attempt_page(jobs.attempts(job_id))


@get(
    "/jobs/{job_id:str}/provenance",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Export how a model came to be",
    responses=documented(400, 404, 409, 503),
)
def get_provenance(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> dict[str, object]:
    """An in-toto statement with a SLSA provenance predicate, not signed."""
    return jobs.provenance(job_id)


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


@post(
    "/jobs/{job_id:str}/retry",
    status_code=HTTP_202_ACCEPTED,
    sync_to_thread=True,
    tags=["jobs"],
    summary="Try a job again",
    operation_class=reads(headers=HEADERS),
    response_headers=[_LOCATION, REPLAYED_HEADER],
    responses=documented(400, 404, 409, 422, 503),
)
def retry_job(
    request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[Jobs], places: NamedDependency[Places]
) -> Response[JobView]:
    """A new job, with an id of its own, for what a failed or cancelled one was to do."""
    accepted = jobs.retry(job_id, read_asker(request, "retry", job_id))
    job = jobs.job(accepted.ids[0])
    location = f"{_collection(request)}/{job.id}"
    return Response(job_view(job, places), headers={"Location": location, **replayed(accepted)})


@delete(
    "/jobs/{job_id:str}",
    sync_to_thread=True,
    tags=["jobs"],
    summary="Forget a job",
    responses=documented(400, 404, 409, 503),
)
def delete_job(job_id: FromPath[str], jobs: NamedDependency[Jobs]) -> None:
    """Only a job that has ended can be forgotten. What it has published stays."""
    jobs.delete(job_id)


def _page(request: AnyRequest, asked: JobsQuery, jobs: Jobs, places: Places) -> Response[JobPage]:
    begin = asked.beginning
    page = jobs.page(after=begin.after, limit=asked.page_limit, state=asked.status, newest_first=begin.newest_first)
    views = [job_view(record, places) for record in page.records]
    if page.next is None:
        return Response(JobPage(jobs=views))
    cursor = structs.replace(begin, after=page.next).text()
    return Response(JobPage(jobs=views, next_cursor=cursor), headers=_next_link(request, asked, cursor))


def _next_link(request: AnyRequest, asked: JobsQuery, cursor: str) -> Mapping[str, str]:
    again = asked.model_dump(mode="json", include={"status", "limit", "sort"}, exclude_none=True)
    return {"Link": f'<{request.url.path}?{urlencode(again | {"cursor": cursor})}>; rel="next"'}


def _collection(request: AnyRequest) -> str:
    """The path of all jobs, with the prefix that the client used."""
    return request.url.path.split("/jobs/")[0] + "/jobs"
