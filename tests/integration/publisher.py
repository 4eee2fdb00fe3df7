"""A process that publishes version after version to one place, for tests that watch or kill it."""

import itertools
import sys
from pathlib import Path

from common.artefacts.publish import publish
from tests.stored_models import a_plan, a_store, a_stored_artefact, content_of


def main(models_dir: str, first: int, count: int, folder: str) -> None:
    store = a_store(Path(models_dir))
    plans = [a_plan(a_stored_artefact(store, content_of(version)), folder) for version in (first, first + 1)]
    print("ready", flush=True)
    for number in itertools.count() if count == 0 else range(count):
        publish(store, plans[number % 2], fence=lambda: None)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
