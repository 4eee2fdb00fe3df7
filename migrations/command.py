"""Bring a database to the newest schema. Safe to run from several processes at once."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from common.errors import ServiceUnavailable
from common.settings import SettingsError, read_settings


def configuration(url: str) -> Config:
    """Alembic's configuration for one database, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str) -> None:
    """Apply every migration that the database lacks."""
    command.upgrade(configuration(url), "head")


def newest() -> str | None:
    """The migration that a database is brought to."""
    return ScriptDirectory.from_config(configuration("sqlite://")).get_current_head()


if __name__ == "__main__":
    try:
        upgrade(read_settings().store_url)
    except (SettingsError, ServiceUnavailable) as error:
        sys.exit(f"modelferry: {error}")
