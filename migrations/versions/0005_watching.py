"""what people watch: the history in one order, with log lines; gates; webhooks"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    _put_events_in_order()
    op.create_table(
        "gates",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("wishes", sa.JSON(), nullable=False),
        sa.Column("fates", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("former", sa.LargeBinary(), nullable=True),
        sa.Column("former_until", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "webhook_deliveries_due", "webhook_deliveries", ["due_at"], sqlite_where=_WAITING, postgresql_where=_WAITING
    )
    op.create_index("webhook_deliveries_of", "webhook_deliveries", ["webhook_id", "created_at"])


def _put_events_in_order() -> None:
    """What is there already comes before everything that follows."""
    op.add_column("job_events", sa.Column("tx", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE job_events ALTER COLUMN tx SET DEFAULT (pg_current_xact_id()::text::bigint)")
    op.add_column("job_events", sa.Column("level", sa.String(length=8), nullable=True))
    op.add_column("job_events", sa.Column("fields", sa.JSON(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        # It would give the number of the newest row, once that is deleted, to the next one: who has read the former
        # would take the latter for known.
        with op.batch_alter_table("job_events", recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
    op.create_index("job_events_in_order", "job_events", ["tx", "seq"])


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    op.drop_table("gates")
    op.drop_index("job_events_in_order", table_name="job_events")
    with op.batch_alter_table("job_events") as batch_op:
        batch_op.drop_column("fields")
        batch_op.drop_column("level")
        batch_op.drop_column("tx")
