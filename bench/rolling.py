"""Restarts everything, one process after the other, while clients go on asking for models, and counts what was lost.

    python -m bench.rolling [--jobs 300] [--seconds 120]

All processes are real: two APIs behind a balancer that goes by `/ready`, three download and two convert workers, the
reconciler, Redis, and a Postgres of its own. Each gets SIGTERM, has to end by itself, is started again, and has to be
ready before the next one is asked. Redis comes last. The clients are ours, and repeat only what they always repeat: a
submission that got no answer, under the same Idempotency-Key.

The models are small files of a hub on loopback. Each third one is converted by a converter that digests its input; each
tenth is so large that its fetch takes longer than a worker waits. The last line is JSON, and the exit code is 0 only
if every accepted job was completed, once, and no answer was an error of the server.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from tests.databases import postgres_url
from tests.rolling import APIS, CONVERTS, DOWNLOADS, FLEET, Fleet, Load, findings, service_of, slow_hub, stock

ORDER = (*APIS, *DOWNLOADS, *CONVERTS, "reconcile", "redis")
_NONE_OF = ("lost", "failed", "strangers", "published_twice", "broken", "server_errors", "complaints")
_LAST_S = 180.0


def main() -> int:
    options = _options()
    # The service shows the end of its log when it ends; the result shall be alone on its stream.
    with tempfile.TemporaryDirectory(prefix="mf-rolling-") as name, redirect_stdout(sys.stderr):
        report = roll(Path(name), options.jobs, options.seconds, lambda words: print(words, file=sys.stderr))
    print(json.dumps(report))
    return 0 if is_clean(report, options.jobs) else 1


def roll(folder: Path, jobs: int, seconds: float, say: Callable[[str], object]) -> dict[str, Any]:
    """Do it. Use from the main thread."""
    began = time.monotonic()
    with slow_hub() as hub, postgres_url() as url, service_of(folder, url, hub, FLEET) as service:
        wishes = stock(hub, jobs)
        fleet = Fleet(service)
        for name in (*DOWNLOADS, *CONVERTS):
            service.wait_until(lambda name=name: any("worker.ready" in one for one in service.lines(name)), 60, name)
        with fleet.balanced() as address:
            loading_since = time.monotonic()
            load = Load(address, wishes, seconds)
            time.sleep(2.0)
            for name in ORDER:
                fleet.restart(name)
                say(f"{time.monotonic() - began:6.1f} s  {name} restarted; {len(load.books.accepted)} jobs accepted")
            restarted_s = time.monotonic() - loading_since
            accepted_then = len(load.books.accepted)
            ended = load.finish(_LAST_S)
        needed = sum(wish.size for wish in wishes)
        return {
            **findings(load.books, ended, url),
            "restarts": fleet.restarts,
            "accepted_while_restarting": accepted_then,
            "refetched_bytes": max(0, hub.requests.bytes_served(origin="cdn") - needed),
            "fetched_bytes": needed,
            "slowest_submission_s": round(max(load.books.submitted_s), 2),
            "restart_s": round(restarted_s, 1),
            "duration_s": round(time.monotonic() - began, 1),
        }


def is_clean(report: dict[str, Any], jobs: int) -> bool:
    """Whether nothing was lost, nothing was done twice, and nobody heard of it."""
    return report["completed"] == report["jobs"] == jobs and not any(report[name] for name in _NONE_OF)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=120.0, help="over how long the jobs are submitted")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
