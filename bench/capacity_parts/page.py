"""The measured points as tables, written into docs/capacity.md between its markers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.capacity_parts.ground import Point
from bench.simulator.costs import Machine
from bench.simulator.scenarios import verdicts

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "capacity.md"
_NAMES = {"sqlite": "SQLite", "postgres": "Postgres"}


def rewrite(report: dict[str, Any]) -> None:
    """Put the tables of these results into the page. Raises SystemExit for a marker that nobody knows."""
    PAGE.write_text(filled(PAGE.read_text(), report))


def filled(page: str, report: dict[str, Any]) -> str:
    """The page with its tables, each between `<!-- measured: NAME -->` and `<!-- end -->`."""
    before, *sections = page.split("<!-- measured: ")
    written = before
    for section in sections:
        name, _, rest = section.partition(" -->")
        _, end, after = rest.partition("<!-- end -->")
        if name not in TABLES or not end:
            raise SystemExit(f"docs/capacity.md has no table that could be called {name!r}")
        written += f"<!-- measured: {name} -->\n{TABLES[name](report)}\n<!-- end -->{after}"
    return written


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    found = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    return found if len(lines) > 2 else f"{found}\n| not measured |" + " |" * (len(head) - 1)


def _points(report: dict[str, Any], *parts: str) -> list[Point]:
    return [point for point in report["points"] if point["part"] in parts]


def _number(value: float) -> str:
    """As many digits as mean something, with spaces between thousands."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _ground(report: dict[str, Any]) -> str:
    facts = report["machine"]
    slow = next((point["slowdown"] for point in _points(report, "machine")), None)
    more = "" if slow is None else f" While all cores are busy, each does the same work in {slow:.2f} times the time."
    return (
        f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gb']} GB, {facts['system']}, Python "
        f"{facts['python']}, SQLite {facts['sqlite']}, Modelferry {facts['modelferry']}.{more} The clients, the "
        "database and Redis ran on the same machine, so all figures are of the whole of it."
    )


def _requests(report: dict[str, Any]) -> str:
    kinds = {"submit": "submit a job", "poll": "GET /jobs/{id}", "gates": "GET /gates/{gate}, open"}
    head = (
        "request",
        "database",
        "API processes",
        "clients",
        "a second",
        "p50 ms",
        "p99 ms",
        "API CPU ms",
        "database CPU ms",
    )
    rows = []
    for point in _points(report, *kinds):
        pace = f", each every {point['every_s']} s" if point.get("every_s") else ""
        times = (point[name] for name in ("per_s", "p50_ms", "p99_ms", "api_cpu_ms", "database_cpu_ms"))
        known = (kinds[point["part"]], _NAMES[point["database"]], point["apis"], f"{point['clients']}{pace}")
        rows.append((*known, *map(_number, times)))
    for point in _points(report, "mixed"):
        beside = f"submit beside {_number(point['polls_per_s'])} polls a second"
        times = (point[name] for name in ("per_s", "p50_ms", "p99_ms"))
        rows.append((beside, _NAMES[point["database"]], 1, point["clients"], *map(_number, times), "", ""))
    return _table(head, rows)


def _stages(report: dict[str, Any]) -> str:
    head = (
        "stages",
        "database",
        "workers",
        "slots each",
        "a second",
        "worker CPU ms",
        "database CPU ms",
        "Redis commands",
    )
    kinds = {"claims": "do nothing", "backlog": "do nothing", "child": "start a child", "pool": "last 0.4 s"}
    rows = []
    for point in _points(report, *kinds):
        behind = f", {_number(point['waiting'])} waiting" if "waiting" in point else ""
        times = (point[name] for name in ("per_s", "worker_cpu_ms", "database_cpu_ms", "redis_commands"))
        known = (kinds[point["part"]] + behind, _NAMES[point["database"]], point["workers"], point["slots"])
        rows.append((*known, *map(_number, times)))
    return _table(head, rows)


def _bytes(report: dict[str, Any]) -> str:
    jobs = [
        (f"an ended download in {_NAMES[point['database']]}, with indexes", f"{_number(point['total_bytes'])} bytes")
        for point in _points(report, "growth")
    ]
    tickets = [
        ("a waiting ticket in Redis", f"{_number(point['bytes'])} bytes, {_number(point['commands'])} commands")
        for point in _points(report, "tickets")
    ]
    listeners = [
        (
            "a listener of events in an API process",
            f"{_number(point['kb_each'])} kB, {_number(point['idle_cpu_ms_per_s_each'])} ms CPU a second",
        )
        for point in _points(report, "listeners")
    ]
    return _table(("what", "takes"), [*jobs, *tickets, *listeners])


def _processes(report: dict[str, Any]) -> str:
    head = ("process, idle", "processes", "resident MB", "proportional MB", "CPU ms a second", "connections to Redis")
    rows = [
        (point["process"], point["processes"], _number(point["rss_mb"]), _number(point["pss_mb"]),
         _number(point["idle_cpu_ms_per_s"]), point["redis_connections"])
        for point in _points(report, "memory")
    ]  # fmt: skip
    kept = [(point["process"], point["postgres_connections"]) for point in _points(report, "connections")]
    return _table(head, rows) + "\n\n" + _table(("process", "connections to Postgres"), kept)


def _content(report: dict[str, Any]) -> str:
    rows: list[tuple[object, ...]] = []
    for point in _points(report, "listing"):
        took = f"{_number(1000 * point['seconds'])} ms, {_number(point['file_reads'])} reads"
        rows.append((f"GET /models over {_number(point['models'])} models, {point['which']}", took))
    for point in _points(report, "moving"):
        took = f"{_number(point['cpu_s_per_gb'])} s CPU a GB, at {_number(point['gb_per_s'])} GB a second on loopback"
        rows.append(("a transfer with its hashes", took))
    for point in _points(report, "converting"):
        took = f"{_number(point['seconds'] / point['gb'])} s and {_number(point['cpu_s_per_gb'])} s CPU a GB"
        rows.append((f"a conversion of {_number(point['gb'])} GB to {point['precision']}", took))
    return _table(("what", "takes"), rows)


def _simulated(report: dict[str, Any]) -> str:
    slow = next((point["slowdown"] for point in _points(report, "machine")), 1.0)
    rows = [
        (one.name, f"{_number(one.foretold)} {one.unit}", f"{_number(one.measured)} {one.unit}",
         "fitted" if one.fitted else f"{100 * one.error:+.0f} %")
        for one in verdicts(report["points"], Machine(report["machine"]["cores"], slow))
    ]  # fmt: skip
    return _table(("scenario", "foretold", "measured", "error"), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": _ground,
    "requests": _requests,
    "stages": _stages,
    "bytes": _bytes,
    "processes": _processes,
    "content": _content,
    "simulated": _simulated,
}
