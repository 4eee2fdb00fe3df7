"""Measures how long 1,000 pods that ask for a gate once a second wait for the answer, while a job runs.

    python -m bench.gates [--rate 1000] [--seconds 20] [--fresh] [--quick]

All processes are real: a Redis of its own, the API, a download worker and the reconciler as they are shipped, on
SQLite, and a hub on loopback that gives one large file slowly. Two gates are asked in turn: one over published models,
which is open, and one that waits for the model that is being fetched, which is closed and tells how far that is.

The load is open: a probe is sent when its time has come, whether or not those before it were answered, and its latency
counts from that time. Each pod has a connection of its own; with `--fresh` a new one for every probe, as a kubelet has.
An answer counts if its status is the right one. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import uvloop

from tests.e2e.service import Service, clean_environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "gates.json"
RATE_BPS = 64 * 1024
MODELS = ("bench/a", "bench/b", "bench/c")
SLOW = "bench/slow"
OPEN, CLOSED = "open", "closed"
STATUS = {OPEN: 200, CLOSED: 503}
_PODS = 1000
_WARM_UP_S = 2.0
"""Probes of this time are not counted: a server takes a thousand connections in one after the other."""
_LAST_ANSWERS_S = 5.0


@dataclass
class Load:
    """What was sent, and what came of it."""

    sent: int = 0
    latencies_s: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def answered(self, probe: "_Probe", status: int) -> None:
        self.latencies_s.append(time.perf_counter() - probe.due)
        if status != STATUS[probe.gate]:
            self.wrong[f"{probe.gate}: {status}"] += 1


def main() -> None:
    options = _options()
    seconds = min(options.seconds, 3.0) if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir=options.folder) as name:
        folder = Path(name)
        with _hub(folder, seconds) as endpoint, Service(folder, run=_RUN, HF_ENDPOINT=endpoint) as service:
            _prepare(service)
            load = uvloop.run(_load(service.url(), options.rate, seconds, fresh=options.fresh))
            _check(service, load)
    report = _report(load, seconds)
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    for key, value in report.items():
        print(f"  {key:14}{value}")
    print(json.dumps({key: report[key] for key in ("probes_per_s", "p99_ms")}))


_RUN = ("redis", "api", "download", "reconcile")


def _prepare(service: Service) -> None:
    """Both gates, one of them open, and a fetch that runs."""
    with httpx.Client(trust_env=False, base_url=service.url()) as client:

        def put(gate: str, *names: str) -> None:
            body = {"models": [{"name": name, "hub": "huggingface"} for name in names]}
            client.put(f"/gates/{gate}", json=body).raise_for_status()

        def told(gate: str) -> dict[str, Any]:
            view: dict[str, Any] = client.get(f"/gates/{gate}").json()
            return view

        put(OPEN, *MODELS)
        service.wait_until(lambda: told(OPEN).get("open"), 60, "an open gate")
        put(CLOSED, *MODELS, SLOW)
        service.wait_until(lambda: told(CLOSED)["models"][-1].get("percent"), 60, "a fetch that runs")


def _check(service: Service, load: Load) -> None:
    with httpx.Client(trust_env=False, base_url=service.url()) as client:
        last = client.get(f"/gates/{CLOSED}").json()["models"][-1]
    if last["state"] != "coming":
        raise SystemExit(f"the job should run to the end of the measurement, but is {last}")
    if load.wrong:
        raise SystemExit(f"wrong answers: {dict(load.wrong)}")


async def _load(url: str, rate: int, seconds: float, *, fresh: bool) -> Load:
    """Send probes at this rate, whatever becomes of those before."""
    load, before = Load(), Load()
    host, _, port = url.removeprefix("http://").partition(":")
    send = _fresh(host, int(port)) if fresh else await _kept(host, int(port))
    start = time.perf_counter() + _WARM_UP_S
    for number in range(int(-rate * _WARM_UP_S), int(rate * seconds)):
        due = start + number / rate
        # A sleep is never exact, and a pause of none lets the answers be read.
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        counted = load if number >= 0 else before
        send(number, _Probe(gate=_gate(number), due=due, load=counted))
        counted.sent += 1
    end = time.perf_counter() + _LAST_ANSWERS_S
    while len(load.latencies_s) < load.sent and time.perf_counter() < end:  # noqa: ASYNC110 - nobody tells of the last
        await asyncio.sleep(0.01)
    return load


@dataclass(frozen=True)
class _Probe:
    gate: str
    due: float
    load: Load


class _Pod(asyncio.Protocol):
    """One connection: requests in, answers out, in their order."""

    def __init__(self) -> None:
        self._asked: deque[_Probe] = deque()
        self._read = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, probe: _Probe, *, close: bool = False) -> None:
        assert self._transport is not None
        self._asked.append(probe)
        last = "Connection: close\r\n" if close else ""
        self._transport.write(f"GET /gates/{probe.gate} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._read += data
        while self._asked:
            head, found, rest = bytes(self._read).partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self._read = bytearray(rest[length:])
            probe = self._asked.popleft()
            probe.load.answered(probe, int(head.split(b" ", 2)[1]))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for probe in self._asked:
            probe.load.answered(probe, 0)


async def _kept(host: str, port: int) -> Callable[[int, _Probe], None]:
    """One connection for each pod, which it keeps."""
    loop = asyncio.get_running_loop()
    pods = [(await loop.create_connection(_Pod, host, port))[1] for _ in range(_PODS)]
    return lambda number, probe: pods[number % _PODS].ask(probe)


def _fresh(host: str, port: int) -> Callable[[int, _Probe], None]:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def ask(probe: _Probe) -> None:
        _, pod = await loop.create_connection(_Pod, host, port)
        pod.ask(probe, close=True)

    def send(_number: int, probe: _Probe) -> None:
        task = loop.create_task(ask(probe))
        running.add(task)
        task.add_done_callback(running.discard)

    return send


def _gate(number: int) -> str:
    # Each pod asks for the same gate all the time.
    return OPEN if number % _PODS % 2 else CLOSED


@contextmanager
def _hub(folder: Path, seconds: float) -> Iterator[str]:
    """A hub with some small models, and one that takes far longer than the measurement."""
    repos = folder / "repos"
    for name in (*MODELS, SLOW):
        at = repos / name
        at.mkdir(parents=True)
        (at / "config.json").write_text("{}")
        # At most 16 connections fetch one file: so the large one takes a minute longer than the measurement.
        blocks = int(16 * (seconds + 60)) if name == SLOW else 1
        with (at / "model.safetensors").open("wb") as file:
            for number in range(blocks):
                file.write(f"{name} {number:08}".encode().ljust(RATE_BPS, b"."))
    command = [sys.executable, "-m", "tests.fakes.huggingface", "--root", str(repos), "--rate", str(RATE_BPS)]
    process = subprocess.Popen(
        command, env=clean_environment(folder) | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["endpoint"]
    finally:
        process.terminate()
        process.wait(timeout=30)


def _report(load: Load, seconds: float) -> dict[str, float]:
    ordered = sorted(load.latencies_s)
    if len(ordered) < load.sent:
        raise SystemExit(f"{load.sent - len(ordered)} of {load.sent} probes were not answered")

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    # Answers that come after the last was due make the time longer.
    last_s = max(seconds, seconds + ordered[-1] - 1.0)
    return {
        "sent": load.sent,
        "seconds": seconds,
        "probes_per_s": round(len(ordered) / last_s, 1),
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "longest_ms": at(1.0),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="probes a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--fresh", action="store_true", help="a new connection for every probe")
    parser.add_argument("--quick", action="store_true", help="three seconds: shows that it runs")
    parser.add_argument("--folder", type=Path, help="where the models go meanwhile; the system's choice by default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
