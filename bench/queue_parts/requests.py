"""How many requests a second the web process answers, and how long one takes."""

import itertools
import json
import math
import statistics
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from bench.queue_parts.claims import SLOTS
from bench.queue_parts.ground import Figures, Ground
from bench.queue_parts.rows import Rows
from common.broker import Broker
from common.vocabulary import Pool

_POST = "/api/v1/models/download?download_path=bench"
_JOBS = "/api/v1/jobs"
_EVERY_S = 0.5
_PAGE, _LONG_PAGE = 50, 1000
_MOST_POSTS_PER_S = 1500
_CLIENT_S = 60.0
_STAGE_S = 0.4

Request = tuple[str, str, str]
"""Method, path and body."""


@dataclass(frozen=True)
class Answers:
    """How a load was answered."""

    per_s: float
    waited_s: Sequence[float]
    client_cpu: float
    """The share of a core that the clients took."""

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.waited_s)
        return 1000 * ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    def figures(self, name: str) -> Figures:
        return {
            f"{name}_per_s": self.per_s,
            f"{name}_p50_ms": self.quantile_ms(0.5),
            f"{name}_p99_ms": self.quantile_ms(0.99),
            f"{name}_clients_cpu": self.client_cpu,
        }


def posts(ground: Ground) -> Figures:
    """Accepted POSTs, each of a model of its own, while no worker runs."""
    figures: Figures = {}
    for database in ground.databases:
        rows = ground.table(database, ground.size.tables[0])
        api, port = ground.processes.api(rows.url)
        alone = _ask(ground, port, _submissions(1, ground.size.posting_s), ground.size.posting_s)
        shares, p99s = [], []
        for _ in range(ground.size.rounds):
            ground.ceiling.measure()
            many = _ask(ground, port, _submissions(ground.size.clients, ground.size.posting_s), ground.size.posting_s)
            ground.ceiling.measure()
            shares.append(ground.ceiling.of_sending(many.per_s))
            p99s.append(many.quantile_ms(0.99))
            figures |= many.figures(f"{database}_{ground.size.clients}_clients")
        api.kill()
        figures |= alone.figures(f"{database}_1_client")
        figures[f"{database}_vs_apply_async"] = statistics.median(shares)
        figures[f"{database}_p99_ms"] = statistics.median(p99s)
        rows.remove(rows.job_ids(ended=False))
    return figures


def polls(ground: Ground) -> Figures:
    """Many clients that follow a job each while a worker is busy, in the largest table."""
    figures: Figures = {}
    size = ground.size
    for database in ground.databases:
        rows = ground.table(database, size.tables[-1])
        api, port = ground.processes.api(rows.url)
        ended = itertools.islice(itertools.cycle(rows.job_ids(ended=True)), size.pollers)
        with _BusyWorker(ground, rows) as waiting:
            followed = [[("GET", f"{_JOBS}/{job}", "")] for pair in zip(ended, waiting, strict=False) for job in pair]
            clients = followed[: size.pollers]
            paced = _ask(ground, port, clients, size.polling_s, every_s=_EVERY_S)
            flat_out = _ask(ground, port, clients, size.polling_s)
        api.kill()
        figures |= paced.figures(f"{database}_every_{_EVERY_S}_s") | flat_out.figures(f"{database}_flat_out")
        figures[f"{database}_p99_ms"] = paced.quantile_ms(0.99)
    return figures


def pages(ground: Ground) -> Figures:
    """The first and the last page of the list, in a small table and in a large one."""
    figures: Figures = {}
    size = ground.size
    for database, ended in itertools.product(ground.databases, (size.tables[0], size.tables[-1])):
        api, port = ground.processes.api(ground.table(database, ended).url)
        for place, path in (("first", f"{_JOBS}?limit={_PAGE}&cursor="), ("last", _last_page(port))):
            page = _ask(ground, port, [[("GET", path, "")]], size.paging_s)
            figures[f"{database}_{ended}_rows_{place}_p50_ms"] = page.quantile_ms(0.5)
        api.kill()
    return figures


class _BusyWorker:
    """A worker that runs a child for every stage; each lasts a while and tells of its progress."""

    def __init__(self, ground: Ground, rows: Rows) -> None:
        self._rows = rows
        self._ground = ground
        self._worker = ground.processes.worker("linger", rows.url, SLOTS)

    def __enter__(self) -> Sequence[str]:
        broker = Broker(self._ground.processes.redis_url)
        lasting_s = 3 * self._ground.size.polling_s
        self._ids = self._rows.add(self._rows.fetched, math.ceil(lasting_s * SLOTS / _STAGE_S))
        for _ in range(SLOTS):
            broker.enqueue(Pool.DOWNLOAD)
        return self._ids

    def __exit__(self, *_: object) -> None:
        self._worker.kill()
        self._ground.processes.redis.flushall()
        self._rows.remove(self._ids)


def _submissions(clients: int, for_s: float) -> list[list[Request]]:
    """Enough bodies for everybody that none has to be sent twice: equal wishes would share their work."""
    enough = math.ceil(_MOST_POSTS_PER_S * (for_s + 1) / clients)
    return [[("POST", _POST, _submission()) for _ in range(enough)] for _ in range(clients)]


def _submission() -> str:
    return json.dumps({"models": [{"name": f"bench/{uuid.uuid4().hex}", "hub": "huggingface"}]})


def _ask(
    ground: Ground, port: int, requests: Sequence[Sequence[Request]], for_s: float, every_s: float | None = None
) -> Answers:
    plan = {"port": port, "requests": requests, "for_s": for_s, "every_s": every_s}
    file = ground.processes.folder / "plan.json"
    file.write_text(json.dumps(plan))
    told = json.loads(ground.processes.start_module("bench.queue_parts.load", file).last_line(for_s + _CLIENT_S))
    return Answers(len(told["waited_s"]) / told["seconds"], told["waited_s"], told["client_cpu"])


def _last_page(port: int) -> str:
    """Walk through the list as a client does, in long pages, and then to where a full page is left."""
    with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        before, cursor, left = "", "", 0
        while True:
            following, left = _step(client, cursor, _LONG_PAGE)
            if following is None:
                break
            before, cursor = cursor, following
        too_many = left - _PAGE if left > _PAGE else _LONG_PAGE + left - _PAGE
        begun, _ = _step(client, cursor if left > _PAGE else before, too_many)
        return f"{_JOBS}?limit={_PAGE}&cursor={begun or ''}"


def _step(client: httpx.Client, cursor: str, limit: int) -> tuple[str | None, int]:
    page = client.get(_JOBS, params={"limit": limit, "cursor": cursor}).raise_for_status().json()
    return page.get("next_cursor"), len(page["jobs"])
