"""conversions of one source that may be made in one go"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_IN_A_BATCH = sa.text("batch IS NOT NULL")


def upgrade() -> None:
    op.add_column("stages", sa.Column("batch", sa.String(length=80), nullable=True))
    op.create_index("stages_of_batch", "stages", ["batch"], sqlite_where=_IN_A_BATCH, postgresql_where=_IN_A_BATCH)


def downgrade() -> None:
    op.drop_index("stages_of_batch", table_name="stages")
    with op.batch_alter_table("stages") as batch_op:
        batch_op.drop_column("batch")
