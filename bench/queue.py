"""Measures the job engine beside bare Celery on the same Redis, in one run, on SQLite and on Postgres.

    python -m bench.queue [--quick] [--only claims,child,posts,polls,pages] [--on sqlite,postgres]

All processes are real: a Redis of its own with the settings of the embedded one, the API and the workers as they are
shipped, except that a stage does nothing. What is measured:

    claims  stages a second, from the first claim to the last settling, by 1, 2 and 4 workers of 4 slots each,
            with 1k, 10k and 100k ended jobs in the table, and with 10k waiting ones
    child   the same with the fork server: a process for every stage
    posts   accepted POSTs a second, and how long one takes, from 16 clients and from one
    polls   how long GET /jobs/{id} takes 100 clients that ask twice a second while a worker is busy, with 100k jobs
    pages   how long the first and the last page of GET /jobs take, with 1k and 100k jobs

The ceiling is Celery with our settings, its events included, and a task that does nothing: one process that sends, one
worker with 8 threads that drains. It is measured before and after each thing of ours, and a ratio is to their mean.
The last line is JSON; of two databases it has the worse figure where its name says neither.
"""

import sys
from pathlib import Path

# As a script this file's own directory comes first, and the standard library's `queue` would be this one.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import tempfile
from contextlib import ExitStack

from bench.queue_parts.claims import children, claims
from bench.queue_parts.ground import DATABASES, QUICK, Figures, Ground, Size
from bench.queue_parts.requests import pages, polls, posts

PARTS = {"claims": claims, "child": children, "posts": posts, "polls": polls, "pages": pages}
RESULTS = Path(__file__).parent / "results" / "queue.json"


def main() -> None:
    options = _options()
    size = QUICK if options.quick else Size()
    parts = options.only.split(",") if options.only else list(PARTS)
    databases = options.on.split(",") if options.on else list(DATABASES)
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir=options.folder) as name:
        report = _measure(Path(name), size, parts, databases)
    if not (options.quick or options.only or options.on):
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(_headline(report)))


def _measure(folder: Path, size: Size, parts: list[str], databases: list[str]) -> dict[str, Figures]:
    report: dict[str, Figures] = {}
    with ExitStack() as opened:
        ground = Ground(folder, size, databases, opened)
        ground.ceiling.measure()
        for part in parts:
            report[part] = PARTS[part](ground)
            _show(part, report[part])
        report["celery"] = ground.ceiling.figures()
        _show("celery alone", report["celery"])
    return report


def _headline(report: dict[str, Figures]) -> dict[str, float | None]:
    """What is promised; None where it was not measured."""

    def of_each(part: str, key: str) -> list[float]:
        names = [f"{database}_{key}" for database in DATABASES]
        return [report[part][name] for name in names if part in report and name in report[part]]

    claimed = report.get("claims", {})
    figures = {
        "claim_vs_celery_sqlite": claimed.get("sqlite_vs_celery"),
        "claim_vs_celery_postgres": claimed.get("postgres_vs_celery"),
        "child_vs_celery": min(of_each("child", "vs_celery"), default=None),
        "post_vs_apply_async": min(of_each("posts", "vs_apply_async"), default=None),
        "rate_100k_vs_1k": min(of_each("claims", "most_vs_least_rows"), default=None),
        "poll_p99_ms": max(of_each("polls", "p99_ms"), default=None),
        "post_p99_ms": max(of_each("posts", "p99_ms"), default=None),
    }
    return {name: None if value is None else round(value, 3) for name, value in figures.items()}


def _show(title: str, figures: Figures) -> None:
    print(f"\n{title}")
    for name, value in figures.items():
        print(f"  {name:42}{value:12.2f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny numbers: shows that it runs, measures nothing")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}; the rest is null in the last line")
    parser.add_argument("--on", help=f"one of {','.join(DATABASES)}")
    parser.add_argument("--folder", type=Path, help="where databases and logs go; the system's choice by default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
