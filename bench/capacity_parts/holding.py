"""What things take while nothing happens: bytes of rows and tickets, memory and connections of processes, listeners."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import make_url

from bench.capacity_parts.ground import DATABASES, Costs, Point, Site, each, memory_mb, rounded
from bench.queue_parts.rows import Rows
from common.broker import Broker
from common.vocabulary import Pool
from tests.e2e.service import ALL, Service
from tests.fakes.huggingface import FakeHuggingFace

_TABLES = ("jobs", "stages", "job_stages", "job_events")
_IDLE_S = 3.0
_SETTLE_S = 2.0
_GATE = "held"


def growth(site: Site) -> Iterator[Point]:
    """How much a database grows by a download that has ended."""

    def measure(database: str) -> Iterator[Point]:
        with site.fresh_table(database, 100) as rows:
            before = _sizes(rows)
            rows.add(rows.ended, site.scale.grown)
            after = _sizes(rows)
        grown = {name: (after[name] - before[name]) / site.scale.grown for name in after}
        yield rounded({"part": "growth", "jobs": site.scale.grown, **{f"{name}_bytes": grown[name] for name in grown}})

    return each(DATABASES, measure)


def _sizes(rows: Rows) -> dict[str, float]:
    """Bytes in all, and where the database tells, of each table with its indexes."""
    if rows.url.startswith("sqlite"):
        path = make_url(rows.url).database
        assert path is not None
        return {"total": float(Path(path).stat().st_size)}
    with psycopg.connect(rows.url) as connection:
        found = {}
        for name in _TABLES:
            row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [name]).fetchone()
            assert row is not None
            found[name] = float(row[0])
    return {"total": sum(found.values()), **found}


def tickets(site: Site) -> Iterator[Point]:
    """What a waiting ticket takes in Redis, and what it costs to send one."""
    redis, broker = site.processes.redis, Broker(site.processes.redis_url)
    redis.flushall()
    broker.enqueue(Pool.DOWNLOAD)
    before = redis.info()
    costs = Costs(sender=os.getpid(), redis=int(before["process_id"]))
    for _ in range(site.scale.tickets):
        broker.enqueue(Pool.DOWNLOAD)
    taken, after = costs.so_far(), redis.info()
    redis.flushall()
    count = site.scale.tickets
    yield rounded(
        {
            "part": "tickets",
            "redis": str(after["redis_version"]),
            "tickets": count,
            "bytes": (after["used_memory"] - before["used_memory"]) / count,
            "commands": (after["total_commands_processed"] - before["total_commands_processed"]) / count,
            "sender_cpu_ms": 1000 * taken["sender"] / count,
            "redis_cpu_ms": 1000 * taken["redis"] / count,
            "per_s": count / taken["wall"],
        }
    )


def listeners(site: Site) -> Iterator[Point]:
    """Clients that listen for all that happens: memory and processor time for each of them."""
    rows = site.table("postgres")
    api, port = site.processes.api(rows.url)
    time.sleep(_SETTLE_S)
    before = memory_mb(api.pid)["rss_mb"]
    lines = [_listen(port) for _ in range(site.scale.listeners)]
    time.sleep(_SETTLE_S)
    after = memory_mb(api.pid)["rss_mb"]
    costs = Costs(api=api.pid)
    heard = _hear(lines, _IDLE_S)
    taken = costs.so_far()
    for line in lines:
        line.close()
    api.kill()
    count = site.scale.listeners
    yield rounded(
        {
            "part": "listeners",
            "database": "postgres",
            "listeners": count,
            "kb_each": 1000 * (after - before) / count,
            "idle_cpu_ms_per_s_each": 1000 * taken["api"] / taken["wall"] / count,
            "bytes_per_s_each": heard / taken["wall"] / count,
        }
    )


def _listen(port: int) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=10)
    line.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    answer = line.recv(65536)
    if b" 200 " not in answer[:20]:
        raise SystemExit(answer[:300].decode(errors="replace"))
    return line


def _hear(lines: list[socket.socket], seconds: float) -> int:
    waiting, heard, until = selectors.DefaultSelector(), 0, time.monotonic() + seconds
    for line in lines:
        waiting.register(line, selectors.EVENT_READ)
    while (left := until - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            heard += len(key.fileobj.recv(65536))  # type: ignore[union-attr]
    return heard


def memory(site: Site) -> Iterator[Point]:
    """Every kind of process of a service that has done one job and now does nothing; and an open gate of it."""
    with FakeHuggingFace() as hub:
        hub.add_repo("bench/a", {"config.json": b"{}", "model.safetensors": bytes(100_000)})
        with Service(site.folder / "memory", run=ALL, HF_ENDPOINT=hub.endpoint) as service:
            service.wait(service.submit({"name": "bench/a", "hub": "huggingface"})[0])
            time.sleep(_SETTLE_S)
            pids = {name: service.pid(name) for name in ALL}
            costs = Costs(**pids)
            time.sleep(_IDLE_S)
            taken = costs.so_far()
            for name, pid in pids.items():
                idle = 1000 * taken[name] / taken["wall"]
                open_lines = sum(_connections(one, service._redis_port) for one in _with_children(pid))  # noqa: SLF001
                yield rounded(
                    {"part": "memory", "process": name, **memory_mb(pid), "idle_cpu_ms_per_s": idle,
                     "redis_connections": open_lines}
                )  # fmt: skip


def _with_children(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _connections(process: psutil.Process, port: int) -> int:
    lines = process.net_connections(kind="tcp")
    return sum(1 for line in lines if line.raddr and line.raddr.port == port and line.status == "ESTABLISHED")


def connections(site: Site) -> Iterator[Point]:
    """Connections to Postgres that each process keeps when it has been busy."""
    rows = site.table("postgres")
    worker = site.processes.worker("noop", rows.url, 4)
    time.sleep(_SETTLE_S)
    with_worker = _sessions(rows)
    worker.kill()
    api, port = site.processes.api(rows.url)
    lines = [_burst(port) for _ in range(40)]
    time.sleep(1.0)
    with_api = _sessions(rows)
    for line in lines:
        line.close()
    api.kill()
    yield {"part": "connections", "process": "download worker of 4 slots, idle", "postgres_connections": with_worker}
    yield {"part": "connections", "process": "API after 40 requests at once", "postgres_connections": with_api}


def _burst(port: int) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=10)
    line.sendall(b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return line


def _sessions(rows: Rows) -> int:
    with psycopg.connect(rows.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name NOT LIKE 'bench%'"
        ).fetchone()
    assert row is not None
    # The measurement's own connection is one of them.
    return int(row[0]) - 1
