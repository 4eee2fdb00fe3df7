"""Shows how far a job is: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

Show = Callable[[dict[str, Any]], None]

_LINE_EVERY_S = 2.0


@contextmanager
def progress_display() -> Iterator[Show]:
    """A function that is to be called with the job as the API shows it, as often as you like."""
    if sys.stdout.isatty():
        with _bar() as bar:
            yield _bar_updater(bar)
    else:
        yield _line_printer()


def _bar() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description:11}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        _Facts(),
    )
    return Progress(*columns, console=Console())


class _Facts(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["facts"]), no_wrap=True)


def _bar_updater(bar: Progress) -> Show:
    task = bar.add_task("", total=100, facts="")

    def show(job: dict[str, Any]) -> None:
        progress = job["progress"]
        bar.update(task, completed=progress["percent"] or 0, description=progress["phase"], facts=_facts(progress))

    return show


def _line_printer() -> Show:
    shown = ("", 0.0)

    def show(job: dict[str, Any]) -> None:
        nonlocal shown
        phase, now = job["progress"]["phase"], time.monotonic()
        if phase != shown[0] or now - shown[1] > _LINE_EVERY_S:
            percent = job["progress"]["percent"]
            share = "  ?" if percent is None else f"{percent:3.0f}"
            print(f"  {share} %  {phase:12} {_facts(job['progress'])}".rstrip(), flush=True)
            shown = (phase, now)

    return show


def _facts(progress: dict[str, Any]) -> str:
    """Bytes, speed and what is left of the transfer, as far as they are known."""
    facts = []
    if progress["bytes_total"]:
        facts.append(f"{progress['bytes_done'] / 1e6:.1f} / {progress['bytes_total'] / 1e6:.1f} MB")
    if progress["speed_bps"]:
        facts.append(f"{progress['speed_bps'] / 1e6:.1f} MB/s")
    if progress["eta_s"]:
        facts.append(f"{progress['eta_s']:.0f} s left")
    return "  ".join(facts)
