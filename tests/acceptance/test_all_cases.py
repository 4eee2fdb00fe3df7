"""Every case of the contract has a test and a line in docs/contract.md, which says the same as the tests do."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.acceptance.cases import GAPS, NUMBERS

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "contract.md").read_text(encoding="utf-8")
ROW = re.compile(r"\| (\d+b?) \| (.+) \| (.*) \| (.+) \|")
FOUND = [found.groups() for found in map(ROW.fullmatch, PAGE.splitlines()) if found]
ROWS = {number: cells for number, *cells in FOUND}
NAMED = re.compile(r"`(test_\w+\.py::test_\w+)`")


def marked_tests() -> dict[str, set[str]]:
    """Number -> the tests that are marked with it, as pytest names them, read without running anything."""
    found = defaultdict(set)
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in numbers_of(node):
                    found[number].add(f"{file.name}::{node.name}")
    return dict(found)


def numbers_of(function: ast.FunctionDef) -> list[str]:
    calls = [one for one in function.decorator_list if isinstance(one, ast.Call)]
    marks = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "case"]
    return [str(ast.literal_eval(number)) for mark in marks for number in mark.args]


def test_every_case_has_a_test_unless_it_is_a_known_gap() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS)
    assert marked_tests().keys() == set(NUMBERS) - GAPS.keys()


def test_the_page_lists_every_case_once_and_in_order() -> None:
    assert tuple(number for number, *_ in FOUND) == NUMBERS


def test_the_page_names_the_very_tests_of_each_case() -> None:
    marked = marked_tests()
    for number, (what, _, tests) in ROWS.items():
        assert what.strip(), number
        assert set(NAMED.findall(tests)) == marked.get(number, set()), number


def test_the_page_says_what_is_not_there_yet_and_nothing_else() -> None:
    unready = {number: tests for number, (_, _, tests) in ROWS.items() if not NAMED.search(tests)}
    assert unready == dict(GAPS)
