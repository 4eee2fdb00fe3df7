"""Whether the tables are new enough for this code. Newer ones always are: see docs/adr/0018-rolling-upgrades.md."""

import logging
import time

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from common.errors import ServiceUnavailable
from common.store.database import Database

log = logging.getLogger(__name__)

REVISION = "0006"
"""The migration that this code needs; `make lint` holds it against the newest one."""

_AGAIN_S = 1.0


class SchemaTooOld(ServiceUnavailable):
    """The tables lack what this code needs."""


def check(connection: Connection) -> None:
    """Raises SchemaTooOld. To be asked within a transaction of a Database, which reports what else may be wrong."""
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    # Numbers that only grow: what this code does not know was made by a newer one, and is for both.
    if found is None or (found.isdigit() and int(found) < int(REVISION)):
        raise SchemaTooOld(
            f"The tables are of migration {found or 'none'}, and this release needs {REVISION}: "
            "run `python -m migrations.command` with the same DATABASE_URL first"
        )


def refuse_older(url: str) -> None:
    """Raises SchemaTooOld. A database that does not answer yet is none of our business here."""
    database = Database(url)
    try:
        with database.read() as connection:
            check(connection)
    except SchemaTooOld:
        raise
    except (ServiceUnavailable, DBAPIError) as error:
        log.warning("schema.unknown", extra={"reason": type(error).__name__})
    finally:
        database.dispose()


def wait_for_tables(url: str) -> None:
    """Return once the database has answered, and its tables are there and new enough. Raises SchemaTooOld."""
    database = Database(url)
    try:
        while not _is_there(database):
            time.sleep(_AGAIN_S)
    finally:
        database.dispose()


def _is_there(database: Database) -> bool:
    try:
        with database.read() as connection:
            check(connection)
    except SchemaTooOld:
        raise
    except ServiceUnavailable:
        return False
    return True
