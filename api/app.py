"""The composition root of the web process: settings in, application out."""

from collections.abc import Callable, Sequence
from importlib.metadata import version

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Server
from litestar.types import ControllerRouterHandler, Method
from litestar.types.internal_types import PathParameterDefinition

from api.access.audit import Audited
from api.access.described import GuardedAPI
from api.access.door import Door
from api.access.guesses import GuessesLimited
from api.access.hosts import KnownHosts, OwnPagesOnly
from api.access.rate import RateLimited
from api.dashboard.wiring import dashboard
from api.live.leaving import LastAnswers
from api.mcp.door import mcp_route
from api.metering import Metered
from api.middleware import EveryMethodAllowed, NoTrailingSlash, cors
from api.parts import make_parts
from api.problems import HANDLERS
from api.routes import (
    audit,
    docs,
    events,
    gates,
    health,
    jobs,
    keys,
    library,
    limits,
    metrics,
    models,
    overview,
    plugins,
    uploads,
    webhooks,
)
from api.watching import Watched, answered
from common import tracing
from common.settings import Settings

PREFIX = "/api/v1"
"""Every route answers with it and without it."""

_MAX_BODY_BYTES = 1024 * 1024

ROUTES: Sequence[ControllerRouterHandler] = (
    health.health,
    health.ready,
    metrics.metrics,
    models.download_models,
    models.plan_models,
    models.list_hub_models,
    models.list_model_jobs,
    models.list_results,
    uploads.upload_model,
    library.list_models,
    library.get_model,
    library.remove_model,
    library.verify_model,
    jobs.list_jobs,
    jobs.get_job,
    jobs.list_attempts,
    jobs.get_provenance,
    jobs.cancel_job,
    jobs.retry_job,
    jobs.delete_job,
    events.watch_job,
    events.watch_all,
    events.read_log,
    gates.put_gate,
    gates.get_gate,
    gates.list_gates,
    gates.remove_gate,
    limits.list_limits,
    limits.put_limit,
    limits.remove_limit,
    overview.get_overview,
    overview.list_workers,
    webhooks.list_webhooks,
    webhooks.add_webhook,
    webhooks.get_webhook,
    webhooks.change_webhook,
    webhooks.remove_webhook,
    webhooks.rotate_webhook,
    webhooks.test_webhook,
    webhooks.list_deliveries,
    webhooks.redeliver,
    keys.who_am_i,
    keys.list_keys,
    keys.add_key,
    keys.get_key,
    keys.rotate_key,
    keys.revoke_key,
    audit.list_audit,
    plugins.list_plugins,
    docs.openapi_document,
    docs.docs_page,
    docs.static_files,
)


def create_app(settings: Settings) -> Litestar:
    """The whole web process. Opens no connection before the first request, or startup model, that needs one."""
    parts = make_parts(settings)
    metered = Metered(parts.instruments)
    return Litestar(
        # A router for both forms: it knows all methods of a path before the application wraps the handlers, once.
        route_handlers=[
            Router("/", route_handlers=ROUTES),
            Router(PREFIX, route_handlers=ROUTES, include_in_schema=False),
            mcp_route(parts.mcp, "/mcp", f"{PREFIX}/mcp"),
            dashboard(),
        ],
        dependencies={name: Provide(_always(part), sync_to_thread=False) for name, part in parts.by_name.items()},
        exception_handlers=HANDLERS,
        middleware=[
            Watched(),
            metered,
            LastAnswers(parts.leaving),
            NoTrailingSlash(),
            EveryMethodAllowed(),
            KnownHosts(settings),
            Audited(parts.trail),
            OwnPagesOnly(settings),
            GuessesLimited(parts.counts),
            Door(parts.callers),
            RateLimited(parts.counts, settings.rate_limit),
        ],
        cors_config=cors(settings),
        openapi_config=_openapi(),
        logging_config=None,
        request_max_body_size=_MAX_BODY_BYTES,
        on_startup=list(parts.begin),
        on_shutdown=[*parts.end, tracing.finish],
        before_send=[answered, metered.answered],
    )


def _always(part: object) -> Callable[[], object]:
    return lambda: part


def _openapi() -> GuardedAPI:
    return GuardedAPI(
        title="Modelferry",
        version=version("modelferry"),
        description="Fetches AI models, converts them to OpenVINO, publishes them, and says when they are there.",
        servers=[Server(url="/"), Server(url=PREFIX)],
        path="/schema",
        render_plugins=[JsonRenderPlugin()],
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
    )


def _operation_id(handler: HTTPRouteHandler, _method: Method, _path: list[str | PathParameterDefinition]) -> str:
    return handler.handler_name
