"""The table of the chart's values in its README, made from values.yaml: its comments that begin with `-- `."""

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parents[1] / "charts" / "modelferry"
BEGIN, END = "<!-- values: made by `python -m scripts.chart_values` -->", "<!-- end of values -->"
_MARK = "# -- "
_LONGEST = 60


def main() -> int:
    """Write the table. The exit code."""
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def with_table(text: str) -> str:
    """The README with the table as it is today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """One row for each value that has a comment."""
    rows = [f"| `{path}` | {_shown(default)} | {comment} |" for path, default, comment in values()]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows, ""])


def values() -> Iterator[tuple[str, object, str]]:
    """Path, default and comment of each value that has one, in the order of the file."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    whole = yaml.safe_load(text)
    above: list[tuple[int, str]] = []
    comment = ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(_MARK):
            comment = bare.removeprefix(_MARK)
        elif bare and not bare.startswith(("#", "- ")):
            depth, name = len(line) - len(line.lstrip()), bare.partition(":")[0].strip('"')
            above = [(other, key) for other, key in above if other < depth] + [(depth, name)]
            if comment:
                keys = [key for _, key in above]
                yield ".".join(keys), at(whole, keys), comment
            comment = ""


def at(whole: object, keys: list[str]) -> object:
    """What stands at a path. Raises KeyError."""
    for key in keys:
        if not isinstance(whole, dict):
            raise KeyError(key)
        whole = whole[key]
    return whole


def _shown(default: object) -> str:
    if default in ("", None, {}, []):
        return ""
    text = yaml.safe_dump(default, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
    return f"`{text}`" if len(text) <= _LONGEST else "see values.yaml"


if __name__ == "__main__":
    sys.exit(main())
