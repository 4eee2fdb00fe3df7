"""A service with webhooks for tests: the real application, and a deliverer that works when it is told to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import update

from common.plugins import NetworkRules
from common.seals import Seal
from common.settings import Settings
from common.store.database import Database, Now
from common.store.deliveries import DeliveryStore
from common.store.tables import DeliveryRow
from tests.web import Web, web
from worker.webhooks import Deliverer

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
ELSEWHERE = "https://hooks.example/modelferry"


@dataclass
class House:
    """One service, whose deliverer works when it is told to."""

    web: Web
    database: Database
    seal: Seal
    rules: NetworkRules
    ago_s: float = 0.0
    deliverers: list[Deliverer] = field(default_factory=list)

    def deliverer(self, **more: Any) -> Deliverer:
        made = Deliverer(
            store=DeliveryStore(self.database), seal=self.seal, rules=self.rules, jitter=lambda: 1.0,
            now=lambda: datetime.now(UTC) - timedelta(seconds=self.ago_s), **more,
        )  # fmt: skip
        self.deliverers.append(made)
        return made

    def add(self, url: str, **more: Any) -> SimpleNamespace:
        answer = self.web.post("/webhooks", json={"url": url, **more})
        assert answer.status_code == 201, answer.text
        return SimpleNamespace(**answer.json())

    def deliveries(self, webhook_id: str) -> list[dict[str, Any]]:
        answer = self.web.get(f"/webhooks/{webhook_id}/deliveries")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["deliveries"]
        return found

    def sent(self, webhook_id: str, deliverer: Deliverer | None = None) -> dict[str, Any]:
        """Let the deliverer do what is due. The newest message to this webhook, after that."""
        working = deliverer or self.deliverers[0]
        working.once()
        until(lambda: not working._on_the_way())
        return self.deliveries(webhook_id)[0]

    def make_due(self) -> None:
        with self.database.write() as connection:
            connection.execute(update(DeliveryRow).where(DeliveryRow.state == "waiting").values(due_at=Now()))


def until(fulfilled: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not fulfilled():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.01)


@contextmanager
def house(folder: Path, *hosts: str, **settings: Any) -> Iterator[House]:
    wanted = {"private_hosts": ", ".join(hosts), **settings}
    with web(folder, **wanted) as running:
        given = Settings(models_dir=running.models_dir, **wanted)
        database = Database(given.store_url)
        made = House(running, database, Seal.of(given), NetworkRules(private_hosts=frozenset(hosts)))
        made.deliverer()
        yield made
        for deliverer in made.deliverers:
            if deliverer._loop.is_alive():
                deliverer.stop()
            deliverer._senders.shutdown()
        database.dispose()


def complete_one(made: House) -> str:
    (job_id,) = made.web.submitted(A_MODEL)
    made.web.complete(revision="f" * 40)
    return job_id
