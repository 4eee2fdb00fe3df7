"""Bars on a terminal, one below the other, on standard error."""

import sys
from types import TracebackType
from typing import Any, Self

from api.cli.environment import environment
from api.cli.output import clean, is_terminal

TOTAL = "total"
"""The key of the bar that sums up the others. It stays below them."""

_LONGEST_NAME = 30


def bars_wanted(*, quiet: bool) -> bool:
    """Whether somebody watches, and has not said that they want none."""
    around = environment()
    return is_terminal(sys.stderr) and around.get("TERM") != "dumb" and not quiet and not around.get("NO_COLOR")


class TerminalBars:
    """A bar for each key. A context manager, which leaves the last state of the bars on the screen."""

    def __init__(self) -> None:
        # Here rather than above: a command without bars shall not wait for them.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TaskID, TextColumn  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        def cell(field: str, **how: object) -> TextColumn:
            return TextColumn(f"{{task.fields[{field}]}}", markup=False, table_column=Column(no_wrap=True, **how))  # type: ignore[arg-type]  # Column's own keywords

        self._progress = Progress(
            cell("name"),
            cell("doing", min_width=10),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            cell("percent", justify="right"),
            cell("amount", justify="right"),
            cell("pace", justify="right"),
            console=Console(file=sys.stderr, highlight=False),
            refresh_per_second=8,
            expand=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def move(self, key: str, name: str, doing: str, share: float | None, *, amount: str = "", pace: str = "") -> None:
        """Show how far something is: a share of one, or None where nobody knows."""
        if key not in self._bars and TOTAL in self._bars:
            self._progress.remove_task(self._bars.pop(TOTAL))
        fields: dict[str, Any] = {
            "name": _short(name),
            "doing": doing,
            "percent": "" if share is None else f"{100 * share:.0f}%",
            "amount": amount,
            "pace": pace,
        }
        if key not in self._bars:
            self._bars[key] = self._progress.add_task("", total=None, **fields)
        self._progress.update(self._bars[key], total=None if share is None else 1.0, completed=share or 0.0, **fields)

    def remove(self, key: str) -> None:
        """Take a bar away, if there is one."""
        if key in self._bars:
            self._progress.remove_task(self._bars.pop(key))


def _short(name: str) -> str:
    """A name that leaves room for its bar; its end tells more than its beginning."""
    name = clean(name)
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
