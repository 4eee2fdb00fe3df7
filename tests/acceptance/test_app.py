"""The web application as a whole."""

from collections.abc import Iterator

import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import WITHOUT_CONVERSIONS, Wire
from tests.e2e.service import Service

DOCUMENTED = {
    "/health": {"get"},
    "/models/download": {"post"},
    "/models/list": {"post"},
    "/models/upload": {"post"},
    "/jobs": {"get"},
    "/jobs/{job_id}": {"get"},
    "/jobs/{job_id}/cancel": {"post"},
    "/models/jobs": {"get"},
    "/models/results": {"get"},
    "/plugins": {"get"},
}
"""The contract's endpoints; ours has more."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("app"), run=WITHOUT_CONVERSIONS) as service:
        yield service


@case(1)
def test_health_is_one_word(wire: Wire) -> None:
    answer = wire.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@case(2)
def test_the_documentation_is_a_page_and_a_document(wire: Wire) -> None:
    page = wire.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    document = wire.get("/openapi.json")
    assert document.status_code == 200
    paths = document.json()["paths"]
    assert all(methods <= paths[path].keys() for path, methods in DOCUMENTED.items())


@case(3)
def test_what_is_not_there_is_not_found_and_what_is_not_done_is_not_allowed(wire: Wire) -> None:
    missing = wire.get("/nope")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    for method, path in (("PUT", "/jobs"), ("GET", "/models/download"), ("DELETE", "/plugins")):
        answer = wire.ask(method, path)
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"}), path


@case(3)
def test_where_a_job_can_be_deleted_an_unknown_one_is_not_found(wire: Wire) -> None:
    # The contract has no such route, and a 405; ours forgets jobs.
    answer = wire.ask("DELETE", "/jobs/x")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Job x not found"})


def test_a_slash_at_the_end_leads_to_the_path_itself(wire: Wire) -> None:
    answer = wire.get("/jobs/")
    assert answer.status_code == 307
    assert answer.headers["location"].endswith("/jobs")
