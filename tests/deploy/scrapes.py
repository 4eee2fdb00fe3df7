"""What real processes of Modelferry answer when they are scraped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.embedded.redis_server import LOOPBACK, free_port
from common.store.database import Database
from common.store.limits import LimitStore
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace

TELLING = ("api", "download", "reconcile")
MODEL = "demo/whole"
BYTES = 3_000_000


@dataclass
class Watched:
    """A running service, each of whose processes has a port for its health and its metrics."""

    service: Service
    hub: FakeHuggingFace
    ports: dict[str, int]

    def ask(self, name: str, path: str, timeout_s: float = 10.0) -> httpx.Response:
        """GET a path at the port of a process."""
        with httpx.Client(trust_env=False, timeout=timeout_s) as client:
            return client.get(f"http://{LOOPBACK}:{self.ports[name]}{path}")

    def scrape(self, name: str) -> dict[str, Metric]:
        return families(self.ask(name, "/metrics").text)

    def start(self, name: str, **variables: str) -> None:
        self.ports.setdefault(name, free_port())
        self.service.start(name, MODELFERRY_METRICS_PORT=str(self.ports[name]), **variables)

    def await_ready(self, name: str, timeout_s: float = 60.0) -> None:
        self.service.wait_until(lambda: self._status(name, "/readyz") == 200, timeout_s, f"{name} ready")

    def await_value(self, process: str, sample: str, wanted: float, timeout_s: float = 15.0, **labels: str) -> None:
        """What is true of the service is remembered for some seconds."""
        until = time.monotonic() + timeout_s
        while (found := value(self.scrape(process), sample, **labels)) != wanted:
            assert time.monotonic() < until, f"{sample}{labels} is {found}, not {wanted}"
            time.sleep(0.2)

    def _status(self, name: str, path: str) -> int | None:
        try:
            return self.ask(name, path).status_code
        except httpx.TransportError:
            return None


@contextmanager
def watched_service(folder: Path) -> Iterator[Watched]:
    """A service that has done a little of everything that is counted."""
    with FakeHuggingFace() as hub:
        hub.add_repo(MODEL, {"config.json": b"{}", "model.safetensors": b"x" * (BYTES - 2)})
        with Service(
            folder, run=(), HF_ENDPOINT=hub.endpoint, MODELFERRY_PRIVATE_HOSTS=LOOPBACK, MODELFERRY_DRAIN_S="4"
        ) as service:
            watched = Watched(service, hub, {})
            service.start("redis")
            service.await_redis()
            for name in TELLING:
                watched.start(name)
            service.await_health()
            for name in TELLING:
                watched.await_ready(name)
            _work(service)
            yield watched


def _work(service: Service) -> None:
    wanted = [{"name": MODEL, "hub": "huggingface"}, {"name": "demo/missing", "hub": "huggingface"}]
    ended = [service.wait(job_id)["status"] for job_id in service.submit(*wanted)]
    assert ended == ["completed", "failed"]
    gate: dict[str, Any] = {"models": [wanted[0]], "download_path": "gated"}
    with httpx.Client(trust_env=False) as client:
        assert client.put(f"{service.url()}/gates/ready-soon", json=gate).is_success
    service.wait_until(lambda: service.get("/gates/ready-soon").status_code == 200, 30, "an open gate")
    database = Database(f"sqlite:///{service.folder / 'jobs.db'}")
    LimitStore(database).close_hub("ollama", 600.0, "It wants none (429)")
    database.dispose()


def families(text: str) -> dict[str, Metric]:
    """Name of a metric -> all that is said of it."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} comes twice"
        found[family.name] = family
    return found


def value(found: dict[str, Metric], sample: str, **labels: str) -> float | None:
    """The value of the sample with just these labels among its own, or None."""
    matching = [
        one.value
        for family in found.values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    ]
    assert len(matching) <= 1, (sample, labels, matching)
    return matching[0] if matching else None
