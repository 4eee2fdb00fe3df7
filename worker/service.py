"""A worker process: one pool, its fork server, its signs of life, and its end in order."""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery, signals

from common.artefacts.layout import Volume
from common.broker import Broker, make_celery
from common.catalog.registry import Catalog
from common.errors import ChildCrashed, PluginNotInstalled, ServiceUnavailable
from common.metrics.instruments import ReconcilerInstruments, WorkerInstruments
from common.plugins import ConverterPlugin, HubPlugin
from common.seals import Seal
from common.settings import Settings, inherited_environment, with_variables
from common.store.database import Database
from common.store.deliveries import DeliveryStore
from common.store.limits import LimitStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Pool
from worker.forkserver import ForkServer
from worker.identity import own_identity
from worker.machine import machine_room, threads_per_slot
from worker.runner import Runner
from worker.stages.tools import network_of
from worker.tasks import register
from worker.vitals import ANNOUNCER, CONSUMER, PLUGINS, WEBHOOKS, Signs, show_pulse
from worker.webhooks import Deliverer

log = logging.getLogger(__name__)

_ANNOUNCE_S = 3.0
_ALWAYS = ("worker.child",)
_MIB = 1024 * 1024


@dataclass
class Worker:
    """Everything that one worker process owns."""

    runner: Runner
    app: Celery
    slots: int
    threads: int
    """A download worker has one more than slots, for what is over in a moment."""
    signs: Signs
    _news: threading.Event = field(default_factory=threading.Event)
    """Set when there is something to tell before the next sign of life is due."""
    _loaded: threading.Event = field(default_factory=threading.Event)
    _announced: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Consume tickets until told to stop. SIGTERM ends the process when its stages have ended or are given back."""
        vitals = self.signs.server(self.runner.settings, lacks=self._lacks, leaving=lambda: self.runner.draining)
        if vitals is not None:
            vitals.start()
        self.signs.expect(PLUGINS, CONSUMER)
        self.runner.server.start()
        gone = threading.Event()
        announcer = threading.Thread(target=self._announce, args=(gone,), name="announcer", daemon=True)
        # The handlers are kept alive by this frame: Celery itself holds only weak references.
        drain = self._drain
        signals.worker_shutting_down.connect(drain)
        announcer.start()
        try:
            self.app.worker_main([
                "-q", "worker", "-P", "threads", "-c", str(self.threads), "-Q", self.runner.pool.value,
                "-n", f"{self.runner.pool}-{os.getpid()}@%h", "--without-gossip", "--without-mingle",
                "-l", logging.getLevelName(logging.getLogger().level),
            ])  # fmt: skip
        finally:
            gone.set()
            self._news.set()
            announcer.join(_ANNOUNCE_S)
            self.runner.server.stop()
            self._leave()
            if vitals is not None:
                vitals.stop()

    def _lacks(self) -> dict[str, str | None]:
        return {
            "plugins": None if self._loaded.is_set() else "The plugins of this worker are being loaded.",
            "announced": None if self._announced.is_set() else "The job table does not know of this worker yet.",
        }

    def _drain(self, **_: object) -> None:
        self.runner.drain()
        log.info("worker.draining", extra={"hand_back_in_s": f"{self.runner.patience_s:.0f}"})
        self._news.set()

    def _announce(self, gone: threading.Event) -> None:
        """Show a sign of life every few seconds; ready once the fork server has loaded the pool's plugins."""
        try:
            ready = self.runner.server.wait_ready()
        except ChildCrashed as error:
            # Without children nothing can be run: better to end, and to be started again, than to hold the queue.
            log.error("worker.broken", extra={"reason": str(error)})  # noqa: TRY400 - the reason is the message
            os.kill(os.getpid(), signal.SIGTERM)
            return
        log.info(
            "worker.ready", extra={"pool": self.runner.pool, "import_s": f"{ready.import_s:.1f}", "cold": ready.cold}
        )
        self._loaded.set()
        self.signs.pulses.dismiss(PLUGINS)
        self.signs.expect(ANNOUNCER)
        while not gone.is_set():
            self._news.clear()
            self._tell()
            self.signs.pulses.beat(ANNOUNCER)
            self._news.wait(_ANNOUNCE_S)

    def _tell(self) -> None:
        runner = self.runner
        try:
            runner.store.announce(
                runner.owner, runner.pool, socket.gethostname(), self.slots, ready=True, draining=runner.draining
            )
            self._announced.set()
        except ServiceUnavailable:
            log.warning("worker.unannounced")

    def _leave(self) -> None:
        try:
            self.runner.store.leave(self.runner.owner)
        except ServiceUnavailable:
            log.warning("worker.unannounced")


def make_worker(pool: Pool, settings: Settings) -> Worker:
    """Put a worker together. Raises PluginNotInstalled when a plugin of this pool lacks its libraries."""
    volume = Volume(settings.models_dir)
    volume.prepare()
    catalog = Catalog.installed(settings.enabled_plugins)
    settings = _with_plugins(settings, catalog)
    plugins = _plugins(pool, catalog)
    slots = settings.download_slots if pool is Pool.DOWNLOAD else settings.convert_slots
    server = ForkServer(_preload(plugins), _environment(pool, slots, volume), log)
    database, broker = Database(settings.store_url), Broker(settings.redis_url)
    signs = Signs.of(pool, database, broker)
    runner = Runner(
        pool=pool,
        owner=own_identity(),
        store=make_stage_store(settings, database),
        limits=LimitStore(database),
        broker=broker,
        server=server,
        volume=volume,
        settings=settings,
        room=machine_room(settings.memory_budget_mb * _MIB).room if pool is Pool.CONVERT else None,
        slots=slots,
        instruments=WorkerInstruments(signs.registry),
    )
    app = make_celery(settings.redis_url, consumer=True)
    register(app, runner)
    show_pulse(app, signs.pulses)
    threads = slots + 1 if pool is Pool.DOWNLOAD else slots
    return Worker(runner=runner, app=app, slots=slots, threads=threads, signs=signs)


def make_stage_store(settings: Settings, database: Database) -> StageStore:
    """The stage store with the operator's lease and retry rules."""
    retry = RetryPolicy(
        max_attempts=settings.max_attempts,
        max_crashes=settings.max_crashes,
        base_s=settings.retry_base_s,
        cap_s=settings.retry_cap_s,
    )
    return StageStore(database, lease_s=settings.lease_s, retry=retry)


def make_deliverer(
    settings: Settings, database: Database, signs: Signs, instruments: ReconcilerInstruments
) -> Deliverer:
    """What sends messages to webhooks, by the operator's rules for the network. Named as a hub is, it is `webhooks`."""
    return Deliverer(
        store=DeliveryStore(database),
        seal=Seal.of(settings),
        rules=network_of("webhooks", settings.plugin_settings),
        told=instruments.delivered,
        beat=lambda: signs.pulses.beat(WEBHOOKS),
    )


def _with_plugins(settings: Settings, catalog: Catalog) -> Settings:
    """The settings with the variables that the plugins of others name."""
    hubs, converters = catalog.hubs.values(), catalog.converters.values()
    named = frozenset[str]().union(*(hub.settings for hub in hubs), *(converter.settings for converter in converters))
    return with_variables(settings, named, frozenset[str]().union(*(hub.secrets for hub in hubs)))


def _plugins(pool: Pool, catalog: Catalog) -> list[HubPlugin[Any] | ConverterPlugin[Any]]:
    return list(catalog.hubs.values()) if pool is Pool.DOWNLOAD else list(catalog.converters.values())


def _preload(plugins: list[HubPlugin[Any] | ConverterPlugin[Any]]) -> list[str]:
    """What the fork server imports. Raises PluginNotInstalled, so that a worker without its libraries never starts."""
    modules = list(_ALWAYS)
    for plugin in plugins:
        named = [plugin.implementation.partition(":")[0]]
        if isinstance(plugin, ConverterPlugin):
            named = [*plugin.preload, *named]
            _refuse_broken(plugin)
        for module in named:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                raise PluginNotInstalled(
                    f"Plugin '{plugin.name}' needs the module '{module}', which is not installed here",
                    hint=f"Install modelferry[{plugin.extra}], or leave '{plugin.name}' out of ENABLED_PLUGINS.",
                )
        modules += named
    return list(dict.fromkeys(modules))


def _refuse_broken(plugin: ConverterPlugin[Any]) -> None:
    """Find out in a process of its own: what breaks an import must not stay in this one."""
    for module in plugin.fragile:
        if importlib.util.find_spec(module) is None:
            continue
        tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False)
        if tried.returncode != 0:
            last = tried.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise PluginNotInstalled(
                f"The installed {module} cannot be imported, and breaks '{plugin.name}': {last[:300]}",
                hint=f"Uninstall {module}, or install the build that belongs to the other libraries.",
            )


def _environment(pool: Pool, slots: int, volume: Volume) -> dict[str, str]:
    """The whole environment of the fork server and its children: no token, no telemetry, no surprise downloads."""
    home = volume.state / f"home-{pool}"
    consent = home / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    # OpenVINO takes the absence of this file for consent, and its sender would add a thread to the fork server.
    consent.write_text("0")
    environment = {
        **inherited_environment(),
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "DO_NOT_TRACK": "1",
        "NNCF_CI": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(threads_per_slot(slots)),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent.parent), inherited_environment().get("PYTHONPATH", "")]
        ),
    }
    if pool is Pool.CONVERT:
        # Nothing is fetched there, and a proxy's address may hold a password.
        environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return environment
