"""Every page, behind one guard and with one way to refuse."""

from collections.abc import Sequence

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from api.dashboard import audit, codes, gates, jobs, limits, login, models, new, overview, plugins, webhooks, workers
from api.dashboard.environment import make_environment
from api.dashboard.guard import own_forms_only
from api.dashboard.pages import Pages
from api.dashboard.refusals import Refusals
from api.problems import AnyRequest

DASHBOARD: Sequence[ControllerRouterHandler] = (
    overview.overview_page,
    overview.strip,
    overview.glance,
    new.new_page,
    new.plan,
    new.start,
    jobs.jobs_page,
    jobs.jobs_list,
    jobs.job_page,
    jobs.job_state,
    jobs.cancel,
    jobs.retry,
    jobs.forget,
    codes.codes_page,
    models.models_page,
    models.model_page,
    models.verify_from_page,
    models.confirm_removal_page,
    models.remove_from_page,
    gates.gates_page,
    gates.gate_detail_page,
    gates.put_gate_from_page,
    gates.remove_gate_from_page,
    plugins.plugins_page,
    workers.workers_page,
    webhooks.webhooks_page,
    webhooks.add_webhook_from_page,
    webhooks.webhook_page_of_one,
    webhooks.test_webhook_from_page,
    webhooks.switch_webhook_from_page,
    webhooks.rotate_webhook_from_page,
    webhooks.remove_webhook_from_page,
    webhooks.redeliver_from_page,
    limits.limits_page,
    limits.put_limit_from_page,
    limits.remove_limit_from_page,
    audit.audit_trail_page,
    login.login_page,
    login.log_in,
    login.log_out,
)


def dashboard() -> Router:
    """The pages. They have no place in the API's document: whatever they show, the API tells."""
    pages = Pages(make_environment())

    def pages_to(request: AnyRequest) -> Pages:
        return pages.to(request)

    return Router(
        "/",
        route_handlers=DASHBOARD,
        dependencies={"pages": Provide(pages_to, sync_to_thread=False)},
        exception_handlers=Refusals(pages).handlers(),
        guards=[own_forms_only],
        include_in_schema=False,
    )
