"""The ticket tasks, one a pool: all that Celery is asked to run."""

from collections.abc import Mapping

from celery import Celery

from common.broker import TICKETS
from worker.runner import Runner


def register(app: Celery, runner: Runner) -> None:
    """Teach this worker the task of its pool."""

    def work() -> list[Mapping[str, str]]:
        return runner.work()

    app.task(name=TICKETS[runner.pool])(work)
