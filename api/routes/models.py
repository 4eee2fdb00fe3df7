"""Models: ask for some, and find what came of it."""

from litestar import get, post
from litestar.datastructures import Headers
from litestar.di import NamedDependency
from litestar.params import QueryParams, RawBody
from litestar.status_codes import HTTP_200_OK

from api.compat.listing import ModelJobsQuery, read_model_name
from api.compat.submission import ModelDownloadRequest, SubmitQuery, read_submission
from api.problems import documented
from api.routes.documented import reads
from api.usecases import Jobs
from api.views import Places, job_view, result_line, started
from api.wire import JobPage, ResultPage, Started
from common.vocabulary import JobState


@post(
    "/models/download",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["models"],
    summary="Ask for models",
    operation_class=reads(query=SubmitQuery, body=ModelDownloadRequest),
    responses=documented(400, 413, 422, 503),
)
def download_models(query: QueryParams, headers: Headers, body: RawBody, jobs: NamedDependency[Jobs]) -> Started:
    submission = read_submission(query.multi_items(), body, headers.get("content-type"), jobs.catalog.hubs)
    return started(jobs.submit(submission.wishes, submission.download_path))


@get(
    "/models/jobs",
    sync_to_thread=True,
    tags=["models"],
    summary="List the jobs of one model",
    operation_class=reads(query=ModelJobsQuery),
    responses=documented(404, 422, 503),
)
def list_model_jobs(query: QueryParams, jobs: NamedDependency[Jobs], places: NamedDependency[Places]) -> JobPage:
    records = jobs.of_model(read_model_name(query.multi_items()))
    return JobPage(jobs=[job_view(record, places) for record in records])


@get("/models/results", sync_to_thread=True, tags=["models"], summary="List what is done", responses=documented(503))
def list_results(jobs: NamedDependency[Jobs], places: NamedDependency[Places]) -> ResultPage:
    return ResultPage(results=[result_line(record, places) for record in jobs.jobs(JobState.COMPLETED)])
