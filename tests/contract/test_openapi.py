"""The OpenAPI document and the page that shows it: true to the routes, and complete without any other server."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # comes without types

from api.app import ROUTES
from common.artefacts.library import model_id
from tests.web import Web, web

ENDPOINTS = {
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/metrics"),
    ("post", "/models/download"),
    ("post", "/models/plan"),
    ("post", "/models/list"),
    ("get", "/models/jobs"),
    ("get", "/models/results"),
    ("post", "/models/upload"),
    ("get", "/models"),
    ("get", "/models/{model_id}"),
    ("delete", "/models/{model_id}"),
    ("post", "/models/{model_id}/verify"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("delete", "/jobs/{job_id}"),
    ("get", "/jobs/{job_id}/attempts"),
    ("get", "/jobs/{job_id}/provenance"),
    ("post", "/jobs/{job_id}/cancel"),
    ("post", "/jobs/{job_id}/retry"),
    ("get", "/jobs/{job_id}/events"),
    ("get", "/jobs/{job_id}/log"),
    ("get", "/events"),
    ("get", "/gates"),
    ("get", "/gates/{name}"),
    ("put", "/gates/{name}"),
    ("delete", "/gates/{name}"),
    ("get", "/overview"),
    ("get", "/workers"),
    ("get", "/limits"),
    ("put", "/limits/{limit_scope}/{name}"),
    ("delete", "/limits/{limit_scope}/{name}"),
    ("get", "/plugins"),
    ("get", "/audit"),
    ("get", "/whoami"),
    ("get", "/keys"),
    ("post", "/keys"),
    ("get", "/keys/{key_id}"),
    ("post", "/keys/{key_id}/rotate"),
    ("delete", "/keys/{key_id}"),
    ("get", "/webhooks"),
    ("post", "/webhooks"),
    ("get", "/webhooks/{webhook_id}"),
    ("patch", "/webhooks/{webhook_id}"),
    ("delete", "/webhooks/{webhook_id}"),
    ("post", "/webhooks/{webhook_id}/rotate"),
    ("post", "/webhooks/{webhook_id}/test"),
    ("get", "/webhooks/{webhook_id}/deliveries"),
    ("post", "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"),
}
UPLOADED = model_id("custom_uploaded_models/geti/openvino/a/FP16")
URL = re.compile(rb"""(?:src|href)\s*=\s*["']([^"']*)["']""")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def document(service: Web) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_case_2_every_endpoint_is_documented_once(document: dict[str, Any]) -> None:
    assert {(method, path) for method, path, _ in operations(document)} == ENDPOINTS
    assert [server["url"] for server in document["servers"]] == ["/", "/api/v1"]


def test_both_forms_serve_the_same_document(service: Web, document: dict[str, Any]) -> None:
    assert service.get("/api/v1/openapi.json").json() == document


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for _, path, operation in operations(document):
        assert operation["summary"]
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in operation["responses"])
        assert all(answer["description"] for answer in operation["responses"].values())
        parameters = operation.get("parameters", [])
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")


def test_every_operation_says_whether_it_wants_to_know_who_asks(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("scheme") or scheme["name"]) for scheme in schemes.values()} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }
    for _, path, operation in operations(document):
        if path in {"/health", "/ready"}:
            assert operation["security"] == []
            assert not {"401", "403"} & operation["responses"].keys()
            continue
        assert operation["security"] == [{name: []} for name in schemes]
        for status in ("401", "403"):
            content = operation["responses"][status]["content"]["application/json"]
            assert content["schema"]["$ref"].endswith("/Problem"), path
    assert "admin" in document["paths"]["/keys"]["get"]["responses"]["403"]["description"]


def test_every_schema_is_a_schema_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = list(walk(document, "schema")) + list(document["components"]["schemas"].values())
    assert len(schemas) > 20
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(walk(document, "$ref")) <= known


def walk(node: object, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from walk(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from walk(item, key)


def test_the_submission_is_documented_from_the_models_that_read_it(document: dict[str, Any]) -> None:
    submit = document["paths"]["/models/download"]["post"]
    assert {(parameter["name"], parameter["in"], parameter["required"]) for parameter in submit["parameters"]} == {
        ("download_path", "query", True),
        ("Idempotency-Key", "header", False),
        ("Modelferry-Tenant", "header", False),
    }
    assert submit["requestBody"]["required"] is True
    body = submit["requestBody"]["content"]["application/json"]["schema"]
    model = body["properties"]["models"]["items"]
    assert model["required"] == ["name", "hub"]
    assert set(model["properties"]) == {
        "name",
        "hub",
        "type",
        "is_ovms",
        "revision",
        "priority",
        "config",
        "override_credentials",
        "validate_credentials",
        "target",
    }
    assert set(submit["responses"]) == {"200", "400", "401", "403", "409", "413", "421", "422", "429", "503"}
    assert set(submit["responses"]["200"]["headers"]) == {"Idempotent-Replayed"}


def test_documented_answers_are_the_ones_given(service: Web, document: dict[str, Any]) -> None:
    model = {"name": "org/model", "hub": "huggingface"}
    job_id = service.submitted(model)[0]
    uploaded = {"files": {"file": ("a.zip", an_archive())}, "data": {"model_name": "a"}}
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("get", "/health", "/health", {}),
        ("get", "/ready", "/ready", {}),
        ("post", "/models/download", "/models/download?download_path=x", {"json": {"models": [model]}}),
        ("post", "/models/download", "/models/download", {"json": {}}),
        ("post", "/models/download", "/models/download?download_path=..", {"json": {"models": [model]}}),
        ("post", "/models/download", "/models/download?download_path=x", {"content": b" " * 2_000_000}),
        ("get", "/models/jobs", "/models/jobs?model_name=org/model", {}),
        ("get", "/models/jobs", "/models/jobs?model_name=none", {}),
        ("get", "/models/jobs", "/models/jobs", {}),
        ("get", "/models/results", "/models/results", {}),
        ("get", "/jobs", "/jobs", {}),
        ("get", "/jobs", "/jobs?limit=1", {}),
        ("get", "/jobs", "/jobs?limit=0", {}),
        ("get", "/jobs/{job_id}", f"/jobs/{job_id}", {}),
        ("get", "/jobs/{job_id}", "/jobs/none", {}),
        ("post", "/jobs/{job_id}/cancel", f"/jobs/{job_id}/cancel", {}),
        ("post", "/jobs/{job_id}/cancel", f"/jobs/{job_id}/cancel", {}),
        ("post", "/jobs/{job_id}/cancel", "/jobs/none/cancel", {}),
        ("get", "/jobs", "/jobs?cursor=&limit=1", {}),
        ("get", "/jobs", "/jobs?cursor=x", {}),
        ("get", "/jobs/{job_id}/attempts", f"/jobs/{job_id}/attempts", {}),
        ("get", "/jobs/{job_id}/attempts", "/jobs/none/attempts", {}),
        ("post", "/jobs/{job_id}/retry", f"/jobs/{job_id}/retry", {"headers": {"Idempotency-Key": "k"}}),
        ("post", "/jobs/{job_id}/retry", f"/jobs/{job_id}/retry", {"headers": {"Idempotency-Key": ""}}),
        ("post", "/jobs/{job_id}/retry", "/jobs/none/retry", {}),
        ("post", "/jobs/{job_id}/retry", "/jobs/none/retry", {"headers": {"Idempotency-Key": "k"}}),
        ("delete", "/jobs/{job_id}", f"/jobs/{job_id}", {}),
        ("delete", "/jobs/{job_id}", f"/jobs/{job_id}", {}),
        ("put", "/gates/{name}", "/gates/a", {"json": {"models": [model]}}),
        ("put", "/gates/{name}", "/gates/a", {"json": {"models": [model]}}),
        ("put", "/gates/{name}", "/gates/a", {"json": {"models": []}}),
        ("put", "/gates/{name}", "/gates/A", {"json": {"models": [model]}}),
        ("get", "/gates/{name}", "/gates/a", {}),
        ("get", "/gates", "/gates", {}),
        ("get", "/ready", "/ready?gate=a&gate=none", {}),
        ("get", "/ready", "/ready?gate=A", {}),
        ("delete", "/gates/{name}", "/gates/a", {}),
        ("delete", "/gates/{name}", "/gates/a", {}),
        ("get", "/gates/{name}", "/gates/a", {}),
        ("put", "/limits/{limit_scope}/{name}", "/limits/hub/huggingface", {"json": {"max_running": 2}}),
        ("put", "/limits/{limit_scope}/{name}", "/limits/hub/huggingface", {"json": {"max_running": 0}}),
        ("put", "/limits/{limit_scope}/{name}", "/limits/hub/nope", {"json": {"max_running": 1}}),
        ("get", "/limits", "/limits", {}),
        ("get", "/overview", "/overview", {}),
        ("get", "/workers", "/workers", {}),
        ("delete", "/limits/{limit_scope}/{name}", "/limits/hub/huggingface", {}),
        ("delete", "/limits/{limit_scope}/{name}", "/limits/hub/huggingface", {}),
        ("get", "/plugins", "/plugins", {}),
        ("post", "/models/upload", "/models/upload", uploaded),
        ("post", "/models/upload", "/models/upload", uploaded),
        ("post", "/models/upload", "/models/upload", {**uploaded, "data": {"model_name": ".."}}),
        ("post", "/models/upload", "/models/upload", {**uploaded, "data": {}}),
        ("get", "/models", "/models", {}),
        ("get", "/models", "/models?limit=0", {}),
        ("get", "/models/{model_id}", f"/models/{UPLOADED}", {}),
        ("get", "/models/{model_id}", "/models/none", {}),
        ("post", "/models/{model_id}/verify", f"/models/{UPLOADED}/verify", {}),
        ("post", "/models/{model_id}/verify", "/models/none/verify", {}),
        ("get", "/models/{model_id}", f"/models/{UPLOADED}", {}),
        ("delete", "/models/{model_id}", f"/models/{UPLOADED}", {}),
        ("delete", "/models/{model_id}", f"/models/{UPLOADED}", {}),
    ]
    for method, path, url, sent in asked:
        answer = service.client.request(method, url, **sent)
        documented = document["paths"][path][method]["responses"][str(answer.status_code)]
        if answer.status_code == 204:
            assert (answer.content, "content" in documented) == (b"", False)
            continue
        schema = documented["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def an_archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.xml", "<net/>")
        archive.writestr("a.bin", "weights")
    return made.getvalue()


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/api/v1/docs", "/api/v1/redoc"])
def test_the_page_loads_nothing_from_elsewhere(service: Web, page: str) -> None:
    answer = service.get(page)
    links = [link.decode() for link in URL.findall(answer.content)]
    assert links
    for link in links:
        assert not re.match(r"\w+:|//|/", link), f"{link} is not relative"
        assert service.get(f"{page.rpartition('/')[0]}/{link}").status_code == 200
    assert b"http" not in answer.content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_the_script_of_the_page_names_no_other_server(service: Web) -> None:
    script = service.get("/static/docs.js").text
    assert "http" not in script
    assert 'url: "openapi.json"' in script
    assert "validatorUrl: null" in script


def test_the_bundle_is_there_with_its_licence() -> None:
    bundle = Path(__file__).parents[2] / "api/static/swagger-ui"
    assert {file.name for file in bundle.iterdir()} >= {"swagger-ui-bundle.js", "swagger-ui.css", "LICENSE", "NOTICE"}


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_stay_in_their_folder(service: Web, path: str) -> None:
    assert service.get(path).status_code == 404


def test_no_route_is_left_out_of_the_document() -> None:
    shown = [route for route in ROUTES if getattr(route, "include_in_schema", None) is not False]
    assert len(shown) == len(ENDPOINTS)
