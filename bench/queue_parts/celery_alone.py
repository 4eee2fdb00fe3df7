"""Bare Celery on the same Redis: `python -m bench.queue_parts.celery_alone send COUNT | drain COUNT THREADS EVENTS`.

The settings are the product's own, so that its rates are what the product could reach if it did nothing else.
"""

import itertools
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning

from common.broker import make_celery
from common.settings import read_settings

QUEUE = "bench"
TASK = "bench.nothing"
WARM_UP = 100
"""So many tasks are run before the clock is started."""


def main() -> None:
    warnings.simplefilter("ignore", SecurityWarning)
    match sys.argv[1:]:
        case ["send", count]:
            _send(int(count))
        case ["drain", count, threads, events]:
            _drain(int(count), int(threads), events=events == "events")
        case _:
            sys.exit(__doc__)


def _send(count: int) -> None:
    """Send tasks one after the other; the last line says how many a second."""
    app = make_celery(read_settings().redis_url, consumer=False)
    task = _task(app, _nothing)
    for _ in range(WARM_UP):
        task.apply_async(queue=QUEUE)
    began = time.monotonic()
    for _ in range(count):
        task.apply_async(queue=QUEUE)
    print(json.dumps({"per_s": count / (time.monotonic() - began)}))


def _drain(count: int, threads: int, *, events: bool) -> None:
    """Work the queue off; a line says how many a second, once so many tasks have been run."""
    app = make_celery(read_settings().redis_url, consumer=True)
    app.conf.update(worker_send_task_events=events, task_send_sent_event=events)
    first, last = WARM_UP, WARM_UP + count
    numbers, times = itertools.count(1), dict[int, float]()

    def nothing() -> None:
        number = next(numbers)
        if number in {first, last}:
            times[number] = time.monotonic()
        if number == last:
            line = json.dumps({"per_s": count / (times[last] - times[first])})
            threading.Timer(0.1, print, [line], {"flush": True}).start()

    _task(app, nothing)
    app.worker_main([
        "-q", "worker", "-P", "threads", "-c", str(threads), "-Q", QUEUE,
        "-n", "bench@%h", "--without-gossip", "--without-mingle", "-l", "info",
    ])  # fmt: skip


def _nothing() -> None:
    pass


def _task(app: Celery, function: Callable[[], None]) -> Any:
    return app.task(name=TASK)(function)


if __name__ == "__main__":
    main()
