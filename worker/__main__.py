"""The process entries of the workers: `python -m worker download | convert | reconcile`."""

import os
import signal
import sys
import threading
import warnings

from celery.exceptions import SecurityWarning

from common import tracing
from common.artefacts.layout import Volume
from common.broker import Broker
from common.errors import PluginNotInstalled, PluginUnavailable
from common.log import configure
from common.metrics.instruments import ReconcilerInstruments
from common.settings import Settings, SettingsError, read_settings
from common.store.database import Database
from common.store.retention import Retention
from common.store.schema import SchemaTooOld, wait_for_tables
from common.vocabulary import Pool
from worker.identity import own_identity
from worker.reconcile import Reconciler
from worker.service import make_deliverer, make_stage_store, make_worker
from worker.vitals import ROUNDS, WEBHOOKS, Signs

_USAGE = "usage: python -m worker download | convert | reconcile"


def main(arguments: list[str]) -> int:
    """Run one of the worker processes until SIGTERM. Returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in {*Pool, "reconcile"}:
        print(_USAGE, file=sys.stderr)  # noqa: T201 - a usage line, before logging exists
        return 2
    try:
        settings = read_settings()
        _tell_who(arguments[0], settings)
        # Celery warns of running as root, as containers do; a worker here needs no right but to its volume.
        warnings.simplefilter("ignore", SecurityWarning)
        # What is published must be writable for the group: clients edit graph.pbtxt in place.
        os.umask(0o002)
        if arguments[0] == "reconcile":
            wait_for_tables(settings.store_url)
            _reconcile(settings)
        else:
            worker = make_worker(Pool(arguments[0]), settings)
            wait_for_tables(settings.store_url)
            worker.run()
    except (SettingsError, PluginUnavailable, PluginNotInstalled, SchemaTooOld) as error:
        advice = f" {error.advice}" if isinstance(error, PluginNotInstalled) else ""
        print(f"modelferry: {error}{advice}", file=sys.stderr)  # noqa: T201 - the reason why there will be no log
        return 2
    finally:
        tracing.finish()
    return 0


def _tell_who(part: str, settings: Settings) -> None:
    """Lines of the log and traces name the process that they are from."""
    if part == "reconcile":
        configure(settings.log_level, settings.log_format, names={"service": "modelferry-reconciler"})
        return
    service, owner = "modelferry-worker", own_identity()
    configure(settings.log_level, settings.log_format, names={"service": service, "pool": part, "worker": owner})
    tracing.configure(service, {"modelferry.pool": part, "service.instance.id": owner})


def _reconcile(settings: Settings) -> None:
    volume = Volume(settings.models_dir)
    volume.prepare()
    database, broker = Database(settings.store_url), Broker(settings.redis_url)
    signs = Signs.of("reconcile", database, broker)
    instruments = ReconcilerInstruments(signs.registry)
    reconciler = Reconciler(
        store=make_stage_store(settings, database),
        retention=Retention(
            database,
            keep_days=settings.keep_jobs_days,
            keep_jobs=settings.keep_jobs,
            keep_audit_days=settings.keep_audit_days,
        ),
        broker=broker,
        volume=volume,
        lease_s=settings.lease_s,
        every_s=settings.reconcile_s,
        instruments=instruments,
        beat=lambda: signs.pulses.beat(ROUNDS),
    )

    def stop(*_: object) -> None:
        # In a thread: the lock of what is to be set may be held just now by what the signal has interrupted.
        threading.Thread(target=reconciler.stop, name="stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    deliverer = make_deliverer(settings, database, signs, instruments)
    vitals = signs.server(settings, lacks=dict, leaving=lambda: reconciler.stopped)
    signs.expect(ROUNDS, WEBHOOKS)
    if vitals is not None:
        vitals.start()
    deliverer.start()
    try:
        reconciler.run()
    finally:
        deliverer.stop()
        if vitals is not None:
            vitals.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
