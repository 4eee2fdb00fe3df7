"""A whole set of processes behind a balancer, restarted one by one under load: what `bench.rolling` and tests share."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

import common
from common.artefacts.manifest import check_published
from common.store.database import Database
from modelferry import Client, Refused, Unreachable, WantedModel
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.round_robin import RoundRobin

DOWNLOADS = ("download", "download-2", "download-3")
CONVERTS = ("convert", "convert-2")
APIS = ("api", "api-2")
FLEET = ("redis", *APIS, *DOWNLOADS, *CONVERTS, "reconcile")
ROOT = Path(str(common.__file__)).parent.parent
PLUGINS = ROOT / "tests" / "chaos" / "plugins"

_LARGE_BYTES = 12 * 1024 * 1024
_SMALL_BYTES = 60_000
_HUB_BYTES_PER_S = 400_000
_CLIENTS = 6
_PAUSE_S = 0.5
_PATIENCE_S = 60.0
"""How long our client goes on asking a service that is not there."""

SETTINGS: Mapping[str, str] = {
    "ENABLED_PLUGINS": "huggingface,stamp",
    "MODELFERRY_DRAIN_S": "3",
    "MODELFERRY_CONNECTIONS": "2",
    "MODELFERRY_BLOCK_MB": "1",
    "MODELFERRY_CONVERT_SLOTS": "2",
}


@dataclass(frozen=True)
class Wished:
    """A model that somebody asks for, and how large it is at the hub."""

    name: str
    size: int
    converted: bool

    def model(self) -> WantedModel:
        """As the client sends it."""
        if not self.converted:
            return WantedModel(name=self.name, hub="huggingface")
        return WantedModel(name=self.name, hub="huggingface", type="llm", is_ovms=True, config={"seconds": 0.3})


def stock(hub: FakeHuggingFace, jobs: int, seed: int = 1) -> list[Wished]:
    """Put models of their own for so many jobs into the hub: each third is converted, each tenth is large."""
    chance = random.Random(seed)
    wishes = []
    for number in range(jobs):
        size = _LARGE_BYTES if number % 10 == 7 else _SMALL_BYTES
        name = f"rolling/model-{number}"
        hub.add_repo(name, {"config.json": b'{"n": %d}' % number, "model.safetensors": chance.randbytes(size)})
        wishes.append(Wished(name, size, converted=number % 3 == 0))
    return wishes


def slow_hub() -> FakeHuggingFace:
    """A hub at which a large model takes longer than a worker that drains may."""
    return FakeHuggingFace(bytes_per_s=_HUB_BYTES_PER_S)


@dataclass
class Books:
    """What the clients have seen."""

    accepted: dict[str, Wished] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    repeated: int = 0
    """Submissions that were sent again, under the same key, because no answer came."""
    complaints: list[str] = field(default_factory=list)
    submitted_s: list[float] = field(default_factory=list)
    """How long each submission took, repetitions included."""


class _Counting(httpx.BaseTransport):
    """Counts every answer that comes, whatever the client makes of it."""

    def __init__(self, statuses: Counter[int]) -> None:
        self._statuses = statuses
        self._under = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._under.handle_request(request)
        self._statuses[answer.status_code] += 1
        return answer

    def close(self) -> None:
        self._under.close()


class Load:
    """Clients that ask for models at an even pace, and wait for each. They repeat nothing but what `Client` would."""

    def __init__(self, address: str, wishes: Sequence[Wished], over_s: float) -> None:
        self.books = Books()
        self._address = address
        self._wishes = list(enumerate(wishes))
        self._apart_s = over_s / max(1, len(wishes))
        self._lock = threading.Lock()
        self._waiting: list[threading.Thread] = []
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    @property
    def feeding(self) -> bool:
        """Whether something is still to be submitted."""
        return any(thread.is_alive() for thread in self._threads)

    def finish(self, timeout_s: float) -> list[Any]:
        """The jobs as the clients that waited for them saw them end."""
        for thread in self._threads:
            thread.join(timeout_s)
        with self._client() as client:
            return client.wait_all(list(self.books.accepted), timeout_s=timeout_s)

    def _client(self) -> Client:
        return Client(self._address, transport=_Counting(self.books.statuses))

    def _work(self) -> None:
        with self._client() as client:
            while True:
                with self._lock:
                    if not self._wishes:
                        return
                    number, wish = self._wishes.pop(0)
                time.sleep(max(0.0, self._began + number * self._apart_s - time.monotonic()))
                try:
                    self._submit(client, number, wish)
                except Exception as error:
                    self.books.complaints.append(f"{wish.name}: {type(error).__name__}: {error}")

    def _submit(self, client: Client, number: int, wish: Wished) -> None:
        began = time.monotonic()
        while True:
            try:
                started = client.submit([wish.model()], idempotency_key=f"rolling-{number}")
            except (Unreachable, Refused) as error:
                in_flight = isinstance(error, Refused) and error.code == "key_in_flight"
                if (isinstance(error, Refused) and not in_flight) or time.monotonic() - began > _PATIENCE_S:
                    raise
                self.books.repeated += 1
                time.sleep(_PAUSE_S)
                continue
            self.books.submitted_s.append(time.monotonic() - began)
            (job_id,) = started.job_ids
            self.books.accepted[job_id] = wish
            return


class Fleet:
    """The processes, and the balancer that shares requests out among the APIs that say that they are ready."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.restarts = 0
        self._ports = {int(service.url(name).rpartition(":")[2]): name for name in APIS}
        self.balancer = RoundRobin(list(self._ports))
        self._ended = threading.Event()

    @contextmanager
    def balanced(self) -> Iterator[str]:
        """The address for clients."""
        looking = threading.Thread(target=self._look, daemon=True)
        with self.balancer:
            looking.start()
            try:
                yield self.balancer.address
            finally:
                self._ended.set()
                looking.join()

    def restart(self, name: str, before: Callable[[], object] | None = None, **variables: str) -> None:
        """SIGTERM, wait for the end in order, start anew, and wait until it is ready."""
        code = self.stop(name)
        assert code in {0, -signal.SIGTERM}, f"{name} ended with {code}\n{self.service.tail()}"
        if before is not None:
            before()
        self.start(name, **variables)
        self.restarts += 1

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code."""
        return self.service.terminate(name, timeout_s=40)

    def start(self, name: str, **variables: str) -> None:
        """Start it, and wait until it is ready."""
        said = self._said(name)
        self.service.start(name, **variables)
        match name.partition("-")[0]:
            case "redis":
                self.service.await_redis()
            case "api":
                self.service.wait_until(lambda: self.is_ready(name), 60, f"{name} ready")
            case "reconcile":
                time.sleep(1.0)
            case _:
                self.service.wait_until(lambda: self._said(name) > said, 60, f"{name} ready")

    def is_ready(self, name: str) -> bool:
        try:
            return (
                httpx.get(f"{self.service.url(name)}/ready", trust_env=False, timeout=5).status_code == httpx.codes.OK
            )
        except httpx.TransportError:
            return False

    def _said(self, name: str) -> int:
        return sum("worker.ready" in line for line in self.service.lines(name))

    def _look(self) -> None:
        while not self._ended.wait(0.3):
            self.balancer.resting = {port for port, name in self._ports.items() if not self.is_ready(name)}


def service_of(folder: Path, url: str, hub: FakeHuggingFace, run: Sequence[str] = FLEET, **variables: str) -> Service:
    """The processes of a set on one database."""
    path = os.pathsep.join([str(PLUGINS), str(ROOT)])
    return Service(
        folder, run=run, database_url=url, **{**SETTINGS, "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": path, **variables}
    )


def findings(books: Books, ended: Sequence[Any], url: str) -> dict[str, Any]:
    """What became of the jobs: by what the clients saw, by the table, and by the disk."""
    seen = {job.id: job for job in ended}
    completed = {name for name, job in seen.items() if job.status == "completed"}
    database = Database(url)
    try:
        with database.read() as connection:
            known = {row.id: row.state for row in connection.execute(text("SELECT id, state FROM jobs"))}
            counted = connection.execute(
                text("SELECT event, code, count(*) AS times FROM job_events GROUP BY event, code")
            ).all()
            twice = connection.execute(
                text(
                    "SELECT s.id FROM stages s JOIN job_events e ON e.stage_id = s.id "
                    "WHERE s.kind = 'publish' AND e.event = 'stage.succeeded' GROUP BY s.id HAVING count(*) > 1"
                )
            ).all()
            chained = connection.execute(
                text(
                    "SELECT l.job_id FROM job_stages l JOIN stages s ON s.id = l.stage_id "
                    "WHERE s.kind = 'publish' GROUP BY l.job_id HAVING count(*) > 1"
                )
            ).all()
    finally:
        database.dispose()
    broken = [problem for name in completed for problem in check_published(Path(str(seen[name].path)), rehash=True)]
    events: Counter[str] = Counter()
    for row in counted:
        events[row.event] += row.times
    return {
        "jobs": len(books.accepted),
        "completed": len(completed),
        "lost": len(set(books.accepted) - set(known)) + sum(known.get(name) != "completed" for name in completed),
        "failed": len(seen) - len(completed),
        "strangers": len(set(known) - set(books.accepted)),
        "published_twice": len(twice) + len(chained),
        "broken": len(broken),
        "handed_back": events["stage.released"],
        "retried": sum(row.times for row in counted if row.event == "stage.retried"),
        "server_errors": sum(times for status, times in books.statuses.items() if status >= 500),
        "repeated_submissions": books.repeated,
        "complaints": books.complaints,
        "reasons": sorted({f"{job.error_code}: {job.error}" for job in ended if job.status == "failed"}),
    }
