"""The check that keeps old code working beside new code sees every kind of change that would break it."""

from pathlib import Path

import pytest

from common.store.schema import REVISION
from migrations.command import newest
from scripts.check_migrations import FIRST, Change, changes

_HEAD = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {former!r}
branch_labels = None
depends_on = None
{mark}

def upgrade():
    {steps}

def downgrade():
    pass
"""

_TABLES = """
op.create_table("shelves", sa.Column("id", sa.Integer(), primary_key=True))
op.create_table(
    "books",
    sa.Column("id", sa.Integer(), primary_key=True),
    sa.Column("title", sa.String(80), nullable=False),
    sa.Column("note", sa.Text(), nullable=True),
    sa.Column("shelf", sa.Integer(), nullable=True),
    sa.Column("lent", sa.Integer(), nullable=False, server_default="0"),
)
"""

_BATCH = 'with op.batch_alter_table("books") as batch_op:\n    batch_op.'

FORBIDDEN = {
    "table gone": ('op.drop_table("shelves")', "takes away table shelves"),
    "table renamed": ('op.rename_table("shelves", "racks")', "takes away table shelves"),
    "column gone": (f'{_BATCH}drop_column("note")', "takes away column books.note"),
    "column renamed": (f'{_BATCH}alter_column("note", new_column_name="remark")', "takes away column books.note"),
    "column shortened": (f'{_BATCH}alter_column("title", type_=sa.String(40))', "shortens column books.title to 40"),
    "text bounded": (f'{_BATCH}alter_column("note", type_=sa.String(40))', "makes column books.note varchar"),
    "another type": (f'{_BATCH}alter_column("shelf", type_=sa.Text())', "makes column books.shelf text"),
    "not empty any more": (f'{_BATCH}alter_column("note", nullable=False)', "forbids column books.note to be empty"),
    "default gone": (f'{_BATCH}alter_column("lent", server_default=None)', "takes the default of column books.lent away"),
    "new and not empty": (
        f'{_BATCH}add_column(sa.Column("isbn", sa.Text(), nullable=False))', "adds column books.isbn, which must not",
    ),
    "unique": ('op.create_index("one", "books", ["title"], unique=True)', "['title'] are unique"),
    "unique where": (
        'op.create_index("one", "books", ["title"], unique=True, sqlite_where=sa.text("lent = 1"))',
        "['title'] are unique",
    ),
    "unique by table": (f'{_BATCH}create_unique_constraint("one", ["title"])', "['title'] are unique"),
    "reference": (f'{_BATCH}create_foreign_key("on", "shelves", ["shelf"], ["id"])', "['shelf'] refer to shelves"),
    "check": (f'{_BATCH}create_check_constraint("few", "lent < 9")', "a check (lent < 9)"),
}  # fmt: skip

ALLOWED = {
    "a table": 'op.create_table("tags", sa.Column("id", sa.Text(), nullable=False, unique=True))',
    "a column that may be empty": 'op.add_column("books", sa.Column("isbn", sa.Text(), nullable=True))',
    "a column with a default": (
        'op.add_column("books", sa.Column("isbn", sa.Text(), nullable=False, server_default=""))'
    ),
    "an index": 'op.create_index("by_title", "books", ["title"])',
    "an index gone": 'op.create_index("by", "books", ["title"])\nop.drop_index("by", table_name="books")',
    "more room": f'{_BATCH}alter_column("title", type_=sa.String(200))',
    "empty from now on": f'{_BATCH}alter_column("title", nullable=True)',
}


def judged(folder: Path, steps: str, mark: str = "") -> Change:
    for revision, former, content, said in (("0001", None, _TABLES, ""), ("0002", "0001", steps, mark)):
        indented = content.strip().replace("\n", "\n    ")
        text = _HEAD.format(revision=revision, former=former, steps=indented, mark=said)
        (folder / f"{revision}_it.py").write_text(text)
    (change,) = changes("0002", folder)
    return change


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_old_code_would_stumble_over_is_refused(tmp_path: Path, name: str) -> None:
    steps, words = FORBIDDEN[name]
    change = judged(tmp_path, steps)
    assert any(words in one for one in change.breaks), change.breaks
    assert any(words in problem and "0002" in problem for problem in change.problems)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_only_adds_is_let_through(tmp_path: Path, name: str) -> None:
    change = judged(tmp_path, ALLOWED[name])
    assert change.breaks == change.problems == []


def test_the_second_half_of_a_change_says_so_and_is_let_through(tmp_path: Path) -> None:
    mark = 'CONTRACTS = "0.4: nobody reads books.note since then"'
    change = judged(tmp_path, FORBIDDEN["column gone"][0], mark)
    assert change.breaks
    assert change.problems == []


def test_a_mark_without_need_is_refused(tmp_path: Path) -> None:
    assert "does not" in judged(tmp_path, ALLOWED["an index"], 'CONTRACTS = "0.4"').problems[0]


def test_our_own_migrations_keep_to_it() -> None:
    found = list(changes())
    assert found[0].revision == FIRST
    assert [problem for change in found for problem in change.problems] == []


def test_the_check_would_have_seen_what_our_early_migrations_did() -> None:
    early = {change.revision: change.breaks for change in changes("0002")}
    assert any("takes away column job_stages.kind" in one for one in early["0002"])


def test_the_code_names_the_newest_migration() -> None:
    assert newest() == REVISION
