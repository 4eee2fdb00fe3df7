"""An ephemeral service as a process: `python -m api.embedded STATE WORKER...`; the environment says the rest."""

import os
import sys
from pathlib import Path

from api.embedded.console import Console
from api.embedded.service import run

if __name__ == "__main__":
    own_state, *workers = sys.argv[1:]
    environment = dict(os.environ)  # noqa: TID251 - this is the entry of the process that hands it on
    sys.exit(run(environment, Console(sys.stdout, colour=False), own_state=Path(own_state), workers=workers))
