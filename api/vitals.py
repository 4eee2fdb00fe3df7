"""How the web process shows that it lives, at a port of its own: beside the one that may be busy."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial

from api.gates import Gates
from common.artefacts.layout import Volume
from common.artefacts.usage import content_bytes
from common.errors import ServiceUnavailable
from common.metrics.exposition import CONTENT_TYPE, Exposition
from common.metrics.service import Reach, ServiceCollector, VolumeSeen
from common.settings import Settings
from common.store.counts import CountStore
from common.store.database import Database
from common.vitals import Lacks, Pulses, Vitals, VitalsServer

_LOOP = "event_loop"
_BEAT_S = 1.0
_WITHIN_S = 30.0


class ApiVitals:
    """The health of the web process. It is ready while it reaches the database: Redis costs delay, and no request."""

    def __init__(
        self, settings: Settings, *, reach: Reach, exposition: Exposition, lack: Callable[[], str | None]
    ) -> None:
        """`lack` tells why nobody should be sent here any more, or None."""
        self._pulses = Pulses()
        self._reach = reach
        self._lack = lack
        self._beating: asyncio.Task[None] | None = None
        self._server: VitalsServer | None = None
        if settings.metrics_port:
            vitals = Vitals(
                alive=self._pulses.lacks, ready=self._lacks, metrics=exposition.text, metrics_type=CONTENT_TYPE
            )
            shared = bool(settings.prometheus_multiproc_dir)
            self._server = VitalsServer(settings.metrics_host, settings.metrics_port, vitals, shared=shared)

    async def begin(self) -> None:
        """Answer until `end`. Raises SettingsError where nobody can listen at the address."""
        if self._server is None:
            return
        self._pulses.expect(_LOOP, _WITHIN_S)
        self._beating = asyncio.create_task(self._beat())
        self._server.start()

    async def end(self) -> None:
        """Answer nobody any more."""
        if self._beating is not None:
            self._beating.cancel()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def _beat(self) -> None:
        while True:
            self._pulses.beat(_LOOP)
            await asyncio.sleep(_BEAT_S)

    def _lacks(self) -> Lacks:
        return {
            "database": None if self._reach.database else "The job database does not answer.",
            "staying": self._lack(),
        }


def service_collector(database: Database, gates: Gates, volume: Volume, alive_within_s: float) -> ServiceCollector:
    """What tells of the whole service."""

    def standings() -> dict[str, bool] | None:
        try:
            return {standing.record.name: standing.is_open for standing in gates.gates()}
        except ServiceUnavailable:
            return None

    def seen() -> VolumeSeen:
        disk = shutil.disk_usage(volume.root)
        return VolumeSeen(size_bytes=disk.total, free_bytes=disk.free)

    return ServiceCollector(
        table=partial(CountStore(database).seen, alive_within_s),
        gates=standings,
        volume=seen,
        store=partial(content_bytes, volume),
    )
