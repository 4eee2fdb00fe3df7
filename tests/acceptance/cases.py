"""The numbers of the contract's acceptance cases, and the mark that names them on a test."""

from collections.abc import Mapping

import pytest

NUMBERS: tuple[str, ...] = (
    "1", "2", "3",
    "5", "6", "7", "8", "9", "10", "11", "12", "14", "15",
    "17", "18", "20", "21", "22",
    "23", "24", "26", "27",
    "29", "30", "31", "32", "33", "34", "36", "37", "39",
    "40", "41", "42", "43",
    "45", "46", "47", "48", "49", "49b", "50", "51", "53", "54",
    "55", "56", "57", "58", "59", "62", "64", "66",
    "67", "68", "70", "71", "72", "73", "74",
    "75", "76", "77", "78",
)  # fmt: skip
"""As the contract lists them. The numbers between them are not ours to know."""

GAPS: Mapping[str, str] = {}
"""Cases that do not hold, each with the words by which docs/contract.md says so."""


def case(*numbers: int | str) -> pytest.MarkDecorator:
    """Names the cases that a test is about."""
    return pytest.mark.case(*(str(number) for number in numbers))
