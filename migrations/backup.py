"""Copy the SQLite database of a running service: `python -m migrations.backup FILE`. Postgres has pg_dump for that."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from common.settings import SettingsError, read_settings
from common.store.database import Database

_USAGE = "usage: python -m migrations.backup FILE"


class CannotBackUp(Exception):
    """There is no copy. The message says why."""


def back_up(url: str, target: Path) -> None:
    """Copy the database as it is at one moment, while others write to it. Raises CannotBackUp; then there is no copy.

    What is at `target` afterwards is whole, and on the disk.
    """
    database = Database(url)
    source = database.url.database or ""
    is_sqlite = database.is_sqlite
    database.dispose()
    if not is_sqlite:
        raise CannotBackUp("This is for SQLite alone: use pg_dump for Postgres (docs/backup.md)")
    if not Path(source).is_file():
        raise CannotBackUp(f"There is no database at {source}")
    if target.exists():
        raise CannotBackUp(f"{target} is there already")
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        _copy(source, unfinished)
        unfinished.rename(target)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise CannotBackUp(f"The copy cannot be made: {error}") from error


def _copy(source: str, target: Path) -> None:
    # Sealed credentials and digests of keys are in it: for its owner alone.
    target.touch(mode=0o600)
    with closing(sqlite3.connect(f"{Path(source).absolute().as_uri()}?mode=ro", uri=True)) as reading:
        with closing(sqlite3.connect(target)) as writing:
            # In one step: it sees one moment, and takes as long as it takes to write it.
            reading.backup(writing)
            (said,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(f"the database is damaged: {said}")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def main(arguments: list[str]) -> int:
    """Make one copy. Returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(_USAGE, file=sys.stderr)  # noqa: T201 - what a command says
        return 2
    try:
        back_up(read_settings().store_url, Path(arguments[0]))
    except (SettingsError, CannotBackUp) as error:
        print(f"modelferry: {error}", file=sys.stderr)  # noqa: T201 - what a command says
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
