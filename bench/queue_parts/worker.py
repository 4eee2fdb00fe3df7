"""A download worker whose stages do nothing: `python -m bench.queue_parts.worker noop | child | linger`.

Everything but the work is the product's: tickets, claims, settling, and for `child` and `linger` the fork server too.
"""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from celery.exceptions import SecurityWarning

from bench.noop import DONE
from common.log import configure
from common.outcome import Outcome
from common.records import Claim
from common.settings import read_settings
from common.vocabulary import Pool
from worker.forkserver import Child, ForkServer
from worker.joblog import Notebook
from worker.runner import Runner
from worker.service import make_worker
from worker.workspace import Workspace


class InstantRunner(Runner):
    """Claims and settles; between the two it does nothing."""

    def _supervise(self, claim: Claim, rooms: Workspace, notebook: Notebook) -> Outcome:  # noqa: ARG002 - as it replaces
        return DONE


class EmptyServer(ForkServer):
    """Forks a child for every stage, and the child does nothing."""

    def spawn(
        self,
        target: str,
        request: bytes,
        *,
        log: int | Path,
        memory_bytes: int | None = None,
        nice: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        target = f"bench.noop:{_TARGETS[sys.argv[1]]}"
        return super().spawn(target, request, log=log, memory_bytes=memory_bytes, nice=nice, environment=environment)


_TARGETS = {"child": "run", "linger": "linger"}


def main() -> None:
    settings = read_settings()
    configure(settings.log_level, settings.log_format)
    warnings.simplefilter("ignore", SecurityWarning)
    worker = make_worker(Pool.DOWNLOAD, settings)
    # What make_worker has put together stays as it is; only the one method is another.
    if sys.argv[1] == "noop":
        worker.runner.__class__ = InstantRunner
    else:
        server = worker.runner.server
        server._preload = (*server._preload, "bench.noop")  # noqa: SLF001 - a worker has its child's module at hand
        server.__class__ = EmptyServer
    worker.run()


if __name__ == "__main__":
    os.umask(0o002)
    main()
