"""who may do what, and who did: keys, the audit trail; what is counted for ever; who asked for a job"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_YOUNG_S = 30 * 24 * 3600
"""A row of the audit trail that is younger than this cannot be deleted."""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("caller", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("trace", sa.String(length=64), nullable=True))
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("former", sa.String(length=64), nullable=True),
        sa.Column("former_until", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("used_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("way", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("operation", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_caller", "audit", ["caller", "seq"])
    op.create_index("audit_by_operation", "audit", ["operation", "seq"])
    _make_append_only()
    op.create_table(
        "tallies",
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("hub", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("operation", "hub", "state"),
    )


def _make_append_only() -> None:
    """Whoever has the service's own rights at the database still cannot rewrite what has been noted."""
    if op.get_bind().dialect.name == "sqlite":
        refuse = "SELECT RAISE(ABORT, 'the audit trail is append-only')"
        op.execute(f"CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN {refuse}; END")
        young = f"OLD.at > (julianday('now') - 2440587.5) * 86400.0 - {_YOUNG_S}"
        op.execute(f"CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit WHEN {young} BEGIN {refuse}; END")
        return
    op.execute(
        "CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$"
    )
    op.execute("CREATE TRIGGER audit_stays BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuses()")
    young = f"OLD.at > extract(epoch FROM clock_timestamp()) - {_YOUNG_S}"
    op.execute(
        "CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit FOR EACH ROW "
        f"WHEN ({young}) EXECUTE FUNCTION audit_refuses()"
    )
    op.execute("CREATE TRIGGER audit_is_whole BEFORE TRUNCATE ON audit EXECUTE FUNCTION audit_refuses()")


def downgrade() -> None:
    op.drop_table("tallies")
    op.drop_table("audit")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_refuses()")
    op.drop_table("api_keys")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("trace")
        batch_op.drop_column("caller")
