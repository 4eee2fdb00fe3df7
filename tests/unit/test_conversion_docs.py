"""The tables of docs/conversion.md claim what tests/coverage.py lists, and so what is converted and run; nothing else."""

from pathlib import Path

from common.catalog.openvino import OPENVINO
from common.vocabulary import Precision
from tests.coverage import FAMILIES, families_as_table, rules_as_table

PAGE = (Path(__file__).parents[2] / "docs" / "conversion.md").read_text(encoding="utf-8")


def test_the_page_shows_what_was_run_and_nothing_else() -> None:
    shown = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    claimed = f"{families_as_table()}\n{rules_as_table()}".replace("\n\n", "\n").strip()
    assert shown.startswith(claimed), claimed


def test_every_type_and_number_format_that_is_offered_is_on_the_page() -> None:
    assert {family.model_type for family in FAMILIES} == OPENVINO.model_types
    tried = {one for family in FAMILIES for one in (*family.precisions, *family.modes)}
    assert tried == set(Precision)
