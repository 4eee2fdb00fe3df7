"""What the README says about settings and error codes is what the code does."""

import re
from pathlib import Path
from typing import Any

from common import errors
from common.settings import VARIABLES, Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def table(marker: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the table that follows a marker."""
    text = README.partition(f"<!-- {marker}: checked by")[2]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows is not None, f"the README has no table of {marker}"
    lines = rows[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def in_words(default: object) -> str:
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def codes(
    branch: type[errors.ModelferryError], *, but: frozenset[type[errors.ModelferryError]] = frozenset()
) -> list[str]:
    """The codes of one branch of the error tree; whatever tests and routes derive from it is not in it."""
    every: list[Any] = [error for error in vars(errors).values() if isinstance(error, type)]
    return [error.code for error in every if issubclass(error, branch) and error not in but]


def test_the_readme_names_every_setting_with_its_default() -> None:
    shown = {variable: cells[0] for variable, cells in table("settings").items()}
    assert shown == {variable: in_words(getattr(Settings(), field)) for variable, field in VARIABLES.items()}


def test_the_readme_names_every_code_of_a_failed_job() -> None:
    assert set(table("codes")) == set(codes(errors.StageError))


def test_the_readme_names_every_code_of_a_refused_request() -> None:
    sentence = re.search(r"Of a refused request.*?\n\n", README, re.DOTALL)
    assert sentence is not None
    expected = {*codes(errors.RequestError), errors.ServiceUnavailable.code}
    assert {word for word in re.findall(r"`(\w+)`", sentence[0]) if word != "detail"} == expected


def test_no_two_errors_share_a_code() -> None:
    # The roots of the branches lend their code to whoever has none.
    every = codes(errors.StageError, but=frozenset({errors.StageError, errors.PermanentError}))
    assert len(every) == len(set(every))
