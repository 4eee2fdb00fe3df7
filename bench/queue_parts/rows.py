"""Many jobs in the table at once: one real job of each kind, made by the stores, copied as often as wanted."""

import itertools
import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.string import TextLoader
from sqlalchemy import make_url

from bench.noop import DONE
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.stages import RetryPolicy, StageStore
from common.vocabulary import Pool
from tests.builders import a_download

Row = dict[str, Any]
Picture = Mapping[str, Sequence[Row]]
"""All rows of a job, by table."""

_TABLES = {"stages": "id", "jobs": "id", "job_stages": "stage_id", "job_events": "job_id"}
_REFERENCES = ("id", "job_id", "stage_id")
_SAMPLE = "bench/sample"
_MODELS = 1000
_BUSY_S = 1.0
_JOB_IDS = {
    True: "SELECT id FROM jobs WHERE ended_at IS NOT NULL",
    False: "SELECT id FROM jobs WHERE ended_at IS NULL",
}
_UNFINISHED = "SELECT count(*) FROM stages WHERE state IN ('queued', 'running') AND cancel_at IS NULL"
"""In the words of a partial index, so that it costs those who are measured nothing to ask."""


class Rows:
    """The job table of one database, filled and emptied in bulk."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._sql = _Sqlite(url) if url.startswith("sqlite") else _Postgres(url)
        self._numbers = itertools.count(1)
        self.untouched, self.fetched, self.ended = self._pictures()
        self._drawn_at = max(row["ended_at"] for row in self.ended["stages"])

    def add(self, picture: Picture, count: int) -> list[str]:
        """Copy a job. The ids of the copies, which are new, as everything is that must be unique."""
        copies = [_Copy(picture, number) for number in itertools.islice(self._numbers, count)]
        for table in _TABLES:
            if picture.get(table):
                columns = [name for name in picture[table][0] if name != "seq"]
                self._sql.insert(table, columns, (row for copy in copies for row in copy.rows(table, columns)))
        self._sql.settle_down()
        return [copy.job_id for copy in copies]

    def remove(self, job_ids: Sequence[str]) -> None:
        """Forget jobs, so that the table is as large as before."""
        stage_ids = self._stages_of(job_ids)
        self._sql.remove("job_events", "job_id", job_ids)
        self._sql.remove("job_events", "stage_id", stage_ids)
        self._sql.remove("job_stages", "job_id", job_ids)
        self._sql.remove("jobs", "id", job_ids)
        self._sql.remove("stages", "id", stage_ids)
        self._sql.settle_down()

    def writable(self) -> bool:
        """Whether rows can be added now: a process that was stopped may hold SQLite's lock."""
        return self._sql.writable()

    def job_ids(self, *, ended: bool) -> list[str]:
        """The jobs that have ended, or those that have not."""
        return self._sql.job_ids(ended=ended)

    def unfinished(self) -> int:
        """How many stages wait or run."""
        return self._sql.unfinished()

    def rate(self, job_ids: Sequence[str]) -> float:
        """Stages of these jobs a second, from the first claim to the last settling, by the database's clock."""
        settled = [
            row
            for row in self._sql.rows("stages", "id", self._stages_of(job_ids))
            if row["ended_at"] is not None and row["started_at"] > self._drawn_at
        ]
        began = min(row["started_at"] for row in settled)
        ended = max(row["ended_at"] for row in settled)
        return float(len(settled) / (ended - began))

    def close(self) -> None:
        self._sql.close()

    def _stages_of(self, job_ids: Sequence[str]) -> list[str]:
        return [row["stage_id"] for row in self._sql.rows("job_stages", "job_id", job_ids) if row["stage_id"]]

    def _pictures(self) -> tuple[Picture, Picture, Picture]:
        """One job, run by the stores: as it waits untouched, waits to be published, and is completed."""
        database = Database(self.url)
        store = StageStore(database, lease_s=60, retry=RetryPolicy())
        JobStore(database).add([a_download(_SAMPLE)])
        pictures = []
        for _ in range(2):
            pictures.append(self._picture())
            claim = store.claim(Pool.DOWNLOAD, "bench")
            assert claim is not None
            store.settle(claim, DONE)
        pictures.append(self._picture())
        database.dispose()
        untouched, fetched, ended = pictures
        return untouched, fetched, ended

    def _picture(self) -> Picture:
        [job] = self._sql.rows("jobs", "model_name", [_SAMPLE])
        ids = [job["id"], *self._stages_of([job["id"]])]
        return {
            table: [row for row in self._sql.all_rows(table) if any(row.get(name) in ids for name in _REFERENCES)]
            for table in _TABLES
        }


class _Copy:
    """One copy of a job."""

    def __init__(self, picture: Picture, number: int) -> None:
        self._picture = picture
        self._number = number
        old = [row["id"] for table in ("jobs", "stages") for row in picture[table]]
        self._new = {identity: str(uuid.uuid4()) for identity in old}
        self.job_id = self._new[picture["jobs"][0]["id"]]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
        for row in self._picture[table]:
            changed = {name: self._new[row[name]] for name in _REFERENCES if row.get(name) in self._new}
            if "work_key" in row:
                changed["work_key"] = f"{row['kind']}-{uuid.uuid4().hex}"
            if "rank" in row:
                changed["rank"] = row["rank"] + self._number
            if "model_name" in row:
                changed["model_name"] = f"bench/model-{self._number % _MODELS}"
            yield [changed.get(name, row[name]) for name in columns]


class _Sqlite:
    """The statements of bulk, as SQLite has them."""

    def __init__(self, url: str) -> None:
        path = make_url(url).database
        assert path is not None
        self._connection = sqlite3.connect(Path(path), timeout=_BUSY_S, isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def writable(self) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        self._connection.execute("ROLLBACK")
        return True

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        into = f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"
        self._connection.executemany(into, rows)
        self._connection.execute("COMMIT")

    def rows(self, table: str, column: str, values: Sequence[str]) -> list[Row]:
        query = f"SELECT * FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        return [dict(row) for row in self._connection.execute(query, [json.dumps(values)])]

    def all_rows(self, table: str) -> list[Row]:
        return [dict(row) for row in self._connection.execute(f"SELECT * FROM {table}")]

    def remove(self, table: str, column: str, values: Sequence[str]) -> None:
        query = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        self._connection.execute(query, [json.dumps(values)])

    def job_ids(self, *, ended: bool) -> list[str]:
        return [row[0] for row in self._connection.execute(_JOB_IDS[ended])]

    def unfinished(self) -> int:
        return int(self._connection.execute(_UNFINISHED).fetchone()[0])

    def settle_down(self) -> None:
        """What is left from filling the table must not slow down what comes next."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._connection.close()


class _Postgres:
    """The statements of bulk, as Postgres has them."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        # JSON as text, so that it goes back as it came.
        self._connection.adapters.register_loader("json", TextLoader)

    def writable(self) -> bool:
        return True

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with (
            self._connection.transaction(),
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({','.join(columns)}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def rows(self, table: str, column: str, values: Sequence[str]) -> list[Row]:
        return self._fetched(f"SELECT * FROM {table} WHERE {column} = ANY(%s)", [list(values)])

    def all_rows(self, table: str) -> list[Row]:
        return self._fetched(f"SELECT * FROM {table}", [])

    def remove(self, table: str, column: str, values: Sequence[str]) -> None:
        self._connection.execute(f"DELETE FROM {table} WHERE {column} = ANY(%s)", [list(values)])

    def job_ids(self, *, ended: bool) -> list[str]:
        return [row[0] for row in self._connection.execute(_JOB_IDS[ended])]

    def unfinished(self) -> int:
        return int(self._connection.execute(_UNFINISHED).fetchall()[0][0])

    def settle_down(self) -> None:
        """Autovacuum would do it in the middle of a measurement."""
        for table in _TABLES:
            self._connection.execute(f"VACUUM ANALYZE {table}")
        self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        self._connection.close()

    def _fetched(self, query: str, values: list[Any]) -> list[Row]:
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(query, values).fetchall()
