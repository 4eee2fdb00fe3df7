"""docs/capacity.md takes its figures from a file of results."""

import pytest

from bench.capacity_parts.page import PAGE, TABLES, filled

MACHINE = {
    "cores": 2, "processor": "A processor", "memory_gb": 25.0, "system": "Linux 6", "python": "3.11", "sqlite": "3",
    "modelferry": "1",
}  # fmt: skip
POINTS = [
    {"part": "machine", "slowdown": 1.5},
    {"part": "growth", "database": "sqlite", "total_bytes": 3588.0},
    {"part": "converting", "precision": "int8", "gb": 2.0, "seconds": 30.0, "cpu_s_per_gb": 28.0},
]
REPORT = {"machine": MACHINE, "points": POINTS}


def test_every_table_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(text.count(f"<!-- measured: {name} -->") == 1 for name in TABLES)
    assert text.count("<!-- end -->") == len(TABLES)


def test_figures_are_written_between_the_markers_and_again() -> None:
    once = filled(PAGE.read_text(encoding="utf-8"), REPORT)
    assert "| an ended download in SQLite, with indexes | 3 588 bytes |" in once
    assert "| a conversion of 2 GB to int8 | 15 s and 28 s CPU a GB |" in once
    assert "1.50 times the time" in once
    assert "| not measured |" in once
    assert filled(once, REPORT) == once


def test_a_marker_that_nobody_knows() -> None:
    with pytest.raises(SystemExit, match="'prices'"):
        filled("<!-- measured: prices -->\n<!-- end -->", REPORT)
    with pytest.raises(SystemExit, match="'bytes'"):
        filled("<!-- measured: bytes -->\n", REPORT)
