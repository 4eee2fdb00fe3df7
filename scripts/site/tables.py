"""Tables and words of Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, each cell on one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def code(text: object) -> str:
    """A word as code."""
    return f"`{text}`"


def plain(text: str) -> str:
    """Text from elsewhere, in which only what stands in backticks has a meaning to Markdown."""
    parts = text.split("`")
    outside = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
    inside = parts[1::2]
    mixed = [part for pair in zip(outside, [*inside, ""], strict=False) for part in pair]
    return "`".join(mixed[: len(parts)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")
