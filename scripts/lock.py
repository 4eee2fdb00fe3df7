"""Pins the newest versions that pyproject.toml allows in constraints.txt, which names no index and no build."""

import re
import subprocess
import sys

from scripts.setup import ROOT, UV, choose_torch, uv_environment

COMPILE = [
    *(str(UV), "pip", "compile", "pyproject.toml", "--all-extras", "--upgrade"),
    *("--no-emit-index-url", "--no-header", "--no-annotate", "--quiet"),
]


def main() -> None:
    environment = uv_environment()
    torch = choose_torch(environment)
    if not torch:
        sys.exit("A lock needs the CPU build of torch: the CUDA build would pin its own libraries for everyone.")
    options = [option for option in torch if not option.startswith("torch==")]
    done = subprocess.run(
        [*COMPILE, *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    pins = re.sub(r"^(torch==[^+\s]+)\+cpu$", r"\1", done.stdout, flags=re.MULTILINE)
    (ROOT / "constraints.txt").write_text(pins)


if __name__ == "__main__":
    main()
