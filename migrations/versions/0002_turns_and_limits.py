"""turns, limits, back-off, retries and idempotency keys"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_QUEUED = {"sqlite_where": sa.text("state = 'queued'"), "postgresql_where": sa.text("state = 'queued'")}
_NORMAL = 2 << 40
"""The rank of a first turn at normal priority; see common/store/turns.py."""


def upgrade() -> None:
    _jobs()
    _stages()
    # What is still to come of a job follows from its spec from now on.
    op.execute("DELETE FROM job_stages WHERE stage_id IS NULL")
    with op.batch_alter_table("job_stages") as batch_op:
        for name in ("kind", "pool", "work"):
            batch_op.drop_column(name)
        batch_op.alter_column("stage_id", existing_type=sa.String(length=36), nullable=False)
    with op.batch_alter_table("job_events") as batch_op:
        batch_op.add_column(sa.Column("code", sa.String(length=64), nullable=True))
    op.create_table(
        "limits",
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("bytes_per_s", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("scope", "name"),
    )
    op.create_table(
        "hubs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("resume_at", sa.Double(), nullable=False),
        sa.Column("wait_s", sa.Double(), nullable=False),
        sa.Column("strikes", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("token", sa.String(length=36), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("job_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key"),
    )
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])


def _jobs() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("operation", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("tenant", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("retry_of", sa.String(length=36), nullable=True))
        batch_op.create_index("jobs_by_end", ["ended_at"])
    jobs = sa.table("jobs", sa.column("operation"), sa.column("tenant"), sa.column("spec", sa.JSON()))
    op.execute(jobs.update().values(operation=jobs.c.spec["operation"].as_string(), tenant=""))
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.alter_column("operation", existing_type=sa.String(length=16), nullable=False)
        batch_op.alter_column("tenant", existing_type=sa.Text(), nullable=False)


def _stages() -> None:
    with op.batch_alter_table("stages") as batch_op:
        batch_op.drop_index("stages_claimable", **_QUEUED)
        batch_op.add_column(sa.Column("hub", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("tenant", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("rank", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("wait_s", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("last_code", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("last_error", sa.Text(), nullable=True))
        batch_op.alter_column("not_before", existing_type=sa.Double(), nullable=True)
    stages = sa.table(
        "stages",
        *map(sa.column, ("kind", "hub", "tenant", "rank", "memory_bytes")),
        sa.column("work", sa.JSON()),
    )
    hub = sa.case((stages.c.kind == "fetch", stages.c.work[("source", "hub")].as_string()), else_="")
    op.execute(stages.update().values(hub=hub, tenant="", rank=_NORMAL, memory_bytes=0))
    op.execute("UPDATE stages SET not_before = NULL WHERE failures = 0 AND crashes = 0")
    with op.batch_alter_table("stages") as batch_op:
        for name, kind in (("hub", sa.Text()), ("tenant", sa.Text()), ("rank", sa.BigInteger())):
            batch_op.alter_column(name, existing_type=kind, nullable=False)
        batch_op.alter_column("memory_bytes", existing_type=sa.BigInteger(), nullable=False)
        batch_op.create_index("stages_claimable", ["pool", "rank", "created_at"], **_QUEUED)
        batch_op.create_index("stages_of_tenant", ["pool", "tenant", "rank"], **_QUEUED)


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    op.drop_table("hubs")
    op.drop_table("limits")
    with op.batch_alter_table("job_events") as batch_op:
        batch_op.drop_column("code")
    with op.batch_alter_table("job_stages") as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("pool", sa.String(length=16), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("work", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.alter_column("stage_id", existing_type=sa.String(length=36), nullable=True)
    with op.batch_alter_table("stages") as batch_op:
        batch_op.drop_index("stages_of_tenant", **_QUEUED)
        batch_op.drop_index("stages_claimable", **_QUEUED)
        for name in ("hub", "tenant", "rank", "memory_bytes", "wait_s", "last_code", "last_error"):
            batch_op.drop_column(name)
    op.execute("UPDATE stages SET not_before = created_at WHERE not_before IS NULL")
    with op.batch_alter_table("stages") as batch_op:
        batch_op.alter_column("not_before", existing_type=sa.Double(), nullable=False)
        batch_op.create_index("stages_claimable", ["pool", "not_before", "created_at"], **_QUEUED)
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index("jobs_by_end")
        for name in ("operation", "tenant", "retry_of"):
            batch_op.drop_column(name)
