"""Render the charts and say what Helm makes of them: how many objects, and what its lint finds."""

import sys
from collections import Counter
from pathlib import Path

import helm_python
import yaml

CHARTS = Path(__file__).parents[1] / "charts"


def main() -> int:
    """Look at each chart. The exit code."""
    errors = 0
    for chart in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
        found = helm_python.lint(chart, strict=True)
        for one in [*found["errors"], *found["messages"]]:
            print(f"{chart.name}: {one['error'] if isinstance(one, dict) else one}")
        errors += len(found["errors"])
        kinds = Counter(each["kind"] for each in _objects(chart))
        print(f"{chart.name}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return 1 if errors else 0


def _objects(chart: Path) -> list[dict[str, object]]:
    """What its defaults make. Raises helm_python.HelmError."""
    with helm_python.Chart.load(chart) as loaded:
        texts = loaded.render({}, name="release", namespace="default")
    manifests = [text for path, text in texts.items() if not path.endswith(".txt")]
    return [each for text in manifests for each in yaml.safe_load_all(text) if each]


if __name__ == "__main__":
    sys.exit(main())
