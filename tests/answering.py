"""The real application with a real download worker beside it that looks for work by itself, without a queue.

Hub `folder` of tests/fakes/plugins is installed, for what needs a hub of any kind.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.artefacts.layout import Volume
from common.broker import Broker
from common.settings import Settings
from common.store.database import Database
from common.store.limits import LimitStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Pool
from tests.web import NOBODY, Web, web
from worker.forkserver import ForkServer
from worker.runner import Runner

PLUGINS = Path(__file__).parent / "fakes" / "plugins"
_PATH = f"{Path(__file__).parents[1]}:{PLUGINS}"


@contextmanager
def plugins_installed() -> Iterator[None]:
    """The plugins of the tests, as if they were installed."""
    sys.path.insert(0, str(PLUGINS))
    try:
        yield
    finally:
        sys.path.remove(str(PLUGINS))
        sys.modules.pop("folder_hub", None)


@contextmanager
def answered(folder: Path, *, worker: dict[str, Any] | None = None, **settings: Any) -> Iterator[Web]:
    """`settings` hold for both; `worker` for the worker alone."""
    with plugins_installed(), web(folder, **settings) as running, _worker(running, {**settings, **(worker or {})}):
        yield running


@contextmanager
def _worker(running: Web, settings: dict[str, Any]) -> Iterator[None]:
    wanted = Settings(models_dir=running.models_dir, redis_url=NOBODY, spare_mb=0, **settings)
    database = Database(wanted.store_url)
    volume = Volume(wanted.models_dir)
    volume.prepare()
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": _PATH, "NO_PROXY": "127.0.0.1"}
    with ForkServer(["worker.child", "worker.hubs.huggingface"], environment, logging.getLogger()) as server:
        server.wait_ready()
        runner = Runner(
            pool=Pool.DOWNLOAD,
            owner="a-worker",
            store=StageStore(database, lease_s=60, retry=RetryPolicy(max_attempts=1, base_s=0.1, cap_s=0.1)),
            limits=LimitStore(database),
            broker=Broker(NOBODY),
            server=server,
            volume=volume,
            settings=wanted,
        )
        gone = threading.Event()

        def work() -> None:
            while not gone.wait(0.02):
                runner.work()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            gone.set()
            runner.drain()
            thread.join(20)
    database.dispose()
