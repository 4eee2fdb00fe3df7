"""Each module starts one service, with the hubs that its cases need, and asks it in both forms of its paths."""

import pytest

from tests.acceptance.wire import FORMS, Wire
from tests.e2e.conftest import tiny
from tests.e2e.service import Service

__all__ = ["tiny"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(*numbers): the acceptance cases of docs/contract.md that a test is about")


@pytest.fixture(params=list(FORMS))
def wire(request: pytest.FixtureRequest, service: Service) -> Wire:
    """The module's service, in each form."""
    return Wire(service, request.param)
