"""Fixtures that several kinds of tests share."""

import os

# Read by huggingface_hub at its import, so it comes before everything that may import it.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.store.database import Database
from tests.databases import postgres_url, sqlite_url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with sqlite_url(tmp_path) if request.param == "sqlite" else postgres_url() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()
