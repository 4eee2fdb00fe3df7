"""Models: ask for some, and find what came of it."""

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParams, RawBody
from litestar.status_codes import HTTP_200_OK

from api.compat.hub_listing import ModelListRequest, read_listing
from api.compat.listing import ModelJobsQuery, read_model_name
from api.compat.submission import ModelDownloadRequest, SubmitQuery, read_submission
from api.problems import AnyRequest, documented
from api.questions import Hubs
from api.routes.asking import HEADERS, REPLAYED_HEADER, read_asker, replayed
from api.routes.documented import reads
from api.usecases import Jobs
from api.views import Places, forecast_page, job_view, listed_page, result_line, started
from api.wire import ForecastPage, JobPage, ListedPage, ResultPage, Started
from common.vocabulary import JobState


@post(
    "/models/download",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["models"],
    summary="Ask for models",
    operation_class=reads(query=SubmitQuery, body=ModelDownloadRequest, headers=HEADERS),
    response_headers=[REPLAYED_HEADER],
    responses=documented(400, 409, 413, 422, 503),
)
def download_models(
    request: AnyRequest, query: QueryParams, body: RawBody, jobs: NamedDependency[Jobs]
) -> Response[Started]:
    content_type = request.headers.get("content-type")
    submission = read_submission(query.multi_items(), body, content_type, jobs.catalog.hubs)
    asker = read_asker(request, "submit", submission.download_path, body)
    accepted = jobs.submit(submission.wishes, submission.download_path, asker)
    return Response(started(accepted.ids), headers=replayed(accepted))


@post(
    "/models/plan",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["models"],
    summary="Find out what a submission would do",
    operation_class=reads(query=SubmitQuery, body=ModelDownloadRequest),
    responses=documented(400, 413, 422, 503),
)
def plan_models(
    request: AnyRequest,
    query: QueryParams,
    body: RawBody,
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> ForecastPage:
    content_type = request.headers.get("content-type")
    submission = read_submission(query.multi_items(), body, content_type, jobs.catalog.hubs)
    asker = read_asker(request, "plan", submission.download_path, body)
    return forecast_page(jobs.plan(submission.wishes, submission.download_path, asker), places)


@post(
    "/models/list",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    tags=["models"],
    summary="List models of a hub",
    operation_class=reads(body=ModelListRequest),
    responses=documented(400, 401, 413, 422, 501, 502, 503),
)
def list_hub_models(request: AnyRequest, body: RawBody, hubs: NamedDependency[Hubs]) -> ListedPage:
    asked = read_listing(body, request.headers.get("content-type"))
    asker = read_asker(request, "list", asked.hub, body)
    return listed_page(asked, hubs.list(asked, asker.tenant, asker.origin))


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
