"""The parts of the web process: made of the settings, once, and handed to the handlers by name."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from api.access.audit import Trail
from api.access.callers import Callers
from api.access.oidc import Tokens
from api.access.rate import Counts
from api.compat.upload import UploadLimits
from api.gate_views import gate_view
from api.gates import Gates
from api.gates.answers import GateAnswers
from api.gates.shelf import Shelf
from api.gates.standing import Eyes
from api.keys import Keys
from api.library import Models
from api.live.leaving import Leaving, linger_s
from api.live.streams import Streams
from api.mcp.door import Door
from api.overview import Overview
from api.questions import Answers, Hubs
from api.sessions import Sessions
from api.startup import StartupModels
from api.tickets import TicketSender
from api.uploads import Uploads
from api.usecases import Jobs, Limits, Readiness
from api.views import Places
from api.vitals import ApiVitals, service_collector
from api.webhooks import Webhooks
from common.artefacts.layout import Volume
from common.artefacts.library import Library
from common.broker import Broker
from common.catalog.registry import Catalog
from common.log import SharedThreads
from common.metrics.exposition import Exposition
from common.metrics.instruments import HttpInstruments, make_registry
from common.metrics.service import Reach
from common.seals import Seal
from common.settings import Settings, listed
from common.store.apikeys import ApiKeyStore
from common.store.audit import AuditStore
from common.store.counts import CountStore
from common.store.database import Database
from common.store.gates import GateStore
from common.store.jobs import JobStore
from common.store.limits import LimitStore
from common.store.overview import OverviewStore
from common.store.stages import RetryPolicy, StageStore

_MIB = 1024 * 1024
_LONG_WORK = 8
"""How many threads take uploads and read models, so that those that answer everybody else stay free."""
_ALIVE_WITHIN_S = 10.0
"""A worker that has shown no sign of life for this long is gone; a live one shows one every few seconds."""


class Parts(NamedTuple):
    """Everything that lasts as long as the process does."""

    by_name: Mapping[str, object]
    """Name of a handler's argument -> what it gets."""
    mcp: Door
    callers: Callers
    trail: Trail
    counts: Counts
    leaving: Leaving
    instruments: HttpInstruments
    begin: Sequence[Callable[[], object]]
    end: Sequence[Callable[[], object]]
    """In this order."""


def make_parts(settings: Settings) -> Parts:
    """Opens no connection before the first request, or startup model, that needs one."""
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
    api_keys = ApiKeyStore(database)
    sessions = Sessions(Seal.of(settings), api_keys, settings.admin_key)
    callers = Callers(settings, api_keys, sessions, Tokens.of(settings))
    audit = AuditStore(database)
    trail, counts = Trail(audit), Counts(settings.redis_url)
    mcp = Door(listed(settings.cors_allow_origins))
    long_work = SharedThreads(_LONG_WORK, thread_name_prefix="long-work")
    leaving = Leaving(linger_s(settings.drain_s), streams.feed.close)
    registry = make_registry("api")
    reach = Reach(database=CountStore(database).answers, redis=broker.ping)
    service = service_collector(database, gated, volume, _ALIVE_WITHIN_S)
    exposition = Exposition(registry, [reach, service], settings.prometheus_multiproc_dir)
    vitals = ApiVitals(settings, reach=reach, exposition=exposition, lack=leaving.lack)
    return Parts(
        by_name={
            "jobs": use_cases,
            "hubs": hubs,
            "limits": operator,
            "readiness": readiness,
            "startup": startup,
            "gates": gated,
            "gate_answers": gate_answers,
            "uploads": incoming,
            "upload_limits": upload_limits,
            "library": local,
            "long_work": long_work,
            "overview": glance,
            "flower_url": settings.flower_url,
            "webhooks": hooks,
            "keys": Keys(api_keys),
            "sessions": sessions,
            # Asked by the page that logs in, which stands below the door.
            "recognise": callers.recognised,
            "asks_callers": settings.asks_callers,
            "streams": streams,
            "leaving": leaving,
            "exposition": exposition,
            "audit": audit,
            "places": places,
        },
        mcp=mcp,
        callers=callers,
        trail=trail,
        counts=counts,
        leaving=leaving,
        instruments=HttpInstruments(registry),
        begin=[startup.start, leaving.watch, vitals.begin],
        end=[
            streams.feed.close,
            mcp.close,
            startup.stop,
            gate_answers.stop,
            tickets.stop,
            long_work.shutdown,
            trail.close,
            counts.close,
            vitals.end,
            database.dispose,
        ],
    )
