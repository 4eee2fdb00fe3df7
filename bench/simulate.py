"""Simulates a service: where its next limit lies, from what was measured of its parts.

    python -m bench.simulate --check bench/results/capacity.json [--within 0.3]
    python -m bench.simulate --jobs-per-s 0.5 --gb 2 --converted 0.3 --pollers 500 --apis 2 --download-workers 2

`--check` foretells what was measured from end to end (two web processes, two and four workers, a burst on the slots of
a pool, POSTs beside pollers) from the parts (processor time, idle time and rate of one), prints the error of each, and
ends with 1 if one is larger than `--within`. Rows that a parameter was fitted to are shown, and count for nothing.
The same measurement twice differs by up to a third where more processes run than there are cores: less would be luck.

Otherwise it runs the service that the options describe, all on one machine like the measured one (`--cores` gives it
others), and prints JSON: jobs a second, how long they wait and last, the share of the time in which each resource was
in use, and which of them fills up first.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
from dataclasses import fields, replace
from typing import Any

from bench.simulator.costs import Machine, find
from bench.simulator.scenarios import verdicts
from bench.simulator.service import Plan, Prices, simulate

RESULTS = Path(__file__).parent / "results" / "capacity.json"


def main() -> int:
    options = _options()
    report = json.loads(Path(options.check or options.measured).read_text())
    machine = measured_machine(report)
    if options.check:
        return _check(report, machine, options.within)
    plan = Plan(**{field.name: getattr(options, field.name) for field in fields(Plan)})
    prices = Prices.of(report["points"], machine, plan)
    outcome = simulate(plan, prices, replace(machine, cores=options.cores or machine.cores))
    print(json.dumps(outcome.report(plan.seconds), indent=1))
    return 0


def measured_machine(report: dict[str, Any]) -> Machine:
    """The machine of a file of results."""
    point = find(report["points"], "machine")
    return Machine(report["machine"]["cores"], point["slowdown"] if point else 1.0)


def _check(report: dict[str, Any], machine: Machine, within: float) -> int:
    worst = 0.0
    print(f"{'':44}{'foretold':>10}{'measured':>10}{'error':>9}")
    for verdict in verdicts(report["points"], machine):
        note = "  fitted" if verdict.fitted else "  TOO FAR" if abs(verdict.error) > within else ""
        figures = f"{verdict.foretold:10.1f}{verdict.measured:10.1f}{100 * verdict.error:+8.1f}%"
        print(f"{verdict.name + ', ' + verdict.unit:44}{figures}{note}")
        worst = worst if verdict.fitted else max(worst, abs(verdict.error))
    print(json.dumps({"worst_error": round(worst, 3), "within": within}))
    return 1 if worst > within or worst == 0.0 else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, nargs="?", const=RESULTS, help="compare with these results")
    parser.add_argument("--within", type=float, default=0.3, help="the largest error that passes")
    parser.add_argument("--measured", type=Path, default=RESULTS, help="the results to take costs from")
    parser.add_argument("--cores", type=int, help="of the simulated machine")
    for field in fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
