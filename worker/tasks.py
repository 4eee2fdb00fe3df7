"""The ticket tasks, one a pool: all that Celery is asked to run."""

from collections.abc import Mapping

from celery import Celery

from common.broker import TICKETS
from worker.runner import Runner


def register(app: Celery, runner: Runner) -> None:
    """Teach this worker the task of its pool. Its result is for people who watch the queue."""

    def work() -> str:
        return in_words(runner.work())

    app.task(name=TICKETS[runner.pool])(work)


def in_words(lines: list[Mapping[str, str]]) -> str:
    """What was done with a ticket, as Flower shows it."""
    return "; ".join(_stage_in_words(line) for line in lines) or "nothing was left to do"


def _stage_in_words(line: Mapping[str, str]) -> str:
    why = f" ({line['code']})" if "code" in line else ""
    what = f"{line['kind']} {line['model']}".strip()
    return f"{what}: {line['outcome']}{why}, for job {line['jobs']}"
