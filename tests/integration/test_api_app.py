"""The application as a whole: both forms of every path, refusals, CORS, readiness, and a database that is away."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.vocabulary import Pool
from tests.web import Web, web

POSTGRES_AWAY = "postgresql://nobody@127.0.0.1:1/none"
A_MODEL = {"name": "org/model", "hub": "huggingface"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as running:
        yield running


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_case_1_health_answers_in_both_forms(service: Web, path: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.content) == (200, b'{"status":"ok"}')
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_case_2_the_documentation_answers_in_both_forms(service: Web, prefix: str) -> None:
    for page in ("/docs", "/redoc"):
        answer = service.get(prefix + page)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
    assert "/models/download" in service.get(f"{prefix}/openapi.json").json()["paths"]


@pytest.mark.parametrize("path", ["/nope", "/api/v1/nope", "/api/v2/health", "/api/v1", "/jobs/x/y"])
def test_case_3_an_unknown_path_is_not_found(service: Web, path: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}')


def test_case_3_a_wrong_method_is_not_allowed(service: Web) -> None:
    answer = service.client.put("/jobs/x")
    assert (answer.status_code, answer.content) == (405, b'{"detail":"Method Not Allowed"}')
    assert "GET" in answer.headers["allow"]
    assert service.client.head("/health").status_code == 405
    assert service.get("/models/download").status_code == 405


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("/health/", "/health"),
        ("/api/v1/jobs/?limit=1&status=queued", "/api/v1/jobs?limit=1&status=queued"),
        ("/jobs/a%20b/", "/jobs/a%20b"),
        ("/health//", "/health"),
    ],
)
def test_a_trailing_slash_is_redirected(service: Web, asked: str, told: str) -> None:
    answer = service.get(asked)
    assert (answer.status_code, answer.headers["location"]) == (307, told)


def test_a_trailing_slash_behind_an_unknown_path_is_not_found(service: Web) -> None:
    assert service.get("/nope/").status_code == 404


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path, cors_allow_origins="*") as running:
        yield running


def test_no_page_of_another_origin_may_call_by_default(service: Web) -> None:
    answer = service.get("/health", headers={"Origin": "http://page.example"})
    assert "access-control-allow-origin" not in answer.headers
    asking = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}
    preflight = service.client.options("/models/download", headers=asking)
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers


def test_an_operator_can_open_cors_to_any_origin(opened: Web) -> None:
    answer = opened.get("/health", headers={"Origin": "http://page.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-credentials"] == "true"
    shown = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-request-id", "location", "retry-after"} <= set(shown)


def test_a_preflight_is_answered_with_the_callers_origin(opened: Web) -> None:
    """Browsers refuse `*` together with credentials."""
    asking = {
        "Origin": "http://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = opened.client.options("/models/download", headers=asking)
    assert answer.is_success
    assert answer.headers["access-control-allow-origin"] == "http://page.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "content-type" in answer.headers["access-control-allow-headers"].lower()


def test_refusals_carry_the_cors_headers_too(opened: Web) -> None:
    answer = opened.get("/nope", headers={"Origin": "http://page.example"})
    assert answer.headers["access-control-allow-origin"] == "*"


def test_an_operator_can_open_cors_to_some_origins(tmp_path: Path) -> None:
    with web(
        tmp_path, cors_allow_origins="http://ours.example, http://too.example", cors_allow_methods="GET"
    ) as service:
        ours = service.get("/health", headers={"Origin": "http://too.example"})
        other = service.get("/health", headers={"Origin": "http://page.example"})
        asking = {"Origin": "http://page.example", "Access-Control-Request-Method": "GET"}
        refused = service.client.options("/jobs", headers=asking)
    assert ours.headers["access-control-allow-origin"] == "http://too.example"
    assert "access-control-allow-origin" not in other.headers
    assert refused.status_code == 400


def test_ready_names_what_is_missing(service: Web) -> None:
    answer = service.get("/ready")
    assert answer.status_code == 503
    parts = answer.json()["parts"]
    assert parts["database"] == "ok"
    assert {name for name, said in parts.items() if said != "ok"} == {"redis", "download_worker", "convert_worker"}


def test_a_worker_that_drains_or_loads_is_not_ready(service: Web) -> None:
    service.stages.announce("w1", Pool.DOWNLOAD, "host", 4, ready=True, draining=False)
    service.stages.announce("w2", Pool.CONVERT, "host", 1, ready=False, draining=False)
    service.stages.announce("w3", Pool.CONVERT, "host", 1, ready=True, draining=True)
    parts = service.get("/api/v1/ready").json()["parts"]
    assert parts["download_worker"] == "ok"
    assert parts["convert_worker"] != "ok"


def test_without_a_converter_no_convert_worker_is_needed(tmp_path: Path) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        assert "convert_worker" not in service.get("/ready").json()["parts"]


def test_a_database_that_is_away_takes_no_job(tmp_path: Path) -> None:
    with web(tmp_path, database_url=POSTGRES_AWAY) as service:
        refused = service.submit(A_MODEL)
        assert refused.status_code == 503
        assert "nothing was stored" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        assert service.get("/jobs").status_code == 503
        assert service.get("/jobs/x").status_code == 503
        assert service.post("/jobs/x/cancel").status_code == 503
        assert service.get("/health").status_code == 200
        assert service.get("/ready").json()["parts"]["database"] != "ok"


def test_an_unforeseen_fault_tells_nothing_of_the_inside(
    service: Web, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    database = next((tmp_path / "models" / ".modelferry" / "state").glob("*.db"))
    for file in database.parent.glob("*.db*"):
        file.write_bytes(b"this is no database" * 1000)
    answer = service.get("/jobs")
    assert (answer.status_code, answer.content) == (500, b'{"detail":"Internal Server Error"}')
    assert "request.failed" in caplog.text


def test_the_web_process_needs_none_of_the_heavy_libraries(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from api.app import create_app\n"
        "from common.settings import Settings\n"
        "app = create_app(Settings(models_dir=pathlib.Path(sys.argv[1])))\n"
        "app.openapi_schema\n"
        "heavy = {'torch', 'optimum', 'openvino', 'transformers', 'huggingface_hub', 'nncf', 'numpy', 'worker'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
