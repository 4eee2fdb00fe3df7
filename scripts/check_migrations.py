"""Fails when the migrations do not make the tables that the code declares, or break the release that runs beside them.

While a service is upgraded, the former release works on the new tables. So a migration only adds: see
docs/adr/0018-rolling-upgrades.md. What takes something away names the release that has stopped using it:

    CONTRACTS = "0.4: nobody reads jobs.note since then"
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Inspector, inspect
from sqlalchemy.types import TypeEngine

from common.store.database import Database
from common.store.schema import REVISION
from migrations.command import configuration, newest, upgrade

FIRST = "0006"
"""The first migration that old code has to live with; those before it needed everything stopped."""
_MARK = "CONTRACTS"


@dataclass(frozen=True)
class Column:
    """What old code relies on of a column."""

    kind: str
    length: int | None
    nullable: bool
    filled: bool
    """Whether the database fills it in where an INSERT does not name it."""


@dataclass(frozen=True)
class Table:
    """What old code relies on of a table."""

    columns: Mapping[str, Column]
    constraints: frozenset[str]
    """What the database refuses, in words: keys, unique indexes, references, checks."""


Schema = Mapping[str, Table]


def main() -> int:
    """Check everything, and say all that is wrong."""
    wrong = [*_declared(), *_numbered(), *(problem for found in changes() for problem in found.problems)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


@dataclass(frozen=True)
class Change:
    """One migration, and what it does to code that does not know it."""

    revision: str
    contracts: str | None
    breaks: list[str]

    @property
    def problems(self) -> list[str]:
        """What has to be mended."""
        if self.breaks and not self.contracts:
            return [f"Migration {self.revision} {one}, and the former release may still need it" for one in self.breaks]
        if self.contracts and not self.breaks:
            return [f"Migration {self.revision} says that it takes something away ({_MARK}), and does not"]
        return []


def changes(first: str = FIRST, scripts: Path | None = None) -> Iterator[Change]:
    """Every migration from this one on, carried out on SQLite, whose tables are compared before and after it."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'tables.db'}"
        settings = configuration(url)
        if scripts is not None:
            settings.set_main_option("path_separator", "newline")
            settings.set_main_option("version_locations", str(scripts))
        known = ScriptDirectory.from_config(settings)
        for script in reversed(list(known.walk_revisions())):
            if script.revision < first:
                continue
            command.upgrade(settings, script.down_revision if isinstance(script.down_revision, str) else "base")
            before = schema_of(url)
            command.upgrade(settings, script.revision)
            mark = getattr(script.module, _MARK, None)
            yield Change(script.revision, mark, [*breaks(before, schema_of(url))])


def breaks(before: Schema, after: Schema) -> Iterator[str]:
    """What code that knows only the tables before would stumble over, in words."""
    for name, table in before.items():
        if name not in after:
            yield f"takes away table {name}"
            continue
        now = after[name]
        for column, was in table.columns.items():
            if column not in now.columns:
                yield f"takes away column {name}.{column}"
            else:
                yield from _narrower(f"{name}.{column}", was, now.columns[column])
        for column in sorted(set(now.columns) - set(table.columns)):
            added = now.columns[column]
            if not added.nullable and not added.filled:
                yield f"adds column {name}.{column}, which must not be empty and has no default in the database"
        for constraint in sorted(now.constraints - table.constraints):
            yield f"adds to table {name} {constraint}, which rows of old code may break"


def _narrower(name: str, was: Column, now: Column) -> Iterator[str]:
    if was.kind != now.kind:
        yield f"makes column {name} {now.kind}, which was {was.kind}"
    if now.length is not None and (was.length is None or now.length < was.length):
        yield f"shortens column {name} to {now.length}"
    if was.nullable and not now.nullable:
        yield f"forbids column {name} to be empty"
    if was.filled and not now.filled and not now.nullable:
        yield f"takes the default of column {name} away"


def schema_of(url: str) -> Schema:
    """The tables of a database, as they really are."""
    database = Database(url)
    try:
        with database.read() as connection:
            looking = inspect(connection)
            return {name: _table(looking, name) for name in looking.get_table_names() if name != "alembic_version"}
    finally:
        database.dispose()


def _table(looking: Inspector, name: str) -> Table:
    keys = looking.get_pk_constraint(name)["constrained_columns"]
    numbered = len(keys) == 1
    columns = {
        column["name"]: Column(
            kind=_kind(column["type"]),
            length=getattr(column["type"], "length", None),
            nullable=column["nullable"],
            filled=column["default"] is not None or (numbered and column["name"] in keys and _counts(column["type"])),
        )
        for column in looking.get_columns(name)
    }
    return Table(columns=columns, constraints=frozenset(_constraints(looking, name)))


def _constraints(looking: Inspector, name: str) -> Iterator[str]:
    yield f"the key {looking.get_pk_constraint(name)['constrained_columns']}"
    for one in looking.get_unique_constraints(name):
        yield f"a rule that {one['column_names']} are unique"
    for index in looking.get_indexes(name):
        if index.get("unique"):
            where = {key: str(value) for key, value in index.get("dialect_options", {}).items() if "where" in key}
            yield f"a rule that {index['column_names']} are unique {where or ''}".rstrip()
    for reference in looking.get_foreign_keys(name):
        to = f"{reference['referred_table']}{reference['referred_columns']}"
        yield f"a rule that {reference['constrained_columns']} refer to {to}"
    for check in looking.get_check_constraints(name):
        yield f"a check ({check['sqltext']})"


def _kind(kind: TypeEngine[Any]) -> str:
    return str(kind).partition("(")[0].lower()


def _counts(kind: TypeEngine[Any]) -> bool:
    return "int" in _kind(kind)


def _declared() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'empty.db'}"
        upgrade(url)
        try:
            command.check(configuration(url))
        except CommandError as error:
            yield f"The migrations differ from common/store/tables.py: {error}"


def _numbered() -> Iterator[str]:
    if newest() != REVISION:
        yield f"common/store/schema.py names migration {REVISION}, and the newest one is {newest()}"


if __name__ == "__main__":
    sys.exit(main())
