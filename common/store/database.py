"""Connections to SQLite or Postgres, and the few things the two say differently."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, Row, Select, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from common.errors import ServiceUnavailable

log = logging.getLogger(__name__)

AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]

T = TypeVar("T")

_BUSY_MS = 5000
_TRIES = 4
_CONTENTION = frozenset({"DeadlockDetected", "SerializationFailure"})


class Contended(ServiceUnavailable):
    """Two changes stood in each other's way, and this one gave in. Nothing was stored."""


_JSON: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}


class Now(FunctionElement[float]):
    """The database's own clock, in seconds since 1970: leases must not depend on whose clock is right."""

    type = Float()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **_: Any) -> str:  # noqa: ARG001 - SQLAlchemy's signature
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_postgres(element: Now, compiler: SQLCompiler, **_: Any) -> str:  # noqa: ARG001 - SQLAlchemy's signature
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


_SLACK_S = 5.0


def ahead(moment: ColumnElement[float] | Any, within_s: ColumnElement[float] | float | Any) -> ColumnElement[bool]:
    """Whether a moment that was set `within_s` ahead is still to come.

    One that is further ahead than it can have been set was written before the clock was put back: it has come.
    """
    return (moment > Now()) & (moment <= Now() + within_s + _SLACK_S)


def insert_into(row: type[DeclarativeBase], dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what is to happen ON CONFLICT; the two databases have one each."""
    return sqlite.insert(row) if dialect == "sqlite" else postgresql.insert(row)


class Lock(IntEnum):
    """What one transaction at a time may do on Postgres, whose advisory locks are named by numbers of our choice."""

    MIGRATE = 7_402_116_311
    CLAIM = 7_402_116_312
    """One for all pools: limits span them."""
    SUBMIT = 7_402_116_313
    WEBHOOKS = 7_402_116_315
    KEYS = 7_402_116_316


def alone(connection: Connection, lock: Lock, *where: ColumnElement[bool]) -> None:
    """Be the only one, until the transaction ends. On SQLite whoever writes is that anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(func.pg_advisory_xact_lock(lock.value)).where(*where))


class Database:
    """One database, with an engine for writing and one for reading.

    On SQLite every write transaction begins with BEGIN IMMEDIATE: one that reads first and writes later would
    fail with `database is locked` however long it is willing to wait.
    """

    def __init__(self, url: str) -> None:
        self.url = _driver_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writing = self._engine(read_only=False)
        self._noting = self._writing.execution_options(durable=False)
        self._reading = self._engine(read_only=True) if self.is_sqlite else self._writing

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that may change rows. Raises ServiceUnavailable; then nothing was stored."""
        with _reported(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def note(self) -> Iterator[Connection]:
        """A `write` of what would be wrong after a power failure anyway: who runs what, and how far it is.

        On SQLite, where a power failure stops every worker too, it does not wait for the disk: half the price.
        """
        with _reported(), self._noting.begin() as connection:
            yield connection

    def write_again(self, change: Callable[[Connection], T]) -> T:
        """Carry out a change that takes several locks, again if another one took the same in another order."""
        for _ in range(_TRIES - 1):
            try:
                with self.write() as connection:
                    return change(connection)
            except Contended:
                continue
        with self.write() as connection:
            return change(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads. Raises ServiceUnavailable."""
        with _reported(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def rebuild(self) -> Iterator[Connection]:
        """A `write` in which tables may be made anew. SQLite looks at the references between them only at its end."""
        with _reported(), self._writing.connect() as connection:
            if not self.is_sqlite:
                with connection.begin():
                    yield connection
                return
            driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            # Within a transaction this would have no effect.
            driver.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                    if broken:
                        msg = f"{len(broken)} rows refer to rows that do not exist, such as {tuple(broken[0])}"
                        raise ValueError(msg)
            finally:
                driver.execute("PRAGMA foreign_keys=ON")

    def dispose(self) -> None:
        """Close every connection."""
        self._writing.dispose()
        self._reading.dispose()

    def _engine(self, *, read_only: bool) -> Engine:
        if not self.is_sqlite:
            return create_engine(
                self.url,
                **_JSON,
                pool_size=10,
                pool_pre_ping=True,
                pool_recycle=1800,
                pool_timeout=5,
                connect_args={
                    "connect_timeout": 3,
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "options": "-c statement_timeout=5000 -c lock_timeout=4000",
                },
            )
        if self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # One writer per process: several would starve each other in SQLite's unfair wait for its lock.
        size = 4 if read_only else 1
        engine = create_engine(
            self.url, poolclass=QueuePool, pool_size=size, max_overflow=0, pool_timeout=10, **_JSON,
            connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
        )  # fmt: skip
        event.listen(engine, "connect", _prepare_reading if read_only else _prepare_writing)
        event.listen(engine, "begin", _begin_deferred if read_only else _begin_immediate)
        return engine


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        # A statement that is wrong is our fault and must stay visible; a database that is away is not.
        if isinstance(error, DBAPIError) and not _is_outage(error):
            raise
        log.warning("database.unavailable", extra={"reason": type(error).__name__})
        contended = isinstance(error, DBAPIError) and type(error.orig).__name__ in _CONTENTION
        msg = "The job database cannot be reached; nothing was stored. Try again shortly."
        raise (Contended if contended else ServiceUnavailable)(msg) from error


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or type(error.orig).__name__ in {
        "OperationalError",
        "InterfaceError",
        "AdminShutdown",
        "CannotConnectNow",
        "QueryCanceled",
        "LockNotAvailable",
        "CrashShutdown",
        "ConnectionTimeout",
        "IdleInTransactionSessionTimeout",
        *_CONTENTION,
        # Somebody was started before the migrations.
        "UndefinedTable",
    }


def _driver_url(url: str) -> URL:
    parsed = make_url(url)
    if parsed.drivername in {"postgres", "postgresql"}:
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _prepare_writing(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON",
    ):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")


def _prepare_reading(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_BUSY_MS}", "query_only=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    durable = connection.get_execution_options().get("durable", True)
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    # Through SQLAlchemy: that the database is locked must be reported as any other outage is.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
