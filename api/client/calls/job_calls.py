"""What is asked of jobs."""

from collections.abc import Sequence

from api.client.call import ASKING_S, Answer, Call, as_view, asking, check, decoded, given, json_body, path_of
from api.client.wanted import WantedModel
from api.wire import AttemptPage, AttemptView, CancelView, ForecastPage, JobPage, JobView, ResultPage, Started
from api.wire.live import LogPage
from common.vocabulary import JobState


def submit(
    models: Sequence[WantedModel],
    download_path: str = "",
    *,
    idempotency_key: str | None = None,
    tenant: str | None = None,
) -> Call[Started]:
    """Ask for models. All are accepted, or none. Under one key, the same request starts nothing twice."""
    return Call(
        method="POST",
        path="models/download",
        query=given(download_path=download_path),
        body=json_body({"models": models}),
        headers=asking(idempotency_key, tenant),
        read=as_view(Started),
        least_timeout_s=ASKING_S if any(model.validate_credentials for model in models) else 0.0,
    )


def plan(models: Sequence[WantedModel], download_path: str = "") -> Call[ForecastPage]:
    """Find out what a submission would do, and start nothing."""
    return Call(
        method="POST",
        path="models/plan",
        query=given(download_path=download_path),
        body=json_body({"models": models}),
        read=as_view(ForecastPage),
        least_timeout_s=ASKING_S,
    )


def jobs(status: JobState | None = None, limit: int | None = None, offset: int | None = None) -> Call[JobPage]:
    """Jobs, oldest first."""
    query = given(status=status, limit=limit, offset=offset)
    return Call(method="GET", path="jobs", query=query, read=as_view(JobPage))


def page(
    cursor: str = "", *, limit: int | None = None, status: JobState | None = None, newest_first: bool = False
) -> Call[JobPage]:
    """Some jobs; `next_cursor` of the answer leads to those that follow."""
    query = given(cursor=cursor, limit=limit, status=status, sort="-created_at" if newest_first else None)
    return Call(method="GET", path="jobs", query=query, read=as_view(JobPage))


def job(job_id: str) -> Call[JobView]:
    """One job."""
    return Call(method="GET", path=path_of("jobs", job_id), read=as_view(JobView))


def attempts(job_id: str) -> Call[list[AttemptView]]:
    """Every attempt at a job's stages, oldest first."""
    page_of = as_view(AttemptPage)
    return Call(method="GET", path=path_of("jobs", job_id, "attempts"), read=lambda answer: page_of(answer).attempts)


def log(job_id: str, after: str | None = None, limit: int | None = None) -> Call[LogPage]:
    """Lines of a job's log, oldest first; `next_after` of the answer leads to those that follow."""
    query = given(after=after, limit=limit)
    return Call(method="GET", path=path_of("jobs", job_id, "log"), query=query, read=as_view(LogPage))


def provenance(job_id: str) -> Call[dict[str, object]]:
    """How the model of a completed job came to be: an in-toto statement."""
    return Call(method="GET", path=path_of("jobs", job_id, "provenance"), read=_as_object)


def cancel(job_id: str) -> Call[CancelView]:
    """End a job now."""
    return Call(method="POST", path=path_of("jobs", job_id, "cancel"), read=as_view(CancelView))


def retry(job_id: str, *, idempotency_key: str | None = None, tenant: str | None = None) -> Call[JobView]:
    """Try a failed or cancelled job again: a new job."""
    return Call(
        method="POST",
        path=path_of("jobs", job_id, "retry"),
        headers=asking(idempotency_key, tenant),
        read=as_view(JobView),
    )


def delete(job_id: str) -> Call[None]:
    """Forget a job that has ended. Its model stays."""
    return Call(method="DELETE", path=path_of("jobs", job_id), read=check)


def jobs_of_model(name: str) -> Call[JobPage]:
    """Every job for one model, oldest first."""
    return Call(method="GET", path="models/jobs", query=given(model_name=name), read=as_view(JobPage))


def results() -> Call[ResultPage]:
    """Every completed job, in short."""
    return Call(method="GET", path="models/results", read=as_view(ResultPage))


def _as_object(answer: Answer) -> dict[str, object]:
    check(answer)
    return decoded(answer.address, answer.content, dict[str, object])
