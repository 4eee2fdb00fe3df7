"""Alembic's environment: one connection, one lock, then the migrations."""

from alembic import context
from sqlalchemy import text

from common.settings import read_settings
from common.store.database import Database, Lock, alone
from common.store.tables import Row


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or read_settings().store_url
    database = Database(url)
    with database.rebuild() as connection:
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(text("SET LOCAL statement_timeout = '10min'"))
        alone(connection, Lock.MIGRATE)
        context.configure(
            connection=connection,
            target_metadata=Row.metadata,
            render_as_batch=database.is_sqlite,
            compare_type=True,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    database.dispose()


run()
