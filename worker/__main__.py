"""The process entries of the workers: `python -m worker download | convert | reconcile`."""

import os
import signal
import sys
import warnings

from celery.exceptions import SecurityWarning

from common.artefacts.layout import Volume
from common.broker import Broker
from common.errors import PluginNotInstalled, PluginUnavailable
from common.log import configure
from common.settings import Settings, SettingsError, read_settings
from common.store.database import Database
from common.store.retention import Retention
from common.vocabulary import Pool
from worker.reconcile import Reconciler
from worker.service import make_deliverer, make_stage_store, make_worker

_USAGE = "usage: python -m worker download | convert | reconcile"


def main(arguments: list[str]) -> int:
    """Run one of the worker processes until SIGTERM. Returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in {*Pool, "reconcile"}:
        print(_USAGE, file=sys.stderr)  # noqa: T201 - a usage line, before logging exists
        return 2
    try:
        settings = read_settings()
        configure(settings.log_level, settings.log_format)
        # Celery warns of running as root, as containers do; a worker here needs no right but to its volume.
        warnings.simplefilter("ignore", SecurityWarning)
        # What is published must be writable for the group: clients edit graph.pbtxt in place.
        os.umask(0o002)
        if arguments[0] == "reconcile":
            _reconcile(settings)
        else:
            make_worker(Pool(arguments[0]), settings).run()
    except (SettingsError, PluginUnavailable, PluginNotInstalled) as error:
        advice = f" {error.advice}" if isinstance(error, PluginNotInstalled) else ""
        print(f"modelferry: {error}{advice}", file=sys.stderr)  # noqa: T201 - the reason why there will be no log
        return 2
    return 0


def _reconcile(settings: Settings) -> None:
    volume = Volume(settings.models_dir)
    volume.prepare()
    database = Database(settings.store_url)
    reconciler = Reconciler(
        store=make_stage_store(settings, database),
        retention=Retention(database, keep_days=settings.keep_jobs_days, keep_jobs=settings.keep_jobs),
        broker=Broker(settings.redis_url),
        volume=volume,
        lease_s=settings.lease_s,
        every_s=settings.reconcile_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reconciler.stop())
    deliverer = make_deliverer(settings, database)
    deliverer.start()
    try:
        reconciler.run()
    finally:
        deliverer.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
