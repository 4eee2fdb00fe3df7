"""The first page: what has failed, what runs, and how the service is."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from api.dashboard.charts import gauge, throughput
from api.dashboard.pages import Pages
from api.overview import Overview
from api.overview_views import overview_view
from api.usecases import Jobs
from api.views import Places, job_view
from api.wire import JobView
from common.vocabulary import JobState

_MOST_RUNNING = 8
_BUSY = (JobState.CONVERTING, JobState.DOWNLOADING)


@get("/", sync_to_thread=True)
def overview_page(
    pages: NamedDependency[Pages],
    overview: NamedDependency[Overview],
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> Response[str]:
    return pages.page("overview.html", active="overview", **_glance(overview, jobs, places))


@get("/ui/glance", sync_to_thread=True)
def glance(
    pages: NamedDependency[Pages],
    overview: NamedDependency[Overview],
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> Response[str]:
    """The part of the first page that changes."""
    return pages.page("fragments/glance.html", active="overview", **_glance(overview, jobs, places))


@get("/ui/strip", sync_to_thread=True)
def strip(
    pages: NamedDependency[Pages],
    overview: NamedDependency[Overview],
    jobs: NamedDependency[Jobs],
    places: NamedDependency[Places],
) -> Response[str]:
    """The line above all other pages: a failure outranks progress, and of what runs, the job that is least far."""
    seen = overview_view(overview.seen(), places)
    return pages.page("fragments/strip.html", seen=seen, running=_running(jobs, places))


def _glance(overview: Overview, jobs: Jobs, places: Places) -> dict[str, Any]:
    seen = overview_view(overview.seen(), places)
    return {
        "seen": seen,
        "running": _running(jobs, places),
        "gauge": gauge(seen.volume),
        "chart": throughput(seen.hours),
        "total": sum(seen.jobs.values()),
    }


def _running(jobs: Jobs, places: Places) -> list[JobView]:
    """The jobs that are worked on, those that are least far first."""
    found = [
        job_view(record, places)
        for state in _BUSY
        for record in jobs.page(after=None, limit=_MOST_RUNNING, state=state, newest_first=False).records
    ]
    return sorted(found, key=lambda job: (job.progress.percent or 0.0, job.start_time))[:_MOST_RUNNING]
