"""Models and bytes: what listing, gates, transfers and conversions cost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import transfer as transfer_bench
from bench.capacity_parts.ground import Costs, Point, Site, rounded
from bench.capacity_parts.requests import CLIENTS, Web
from bench.queue_parts.processes import Process
from common.artefacts.publish import publish
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.stored_models import a_plan, a_store, a_stored_artefact


@dataclass(frozen=True)
class Running:
    """A process that another has started."""

    pid: int


_GATE_RUN = ("redis", "api", "download", "reconcile")


def listing(site: Site) -> Iterator[Point]:
    """GET /models over so many published models: the first time, and again."""
    models = site.processes.folder / "models"
    shutil.rmtree(models, ignore_errors=True)
    made = 0
    for wanted in site.scale.models:
        _publish(models, made, wanted)
        made = wanted
        api, port = site.processes.api(site.table("sqlite").url)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120) as client:
            for which in ("first", "again"):
                yield rounded({"part": "listing", "models": wanted, "which": which, **_listed(client, api, wanted)})
        api.kill()
    shutil.rmtree(models)


def _listed(client: httpx.Client, api: Process, wanted: int) -> Point:
    process = psutil.Process(api.pid)
    before, reads, began = process.cpu_times(), process.io_counters().read_count, time.monotonic()
    page = client.get("/models").raise_for_status().json()
    if page["total"] != wanted:
        raise SystemExit(f"{page['total']} models are listed, and {wanted} are there")
    taken, after = time.monotonic() - began, process.cpu_times()
    return {
        "seconds": taken,
        "cpu_s": after.user + after.system - before.user - before.system,
        "file_reads": process.io_counters().read_count - reads,
    }


def _publish(models: Path, made: int, wanted: int) -> None:
    """Publish a small model once, and copy its folder: only the number of folders matters."""
    first = models / "bench" / "model-0"
    if not first.exists():
        models.mkdir(exist_ok=True)
        store = a_store(models)
        artefact = a_stored_artefact(store, {"config.json": b"{}", "model.bin": b"w" * 100})
        publish(store, a_plan(artefact, "bench/model-0"), fence=lambda: None)
    for number in range(max(1, made), wanted):
        shutil.copytree(first, models / "bench" / f"model-{number}")


def gates(site: Site) -> Iterator[Point]:
    """An open gate, asked for as fast as it goes, and what one answer costs."""
    with FakeHuggingFace() as hub:
        hub.add_repo("bench/a", {"config.json": b"{}", "model.safetensors": bytes(1000)})
        with Service(site.folder / "gates", run=_GATE_RUN, HF_ENDPOINT=hub.endpoint) as service:
            with httpx.Client(base_url=service.url(), trust_env=False) as client:
                body = {"models": [{"name": "bench/a", "hub": "huggingface"}]}
                client.put("/gates/bench", json=body).raise_for_status()
                service.wait_until(lambda: client.get("/gates/bench").json().get("open"), 60, "an open gate")
            # Clients that ask a process that is there already.
            port = int(service.url().rpartition(":")[2])
            rows = site.table("sqlite")
            web = Web(site, rows, [Running(service.pid("api"))], [port])
            for clients in (1, CLIENTS):
                asked = [[("GET", "/gates/bench", "")]] * clients
                yield {"part": "gates", "database": "sqlite", "apis": 1, **web.load(asked, site.scale.load_s)}


def moving(site: Site) -> Iterator[Point]:
    """What a transfer costs, hashes and all; the best of some rounds."""
    size_mb, folder = site.scale.transfer_mb, site.folder / "moving"
    repos = folder / "repos"
    transfer_bench._make_repo(repos / "bench" / "one", {"model.safetensors": size_mb})  # noqa: SLF001
    with transfer_bench._serve(repos, folder / "hub.log") as hub:  # noqa: SLF001
        command = transfer_bench._command("ours", hub, "bench/one", folder / "out")  # noqa: SLF001
        rounds = [transfer_bench._cost_of(command, folder / "out") for _ in range(site.scale.rounds)]  # noqa: SLF001
    shutil.rmtree(folder)
    best, gb = min(rounds, key=lambda cost: cost.wall_s), size_mb * transfer_bench.MIB / 1e9
    yield rounded(
        {
            "part": "moving",
            "gb": gb,
            "gb_per_s": gb / best.wall_s,
            "cpu_s_per_gb": best.cpu_s / gb,
            "peak_mb": best.peak_mb,
        }
    )


def converting(site: Site) -> Iterator[Point]:
    """Conversions of one model, by precision: seconds and memory for each GB of its source."""
    source = site.folder / "converted"
    make = [sys.executable, "-m", "bench.convert", "--make", site.scale.conversion, str(source)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    gb = sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) / 1e9
    with FakeHuggingFace() as hub:
        hub.add_directory("bench/one", source)
        with Service(site.folder / "converting", HF_ENDPOINT=hub.endpoint) as service:
            # A fetch is no part of what is measured; the conversions find its content in the store.
            _completed(service, {"name": "bench/one", "hub": "huggingface"})
            wish = {"name": "bench/one", "hub": "huggingface", "is_ovms": True, "type": "llm"}
            for precision in ("fp16", "int8", "int4"):
                costs = Costs(worker=service.pid("convert"))
                _completed(service, {**wish, "config": {"precision": precision, "device": "CPU"}})
                taken = costs.so_far()
                yield rounded(
                    {
                        "part": "converting",
                        "precision": precision,
                        "gb": gb,
                        "seconds": taken["wall"],
                        "cpu_s_per_gb": taken["worker"] / gb,
                    }
                )
    shutil.rmtree(source)


def _completed(service: Service, wish: dict[str, Any]) -> None:
    [job_id] = service.submit(wish)
    job = service.wait(job_id, timeout_s=200)
    if job["status"] != "completed":
        raise SystemExit(f"{wish}: {job.get('error')}")
