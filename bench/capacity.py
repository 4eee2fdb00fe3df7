"""Measures what one process of each kind carries on this machine, one JSON line for each point.

    python -m bench.capacity [--quick] [--only submit,claims] [--folder DIR]
    python -m bench.capacity --page

All processes are real: a Redis of its own, the API and the workers as they are shipped (stages that do nothing where
the queue is measured). Run it on an idle machine; in all it takes some minutes. What is measured:

    machine      what plain Python gets done alone, and on as many cores as there are
    submit       POSTs that make jobs: 1 and 16 clients, 1 and 2 web processes
    poll         GET /jobs/{id}, and 100 clients that ask twice a second
    mixed        POSTs beside those clients
    gates        an open gate
    listeners    clients that listen for events
    claims       stages that do nothing: 1 slot, and 1, 2 and 4 workers of 4 slots
    backlog      the same with 10k and 100k waiting stages
    pool         a burst of stages of a known length on 4 and 8 slots, and what a child costs
    growth       bytes of a job in the database
    tickets      bytes and commands of a ticket in Redis
    memory       what each kind of process holds and does while nothing happens
    connections  connections to Postgres
    listing      GET /models over 10, 1k and 10k models
    moving       a transfer
    converting   a conversion by precision

The points go to bench/results/capacity.json: with `--only` those of the named parts, beside the others that are there
already; with `--quick` none. `bench.simulate` reads them. `--page` writes them into the tables of docs/capacity.md.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from typing import Any

from bench.capacity_parts import content, holding, requests, stages
from bench.capacity_parts.ground import QUICK, Point, Scale, Site, machine, rounded, spin
from bench.capacity_parts.page import rewrite

RESULTS = Path(__file__).parent / "results" / "capacity.json"


def _machine(site: Site) -> Iterator[Point]:
    """How much slower a core is while the others are busy too."""
    cores = int(machine()["cores"])
    alone, together = spin(site.scale.spin_s, 1), spin(site.scale.spin_s, cores)
    yield rounded({"part": "machine", "busy_cores": cores, "slowdown": alone / together})


PARTS: dict[str, Callable[[Site], Iterator[Point]]] = {
    "machine": _machine,
    "submit": requests.submit,
    "poll": requests.poll,
    "mixed": requests.mixed,
    "gates": content.gates,
    "listeners": holding.listeners,
    "claims": stages.claims,
    "backlog": stages.backlog,
    "pool": stages.pool,
    "growth": holding.growth,
    "tickets": holding.tickets,
    "memory": holding.memory,
    "connections": holding.connections,
    "listing": content.listing,
    "moving": content.moving,
    "converting": content.converting,
}


def main() -> None:
    options = _options()
    if options.page:
        rewrite(json.loads(options.results.read_text()))
        return
    parts = options.only.split(",") if options.only else list(PARTS)
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir=options.folder) as name, ExitStack() as opened:
        site = Site(Path(name), QUICK if options.quick else Scale(), opened)
        points, seconds = _measured(site, parts)
    if not options.quick or options.results != RESULTS:
        _keep(points, seconds, options.results)


def _measured(site: Site, parts: list[str]) -> tuple[list[Point], dict[str, float]]:
    points: list[Point] = []
    seconds: dict[str, float] = {}
    out = sys.stdout
    for part in parts:
        began = time.monotonic()
        # The services that are measured talk a lot at their end.
        with redirect_stdout(sys.stderr):
            for point in PARTS[part](site):
                points.append(point)
                print(json.dumps(point), flush=True, file=out)
        seconds[part] = round(time.monotonic() - began, 1)
        print(f"# {part}: {seconds[part]} s", file=sys.stderr, flush=True)
    return points, seconds


def _keep(points: list[Point], seconds: dict[str, float], results: Path) -> None:
    """Beside what was measured of other parts before, on the same machine."""
    before: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    kept = before.get("points", []) if before.get("machine") == machine() else []
    # The part that measures children on a pool has points of two names.
    anew = {point["part"] for point in points} | seconds.keys()
    others = [point for point in kept if point["part"] not in anew]
    report = {"machine": machine(), "seconds": {**before.get("seconds", {}), **seconds}, "points": [*others, *points]}
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny numbers: shows that it runs, measures nothing")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--page", action="store_true", help="write the results into docs/capacity.md, and measure nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file for the results; with --quick too")
    parser.add_argument("--folder", type=Path, help="where everything goes meanwhile; the system's choice by default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
