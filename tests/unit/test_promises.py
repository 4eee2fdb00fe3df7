"""Every promise of the page has its tests, and every test that the page names exists."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = re.compile(r"`([a-z0-9_/]+\.py)::([A-Za-z0-9_:]+)`")


def names_in(file: str) -> set[str]:
    """The tests of a file as pytest names them, without their parameters."""
    found: set[str] = set()
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return {name for name in found if name.split("::")[-1].startswith("test_")}


def test_there_are_fifteen_promises_each_with_a_bound_and_a_test() -> None:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in ROWS]
    assert [number for number, *_ in cells] == [str(number) for number in range(1, 16)]
    for number, promise, bound, tests in cells:
        assert promise, number
        assert bound, number
        assert NAMED.search(tests), number


def test_every_test_that_is_named_exists() -> None:
    rows = "\n".join(ROWS)
    named = NAMED.findall(rows)
    assert len(named) == rows.count(".py::")
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []
