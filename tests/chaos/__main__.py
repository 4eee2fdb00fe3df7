"""Chaos from the command line: `python -m tests.chaos --jobs 2000 --faults 200 --database sqlite --seed 7`.

The seed comes first, what breaks is told on stderr as it breaks, and the last line is the result as JSON. One seed with
one size makes one plan: the same wishes and the same faults at the same moments. What the processes are doing at those
moments is theirs to decide, so a rare failure may need a few runs to show again.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import get_args

from tests.chaos.plan import Database, make_plan
from tests.chaos.run import Mutant, Options, Report, run

_SHOWN = 40


def main() -> int:
    """Run once. The exit code is 0 only if nothing at all is wrong."""
    given = _parser().parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    options = Options(
        jobs=given.jobs,
        faults=given.faults,
        database=given.database,
        seed=seed,
        mutant=given.mutant,
        patience_s=given.patience,
    )
    plan = make_plan(seed, given.jobs, given.faults, given.database)
    again = f"--jobs {given.jobs} --faults {given.faults} --database {given.database} --seed {seed}"
    print(f"seed {seed}, plan {plan.digest}; the same plan again: python -m tests.chaos {again}", flush=True)
    if given.plan:
        print("\n".join(f"{order.at_s:8.2f} s  {order}" for order in plan.faults))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=given.folder))
    report = None
    try:
        report = run(options, folder, _tell)
        _explain(report)
    finally:
        if report is not None and report.verdict.passed:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            # The hub's files follow from the seed.
            shutil.rmtree(folder / "hub", ignore_errors=True)
            _tell(f"what is left of the run, with service.log: {folder}")
    print(report.line, flush=True)
    return 0 if report.verdict.passed else 1


def _explain(report: Report) -> None:
    for kind, found in vars(report.verdict).items():
        for words in found[:_SHOWN]:
            _tell(f"{kind.upper()}: {words}")
        if len(found) > _SHOWN:
            _tell(f"{kind.upper()}: and {len(found) - _SHOWN} more")
    for words in report.self_ended:
        _tell(f"note: {words}")


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--faults", type=int, default=14)
    parser.add_argument("--database", choices=get_args(Database), default="sqlite")
    parser.add_argument("--seed", type=int, help="any number; a random one if not given")
    parser.add_argument("--mutant", choices=get_args(Mutant), help="take a safeguard away: the run must then fail")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without an end after which a job is lost")
    parser.add_argument("--folder", type=Path, help="where to make the run's own folder")
    parser.add_argument("--plan", action="store_true", help="only show what would break")
    return parser


if __name__ == "__main__":
    sys.exit(main())
