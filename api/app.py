"""The composition root of the web process: settings in, application out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.metadata import version
from urllib.parse import quote

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Server
from litestar.response.redirect import ASGIRedirectResponse
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, ControllerRouterHandler, Message, Method, Receive, Scope, Send
from litestar.types.internal_types import PathParameterDefinition

from api.compat.upload import UploadLimits
from api.dashboard.wiring import dashboard
from api.gate_views import gate_view
from api.gates import Gates
from api.gates.answers import GateAnswers
from api.gates.shelf import Shelf
from api.gates.standing import Eyes
from api.library import Models
from api.live.leaving import before_the_end
from api.live.streams import Streams
from api.mcp.door import Door, mcp_route
from api.overview import Overview
from api.problems import HANDLERS
from api.questions import Answers, Hubs
from api.routes import docs, events, gates, health, jobs, library, limits, models, overview, plugins, uploads, webhooks
from api.startup import StartupModels
from api.tickets import TicketSender
from api.uploads import Uploads
from api.usecases import Jobs, Limits, Readiness
from api.views import Places
from api.webhooks import Webhooks
from common.artefacts.layout import Volume
from common.artefacts.library import Library
from common.broker import Broker
from common.catalog.registry import Catalog
from common.seals import Seal
from common.settings import Settings
from common.store.database import Database
from common.store.gates import GateStore
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.overview import OverviewStore
from common.store.stages import RetryPolicy, StageStore

PREFIX = "/api/v1"
"""Every route answers with it and without it."""

_MIB = 1024 * 1024
_MAX_BODY_BYTES = _MIB
_LONG_WORK = 8
"""How many threads take uploads and read models, so that those that answer everybody else stay free."""
_ALIVE_WITHIN_S = 10.0
"""A worker that has shown no sign of life for this long is gone; a live one shows one every few seconds."""

ROUTES: Sequence[ControllerRouterHandler] = (
    health.health,
    health.ready,
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
    plugins.list_plugins,
    docs.openapi_document,
    docs.docs_page,
    docs.static_files,
)


def create_app(settings: Settings) -> Litestar:
    """The whole web process. Opens no connection before the first request, or startup model, that needs one."""
    database = Database(settings.store_url)
    store = JobStore(database)
    broker = Broker(settings.redis_url)
    catalog = Catalog.installed(settings.enabled_plugins)
    tickets = TicketSender(broker)
    hubs = Hubs(catalog=catalog, answers=Answers(store=store, tickets=tickets), seal=Seal.of(settings))
    volume = Volume(settings.models_dir.absolute())
    use_cases = Jobs(store=store, catalog=catalog, tickets=tickets, volume=volume, hubs=hubs)
    places = Places(models_dir=settings.models_dir.absolute(), model_path=settings.model_path)
    streams = Streams.of(database, places)
    eyes = Eyes(store=GateStore(database), jobs=store, shelf=Shelf(volume))
    gate_answers = GateAnswers(eyes, partial(gate_view, places=places))
    gated = Gates(store=eyes.store, jobs=use_cases, eyes=eyes, changed=gate_answers.forget)
    startup = StartupModels(settings.startup_models_config, gated, gate_answers)
    operator = Limits(store=LimitStore(database), catalog=catalog)
    readiness = Readiness(store=store, catalog=catalog, broker=broker, alive_within_s=_ALIVE_WITHIN_S)
    upload_limits = UploadLimits(most_mb=settings.max_upload_size_mb, block_bytes=settings.upload_chunk_size_kb * 1024)
    incoming = Uploads(
        store=store,
        volume=volume,
        most_unpacked_bytes=settings.max_unpacked_mb * _MIB,
        spare_bytes=settings.spare_mb * _MIB,
    )
    local = Models(library=Library(volume), store=store)
    glance = Overview(
        store=OverviewStore(database),
        jobs=store,
        stages=StageStore(database, lease_s=settings.lease_s, retry=RetryPolicy()),
        limits=operator.store,
        library=local.library,
        alive_within_s=_ALIVE_WITHIN_S,
    )
    hooks = Webhooks.of(settings, database)
    mcp = Door(_listed(settings.cors_allow_origins))
    long_work = ThreadPoolExecutor(_LONG_WORK, thread_name_prefix="long-work")
    return Litestar(
        # A router for both forms: it knows all methods of a path before the application wraps the handlers, once.
        route_handlers=[
            Router("/", route_handlers=ROUTES),
            Router(PREFIX, route_handlers=ROUTES, include_in_schema=False),
            mcp_route(mcp, "/mcp", f"{PREFIX}/mcp"),
            dashboard(),
        ],
        dependencies={
            "jobs": Provide(lambda: use_cases, sync_to_thread=False),
            "hubs": Provide(lambda: hubs, sync_to_thread=False),
            "limits": Provide(lambda: operator, sync_to_thread=False),
            "readiness": Provide(lambda: readiness, sync_to_thread=False),
            "startup": Provide(lambda: startup, sync_to_thread=False),
            "gates": Provide(lambda: gated, sync_to_thread=False),
            "gate_answers": Provide(lambda: gate_answers, sync_to_thread=False),
            "uploads": Provide(lambda: incoming, sync_to_thread=False),
            "upload_limits": Provide(lambda: upload_limits, sync_to_thread=False),
            "library": Provide(lambda: local, sync_to_thread=False),
            "long_work": Provide(lambda: long_work, sync_to_thread=False),
            "overview": Provide(lambda: glance, sync_to_thread=False),
            "flower_url": Provide(lambda: settings.flower_url, sync_to_thread=False),
            "webhooks": Provide(lambda: hooks, sync_to_thread=False),
            "streams": Provide(lambda: streams, sync_to_thread=False),
            "places": Provide(lambda: places, sync_to_thread=False),
        },
        exception_handlers=HANDLERS,
        middleware=[NoTrailingSlash(), EveryMethodAllowed()],
        cors_config=_cors(settings),
        openapi_config=_openapi(),
        logging_config=None,
        request_max_body_size=_MAX_BODY_BYTES,
        on_startup=[startup.start, partial(before_the_end, streams.feed.close)],
        on_shutdown=[
            streams.feed.close,
            mcp.close,
            startup.stop,
            gate_answers.stop,
            tickets.stop,
            long_work.shutdown,
            database.dispose,
        ],
    )


class NoTrailingSlash(ASGIMiddleware):
    """Sends a client that put a slash behind a known path to the path itself."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """The router has taken the slash off `path` already; only `raw_path` still has it."""
        asked = scope["raw_path"].split(b"?")[0]
        if scope["path"] == "/" or not asked.endswith(b"/"):
            await next_app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        location = quote(scope["path"]) + (f"?{query}" if query else "")
        await ASGIRedirectResponse(path=location, status_code=307)(scope, receive, send)


class EveryMethodAllowed(ASGIMiddleware):
    """Names all methods of a path in `Allow`: Litestar names those of the first handler, where a path has several."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Looks at answers to OPTIONS only."""
        if scope.get("method") != "OPTIONS":
            await next_app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != b"allow"]
                message["headers"] = [*headers, (b"allow", _methods(scope).encode())]
            await send(message)

        await next_app(scope, receive, told)


def _methods(scope: Scope) -> str:
    found = (route for route in scope["litestar_app"].routes if route.path_format == scope.get("path_template"))
    return ", ".join(sorted({method for route in found if isinstance(route, HTTPRoute) for method in route.methods}))


class CredentialedCORS(CORSConfig):
    """Answers a preflight with the caller's own origin: browsers refuse `*` together with credentials."""

    @cached_property
    def preflight_headers(self) -> dict[str, str]:
        """Without the origin, which the middleware then fills in."""
        headers = {name: value for name, value in super().preflight_headers.items() if not name.endswith("-Origin")}
        return headers | {"Vary": "Origin"}


def _cors(settings: Settings) -> CORSConfig:
    return CredentialedCORS(
        allow_origins=_listed(settings.cors_allow_origins),
        allow_methods=_listed(settings.cors_allow_methods),  # type: ignore[arg-type]  # any word the operator chose
        allow_headers=_listed(settings.cors_allow_headers),
        allow_credentials=True,
    )


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
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
