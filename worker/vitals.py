"""How a process of the workers shows that it lives: its counts, the pulses of its loops, and whom it reaches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from celery import Celery, bootsteps
from prometheus_client import CollectorRegistry

from common.broker import Broker
from common.metrics.exposition import CONTENT_TYPE, Exposition
from common.metrics.instruments import make_registry
from common.metrics.service import Reach
from common.settings import Settings
from common.store.counts import CountStore
from common.store.database import Database
from common.vitals import Lacks, Pulses, Vitals, VitalsServer

ANNOUNCER, CONSUMER, PLUGINS, ROUNDS, WEBHOOKS = "announcer", "consumer", "plugins", "rounds", "webhooks"
"""The loops that have a pulse."""

_BEAT_S = 1.0
_WITHIN_S = {ANNOUNCER: 60.0, CONSUMER: 90.0, PLUGINS: 1800.0, ROUNDS: 300.0, WEBHOOKS: 120.0}
"""How long each may stand still: much longer than a database or a queue that is away can hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What one process shows of itself, at its port if it has one."""

    registry: CollectorRegistry
    pulses: Pulses
    reach: Reach

    @classmethod
    def of(cls, part: str, database: Database, broker: Broker) -> Self:
        """The signs of this part of the service, which needs both."""
        reach = Reach(database=CountStore(database).answers, redis=broker.ping)
        return cls(registry=make_registry(part), pulses=Pulses(), reach=reach)

    def expect(self, *names: str) -> None:
        """From now on these loops have to show a pulse."""
        for name in names:
            self.pulses.expect(name, _WITHIN_S[name])

    def server(
        self, settings: Settings, *, lacks: Callable[[], Lacks], leaving: Callable[[], bool]
    ) -> VitalsServer | None:
        """What answers at the port of this process; None where it has none.

        `lacks` is what it needs beside the database and Redis; `leaving` tells whether it takes nothing on any more.
        """
        if not settings.metrics_port:
            return None

        def alive() -> Lacks:
            self._excuse_consumer(leaving())
            return self.pulses.lacks()

        vitals = Vitals(
            alive=alive,
            ready=lambda: {**lacks(), **self.lacks(), "staying": "It is going away." if leaving() else None},
            metrics=Exposition(self.registry, [self.reach], settings.prometheus_multiproc_dir).text,
            metrics_type=CONTENT_TYPE,
        )
        return VitalsServer(settings.metrics_host, settings.metrics_port, vitals)

    def lacks(self) -> dict[str, str | None]:
        """Whom this process does not reach."""
        return {
            "database": None if self.reach.database else "The job database does not answer.",
            "redis": None if self.reach.redis else "Redis does not answer.",
        }

    def _excuse_consumer(self, leaving: bool) -> None:
        """It stands still while Redis is away, and ends when it is told to: neither is its fault."""
        if leaving or not self.reach.redis:
            self.pulses.beat(CONSUMER)


def show_pulse(app: Celery, pulses: Pulses) -> None:
    """Let the loop of this worker that waits for tickets beat, whenever it has begun anew too."""

    class Pulse(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        def start(self, consumer: Any) -> None:
            pulses.beat(CONSUMER)
            consumer.timer.call_repeatedly(_BEAT_S, pulses.beat, (CONSUMER,))

    app.steps["consumer"].add(Pulse)
