"""What goes where: data to standard output as a table, JSON or bare ids, everything else to standard error."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

import msgspec
from msgspec import UNSET

from api.cli.environment import environment
from api.cli.exits import Complaint


class Form(StrEnum):
    """The form of the data."""

    TABLE = "table"
    JSON = "json"


_LONG = frozenset({"PATH", "ABOUT", "URL", "ERROR", "SEARCH FILTERS", "MODEL"})
"""Columns whose cells may go on in the next line of a terminal. Ids stay in one piece, to be copied."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The same data in the two forms that are not JSON."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    ids: Sequence[str] = ()
    """What is left of it with --quiet."""
    empty: str = ""
    """What is said, on standard error, where there are no rows."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Writes in the form that was asked for."""

    form: Form = Form.TABLE
    quiet: bool = False

    def show(self, view: object, table: Table) -> None:
        """Show what the service has answered. `view` is its JSON."""
        if self.quiet:
            for name in table.ids:
                print_line(name)
        elif self.form is Form.JSON:
            self.json(view)
        elif table.rows:
            _print_table(table)
        elif table.empty:
            note(table.empty)

    def json(self, view: object) -> None:
        """The service's own JSON, indented."""
        print_line(msgspec.json.format(msgspec.json.encode(view), indent=2).decode())

    def json_line(self, view: object) -> None:
        """The same on one line: one of many, as they come."""
        print_line(msgspec.json.encode(view).decode())

    def complain(self, complaint: Complaint) -> None:
        """Say what went wrong, on standard error."""
        if self.form is Form.JSON:
            _print(sys.stderr, msgspec.json.encode(complaint).decode())
            return
        if complaint.detail:
            note(f"modelferry: {complaint.detail}")
        if complaint.hint:
            note(f"  {complaint.hint}")


def print_line(text: str) -> None:
    """A line of data."""
    _print(sys.stdout, text)


def note(text: str) -> None:
    """A line for the person at the terminal."""
    _print(sys.stderr, text)


def facts(pairs: Iterable[tuple[str, object]], *, ids: Sequence[str] = ()) -> Table:
    """One thing with its properties, one a line. What nobody knows is left out."""
    return Table(columns=(), rows=[(name, value) for name, value in pairs if known(value) is not None], ids=ids)


def known(value: object) -> object | None:
    """The value, or None where there is none."""
    return None if value is UNSET or value in {None, ""} else value


def shown(value: object) -> str:
    """A value in a cell, without what would move the cursor: names come from hubs."""
    if value is UNSET or value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def clean(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches it."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def _print_table(table: Table) -> None:
    cells = [[shown(value) for value in row] for row in table.rows]
    if is_terminal(sys.stdout):
        _print_for_eyes(table.columns, cells)
    else:
        _print_for_programs(table.columns, cells)


def _print_for_eyes(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """As wide as the terminal: what is too long goes on in the next line of its cell."""
    # Here rather than above: most commands print no table on a terminal, and shall start at once.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table as Grid  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    width = max(len(row) for row in cells)
    grid = Grid(
        box=None,
        pad_edge=False,
        show_header=bool(columns),
        header_style="" if environment().get("NO_COLOR") else "bold",
    )
    for place in range(width):
        heading = columns[place].upper() if columns else ""
        grid.add_column(heading, overflow="fold", no_wrap=heading not in _LONG and (bool(columns) or place == 0))
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, highlight=False).print(grid)


def _print_for_programs(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them: nothing is cut, and one row is one line."""
    lines = [[column.upper() for column in columns], *cells] if columns else cells
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        print_line("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _print(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()
