"""The API against whatever can be sent to it: every answer is below 500, in JSON, and tells nothing of the machine."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.hostile.attacks import NAMES
from tests.web import Web, web

POSTS = ("/models/download", "/models/plan", "/models/list", "/api/v1/models/download")
JSON = {"Content-Type": "application/json"}
MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}

BODIES = {
    "empty": b"",
    "null": b"null",
    "number": b"1",
    "huge-number": b"9" * 5000,
    "list": b"[]",
    "deep-list": b"[" * 100_000,
    "deep-object": b'{"a":' * 100_000,
    "deep-config": b'{"models":[{"name":"a","hub":"openvino","config":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}]}",
    "cut": b'{"models": [',
    "no-utf8": b'{"models": [{"name": "\xff\xfe", "hub": "huggingface"}]}',
    "utf16": '{"models": []}'.encode("utf-16"),
    "byte-order-mark": b"\xef\xbb\xbf" + b'{"models": []}',
    "surrogate": b'{"models": [{"name": "\\ud800", "hub": "huggingface"}]}',
    "nul": b'{"models": [{"name": "a\\u0000b", "hub": "huggingface"}]}',
    "raw-nul": b'{"models": [{"name": "a\x00b", "hub": "huggingface"}]}',
    "not-a-number": b'{"models": [{"name": "a", "hub": "huggingface", "config": {"x": NaN, "y": -Infinity}}]}',
    "1e999": b'{"models": [{"name": "a", "hub": "huggingface", "config": {"x": 1e999}}]}',
    "twice-the-key": b'{"models": [], "models": [{"name": "../x", "hub": "huggingface"}]}',
    "many-models": json.dumps({"models": [{"name": "", "hub": "x"}] * 20_000}).encode(),
    "long-key": b'{"' + b"k" * 500_000 + b'": 1}',
    "too-long": b'{"models": "' + b"x" * (2 * 1024 * 1024) + b'"}',
    "too-long-blank": b" " * (3 * 1024 * 1024),
    "html": b"<script>alert(1)</script>",
    "form": b"models=1&download_path=x",
    "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "pickle": b"\x80\x04\x95cos\nsystem\n(S'touch pwned'\ntR.",
    "types": b'{"models": [{"name": ["a"], "hub": {"x": 1}, "is_ovms": [], "config": 7, "revision": {}, "type": 1.5}]}',
    "numbers": b'{"hub": "huggingface", "limit": 1e300, "offset": -99999999999999999999999, "filters": {"x": 1}}',
    "priority": b'{"models": [{"name": "a", "hub": "huggingface"}], "priority": 99999999999999999999999999}',
    "parallel": b'{"models": [{"name": "a", "hub": "huggingface"}], "parallel_downloads": "\xf0\x9f\x98\x80"}',
}

TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/msgpack",
         "application/json; charset=utf-7", "application/json; charset=\xff", "APPLICATION/JSON", "a/b/c;;;=", "x" * 5000)  # fmt: skip

HEADERS: dict[str, dict[str, str]] = {
    "key-of-nul": {"Idempotency-Key": "a\x01b"},
    "key-too-long": {"Idempotency-Key": "k" * 10_000},
    "key-empty": {"Idempotency-Key": ""},
    "key-of-bytes": {"Idempotency-Key": "\xff\xfe"},
    "length-negative": {"Content-Length": "-1"},
    "length-of-words": {"Content-Length": "many"},
    "length-of-5000-digits": {"Content-Length": "9" * 5000},
    "length-twice": {"Content-Length": "3, 5"},
    "length-and-chunks": {"Content-Length": "3", "Transfer-Encoding": "chunked"},
    "host": {"Host": "evil.example/../x"},
    "forwarded": {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "evil", "X-Original-URL": "/jobs"},
    "method": {"X-HTTP-Method-Override": "DELETE"},
    "range": {"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(1000))},
    "accept": {"Accept": "*/*;q=999999999999999999999999999999,\xff", "Accept-Encoding": "gzip;q=x"},
    "cookie": {"Cookie": "a=" + "b" * 10_000},
    "language": {"Accept-Language": ";" * 5000},
    "modified": {"If-Modified-Since": "Mon, 01 Jan 99999999999999 00:00:00 GMT", "If-None-Match": '"' * 999},
}

READS = ("/jobs/{}", "/jobs/{}/attempts", "/jobs/{}/provenance", "/models/{}", "/models/{}/jobs", "/docs/{}",
         "/swagger-ui/{}", "/static/{}", "/openapi.json/{}", "/limits/{}", "/plugins/{}", "/{}")  # fmt: skip
QUERIES = ("/jobs?limit={}", "/jobs?offset={}", "/jobs?state={}", "/jobs?cursor={}", "/models?limit={}", "/models?hub={}",
           "/models/results?limit={}", "/models/results?model_name={}", "/limits?x={}")  # fmt: skip
NUMBERS = ("-1", "0", "1e9", "9" * 400, "0x10", "1.5", "NaN", "\u0661", " 1", "1;drop table jobs", "' or 1=1 --")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web")) as running:
        yield running


def assert_sound(service: Web, answer: httpx.Response) -> None:
    assert answer.status_code < 500 or answer.status_code in {501, 502, 503}, answer.text[:500]
    assert str(service.models_dir.parent) not in answer.text.replace(str(service.models_dir), "")
    assert "Traceback" not in answer.text
    assert "root:x:0" not in answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"].startswith("application/json")
        assert "detail" in answer.json()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", BODIES)
def test_a_body(service: Web, path: str, body: str) -> None:
    answer = service.post(path, params={"download_path": "x"}, content=BODIES[body], headers=JSON)
    assert_sound(service, answer)
    if path != "/models/list":
        assert answer.status_code < 500


@pytest.mark.parametrize("kind", TYPES, ids=ascii)
def test_a_content_type(service: Web, kind: str) -> None:
    content = json.dumps({"models": [{"name": "../x", "hub": "huggingface"}]}).encode()
    for path in (*POSTS, "/models/upload"):
        headers = {"Content-Type": kind.encode("latin-1")}
        assert_sound(service, service.post(path, params={"download_path": "x"}, content=content, headers=headers))


@pytest.mark.parametrize("name", HEADERS)
def test_a_header(service: Web, name: str) -> None:
    headers = [(key, value.encode("latin-1")) for key, value in {**JSON, **HEADERS[name]}.items()]
    content = json.dumps({"models": [MODEL]}).encode()
    assert_sound(
        service, service.post("/models/download", params={"download_path": "x"}, content=content, headers=headers)
    )
    form = [*headers[1:], ("Content-Type", b"multipart/form-data; boundary=x")]
    assert_sound(service, service.post("/models/upload", content=b"--x--\r\n", headers=form))
    for path in ("/jobs", "/docs", "/models", "/health"):
        assert_sound(service, service.get(path, headers=headers[1:]))


@pytest.mark.parametrize("attack", NAMES)
def test_an_id_in_a_path(service: Web, attack: str) -> None:
    """As it is written by a client, and escaped as far as it can be."""
    for form in (escaped(NAMES[attack]), escaped(NAMES[attack]).replace("%2F", "/")):
        for path in READS:
            for ask in (service.get, service.delete, service.post, service.put):
                assert_sound(service, ask(path.format(form)))


@pytest.mark.parametrize("path", QUERIES)
def test_a_query(service: Web, path: str) -> None:
    for value in (*NUMBERS, *NAMES.values()):
        assert_sound(service, service.get(path.format(escaped(value))))


@pytest.mark.parametrize("path", ["/docs/../../../etc/passwd", "/docs/..%2f..%2f..%2fetc%2fpasswd", "/docs/%2e%2e/x",
                                  "/docs//etc/passwd", "/docs/swagger-ui/..%5c..%5cx", "/docs/%00", "/docs/.git/config",
                                  "/static/../app.py", "/docs/%252e%252e/app.py"])  # fmt: skip
def test_static_files_are_those_that_there_are(service: Web, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code in {400, 404, 405, 307}, path
    assert_sound(service, answer)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "x" * 5000, "https://evil.example\x01"],
                         ids=ascii)  # fmt: skip
def test_a_preflight(service: Web, origin: str) -> None:
    for path in ("/models/download", "/jobs/x", "/nowhere", "/models/upload"):
        headers = {
            "Origin": origin.encode("latin-1"),
            "Access-Control-Request-Method": b"DELETE\x01" if origin == "null" else b"POST",
            "Access-Control-Request-Headers": b"x-api-key, " * 500,
        }
        answer = service.client.options(path, headers=[(name.encode(), value) for name, value in headers.items()])
        assert answer.status_code < 500
        assert "\n" not in answer.headers.get("access-control-allow-origin", "")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "FOO", "get", "PATCH"])
def test_a_method(service: Web, method: str) -> None:
    for path in ("/jobs", "/models/download", "/docs"):
        assert service.client.request(method, path).status_code < 500


def test_nothing_was_stored_by_any_of_it_outside(service: Web) -> None:
    below = {path.name for path in service.models_dir.parent.iterdir()}
    assert below == {service.models_dir.name}
    assert not list(service.models_dir.parent.rglob("*pwned*"))


def escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")
