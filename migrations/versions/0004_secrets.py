"""credentials that come with a request, sealed"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_WITH_A_SECRET = sa.text("secret_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("jobs", sa.Column("secret_id", sa.String(length=36), nullable=True))
    op.create_index(
        "jobs_by_secret", "jobs", ["secret_id"], sqlite_where=_WITH_A_SECRET, postgresql_where=_WITH_A_SECRET
    )


def downgrade() -> None:
    op.drop_index("jobs_by_secret", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("secret_id")
    op.drop_table("secrets")
