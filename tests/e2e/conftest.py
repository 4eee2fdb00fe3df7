"""One running service with a hub beside it, shared by the tests that do not break it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.dashboard_service import DashboardService, dashboard_service
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.tiny_models import tiny_bert, tiny_llama, tiny_reranker

PLUGINS = Path(__file__).parent.parent / "fakes" / "plugins"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Directories of tiny real models, made once."""
    root = tmp_path_factory.mktemp("tiny")
    made = SimpleNamespace(llama=root / "llama", bert=root / "bert", reranker=root / "reranker")
    tiny_llama(made.llama)
    tiny_bert(made.bert)
    tiny_reranker(made.reranker)
    return made


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """A hub with models, and all processes of a service that knows it."""
    with FakeHuggingFace() as hub:
        hub.add_directory("Tiny-Org/Llama-Tiny", tiny.llama)
        hub.add_directory("tiny/bert", tiny.bert)
        hub.add_directory("tiny/reranker", tiny.reranker)
        with Service(
            tmp_path_factory.mktemp("service"),
            HF_ENDPOINT=hub.endpoint,
            MODEL_PATH="/srv/models",
            PYTHONPATH=str(PLUGINS),
        ) as service:
            yield SimpleNamespace(hub=hub, service=service)


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardService]:
    """A service for all tests of the dashboard. Each cleans up after itself."""
    with dashboard_service(tmp_path_factory.mktemp("dashboard")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module: its event loop must be gone before other tests want one of their own."""
    with chromium() as browser:
        yield browser
