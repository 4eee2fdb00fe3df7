"""Fixtures that several kinds of tests share."""

import os

# Read by huggingface_hub at its import, so it comes before everything that may import it.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.store.database import Database
from tests.databases import postgres_url, sqlite_url

ALONE = {
    "chaos": {"test_chaos"},
    "e2e": {
        "test_conversion_kills", "test_crashes", "test_dashboard_jobs", "test_dashboard_models", "test_dashboard_pages",
        "test_draining", "test_embedded", "test_memory", "test_recovery", "test_rolling_upgrade", "test_sharing",
        "test_tracing",
    },
    "deploy": {"test_metrics_ports"},
    "contract": {"test_geti_hub", "test_hls_hub", "test_ollama_hub", "test_omz_hub"},
    "integration": {
        "test_api_library", "test_api_socket", "test_api_tickets", "test_api_upload", "test_bench_queue", "test_cli",
        "test_cli_ephemeral", "test_clocks", "test_connections", "test_events_streams", "test_forkserver",
        "test_job_log", "test_memory", "test_races", "test_runner", "test_transfer",
        "test_transfer_allowance", "test_transfer_network", "test_webhook_receivers",
    },
}  # fmt: skip
"""What goes by the clock, or counts what happens at one time: other tests beside it would be noise."""


SLOW = {
    "e2e": {
        "test_backup",
        "test_conversion_kills",
        "test_crashes",
        "test_draining",
        "test_memory",
        "test_recovery",
        "test_rolling_upgrade",
        "test_sharing",
        "test_tracing",
    },
    "deploy": {"test_metrics_ports"},
    "hostile": {"test_planted_secrets"},
    "integration": {
        "test_cli_ephemeral",
        "test_clocks",
        "test_events_streams",
        "test_hls_conversion",
        "test_runner",
        "test_transfer_allowance",
        "test_voice_targets",
    },
}
"""Whole services under faults, which `make test-slow` runs."""
SLOW_ON_POSTGRES = {"test_store_model"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder, name = item.path.parent.name, item.path.stem
        if name in ALONE.get(folder, ()):
            item.add_marker(pytest.mark.alone)
        if name in SLOW.get(folder, ()) or (name in SLOW_ON_POSTGRES and "postgres" in item.name):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with sqlite_url(tmp_path) if request.param == "sqlite" else postgres_url() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()
