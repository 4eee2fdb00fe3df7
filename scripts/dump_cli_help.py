"""Writes the help of every command into docs/cli.md: `python -m scripts.dump_cli_help`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from api.cli.program import make_app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
BEGIN = "<!-- The help of every command: written by `python -m scripts.dump_cli_help`. -->"
_WIDTH = 100


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_help(page), encoding="utf-8")
    return 0


def with_help(page: str) -> str:
    """The page with the help as it is now."""
    head, found, _ = page.partition(BEGIN)
    if not found:
        sys.exit(f"{PAGE.name} has no line {BEGIN}")
    return f"{head}{BEGIN}\n\n" + "\n".join(_section(path, text) for path, text in help_of_all())


def help_of_all() -> Iterator[tuple[str, str]]:
    """Each command, as it is typed, and its help."""
    root = typer.main.get_command(make_app())
    yield from _help(click.Context(root, info_name="modelferry", terminal_width=_WIDTH))


def _help(context: click.Context) -> Iterator[tuple[str, str]]:
    command = context.command
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _help(click.Context(below, info_name=name, parent=context, terminal_width=_WIDTH))


def _section(path: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"### `{path}`\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
