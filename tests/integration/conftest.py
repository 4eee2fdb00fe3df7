"""The API in a process of the tests, as several of them want it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web import Web, web


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Web]:
    """For what the database has no part in."""
    with web(tmp_path) as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Web]:
    with web(tmp_path, database_url=database_url) as running:
        yield running
