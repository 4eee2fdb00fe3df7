"""What a database says of itself, for the one who looks after an installation."""

from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from common.errors import ServiceUnavailable
from common.store.database import Database, Now


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What is known of a database that answers."""

    kind: str
    version: str
    clock_s: float
    """Seconds since 1970, by its own clock."""
    revision: str | None
    """Which migration was the last; none where there are no tables yet."""


def look_at(url: str) -> DatabaseFacts:
    """Ask a database about itself. Raises ServiceUnavailable when it does not answer."""
    database = Database(url)
    try:
        with database.read() as connection:
            clock_s = connection.execute(select(Now())).scalar_one()
            version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
        return DatabaseFacts(
            kind=database.url.get_backend_name(), version=version, clock_s=clock_s, revision=_revision(database)
        )
    finally:
        database.dispose()


def _revision(database: Database) -> str | None:
    try:
        with database.read() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (SQLAlchemyError, ServiceUnavailable):
        # There is no such table yet. That the database answers has been seen just before.
        return None
