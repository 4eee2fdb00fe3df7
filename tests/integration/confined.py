"""A supervising process in a control group of its own, whose child takes more memory than the group has."""

import json
import logging
import os
import sys
from pathlib import Path

from common.records import Claim
from common.vocabulary import Pool, StageKind
from worker.autopsy import cause_of_death
from worker.forkserver import ForkServer
from worker.machine import Machine


def main(group: Path, log: Path) -> None:
    """Print how the child's end is explained."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
    machine = Machine()
    before, free = machine.oom_kills(), machine.free_bytes()
    with ForkServer(("tests.integration.memory_jobs",), environment, logging.getLogger("confined")) as server:
        with server.spawn("tests.integration.memory_jobs:grow", b"", log=log) as child:
            ended = child.wait(40)
        outcome = cause_of_death(
            Claim(stage_id="s", kind=StageKind.CONVERT, pool=Pool.CONVERT, attempt=1, owner="o", work={}),
            ended,
            log,
            oom_killed=machine.oom_kills() > before,
            memory_limit=None,
            peak_bytes=0,
        )
    told = {"outcome": type(outcome).__name__, "code": getattr(outcome, "code", ""), "free_mb": free // (1024 * 1024)}
    print(json.dumps({**told, "detail": getattr(outcome, "detail", "")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
