"""How much memory a hub's answers take: asks one hub at each of some servers, and says how much this process grew.

python -m tests.hostile.appetite huggingface /folder http://127.0.0.1:1234 ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fakes.attempt import LocalAttempt
from tests.hostile.doors import DOORS, LIMITS, outcome

MOST_BYTES = 150 * 1024 * 1024


def main() -> None:
    """The first server is for all that is imported only when it is needed."""
    hub, folder, *urls = sys.argv[1:]
    failed = False
    for number, url in enumerate(urls):
        ended, grown = _grown(hub, Path(folder) / str(number), url)
        failed |= number > 0 and grown > MOST_BYTES
        print(f"{number}: {ended}, {grown >> 20} MB")
    sys.exit(1 if failed else 0)


def _grown(hub: str, folder: Path, url: str) -> tuple[str, int]:
    """What it ended with, and by how much this process had grown at its largest."""
    # From here on the largest is counted anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    ended = outcome(DOORS[hub].place(url, folder / "place"), LocalAttempt(folder / "attempt", LIMITS))
    return ended, _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
