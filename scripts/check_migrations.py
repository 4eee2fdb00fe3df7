"""Fails when the migrations do not make the very tables that the code declares."""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.util import CommandError

from migrations.command import configuration, upgrade


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'empty.db'}"
        upgrade(url)
        try:
            command.check(configuration(url))
        except CommandError as error:
            print(f"The migrations differ from common/store/tables.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
