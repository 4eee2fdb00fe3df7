"""The chart's README lists every value, as it is."""

from collections.abc import Iterator
from typing import Any

import yaml

from scripts.chart_values import CHART, table, values, with_table

README = (CHART / "README.md").read_text(encoding="utf-8")


def _leaves(whole: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in whole.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and value and path not in told():
            yield from _leaves(value, f"{path}.")
        else:
            yield path


def told() -> set[str]:
    return {path for path, _, _ in values()}


def test_the_table_is_that_of_the_values() -> None:
    assert with_table(README) == README, "run `python -m scripts.chart_values`"
    assert table().count("\n| `") == len(told()) > 200


def test_every_value_has_a_comment() -> None:
    whole = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    lacking = {path for path in _leaves(whole) if path not in told()}
    assert lacking == set()
