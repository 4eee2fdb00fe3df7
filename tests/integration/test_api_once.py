"""Idempotency-Key: a request that is sent again starts nothing anew, and gets the first answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from api.routes.asking import fingerprint
from common.outcome import Failed
from common.store.database import Database
from common.store.jobs import JobStore
from tests.web import Web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
REPLAYED = "idempotent-replayed"


def asked(
    service: Web, *models: Any, key: str = "k1", path: str = "x", prefix: str = "", **headers: str
) -> httpx.Response:
    return service.post(
        f"{prefix}/models/download",
        params={"download_path": path},
        json={"models": list(models or (A_MODEL,))},
        headers={"Idempotency-Key": key, **headers},
    )


def count(service: Web) -> int:
    return len(service.get("/jobs").json()["jobs"])


def test_the_same_request_gets_the_first_answer_again(service: Web) -> None:
    other = {**A_MODEL, "name": "org/other"}
    first = asked(service, A_MODEL, other)
    assert (first.status_code, REPLAYED in first.headers) == (200, False)
    assert len(first.json()["job_ids"]) == 2
    for prefix in ("", "/api/v1", ""):
        again = asked(service, A_MODEL, other, prefix=prefix)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers[REPLAYED] == "true"
    assert count(service) == 2


def test_what_counts_of_a_body_is_its_value(quick: Web) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    bodies = [
        b'{"models": [{"name": "org/model", "hub": "huggingface"}]}',
        b' {"models":[{"hub":"huggingface",\n"name":"org\\/model"}]}',
    ]
    answers = [quick.post("/models/download?download_path=x", content=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert count(quick) == 1


def test_a_quoted_key_is_the_same_as_a_bare_one(quick: Web) -> None:
    first = asked(quick, key="8e03978e-40d5-43dd-bc93-6894a57f9324")
    again = asked(quick, key='"8e03978e-40d5-43dd-bc93-6894a57f9324"')
    assert again.content == first.content
    assert asked(quick, key=r'"a\"b\\c"').content == asked(quick, key=r'a"b\c').content
    assert count(quick) == 2


@pytest.mark.parametrize(
    "key", ["", '""', '"', '"a', 'a"b"c' * 60, "k" * 256, '"a"b"', r'"a\b"', "k\tk", "schlüssel".encode("latin-1")]
)
def test_a_key_that_cannot_be_is_refused(quick: Web, key: Any) -> None:
    answer = asked(quick, key=key)
    assert answer.status_code == 400
    assert "Idempotency-Key must be" in answer.json()["detail"]
    assert count(quick) == 0


@pytest.mark.parametrize(
    "change", [{"path": "y"}, {"models": [{**A_MODEL, "revision": "v2"}]}, {"models": [A_MODEL, A_MODEL]}]
)
def test_another_request_under_the_key_is_refused(quick: Web, change: dict[str, Any]) -> None:
    asked(quick)
    answer = asked(quick, *change.get("models", [A_MODEL]), path=change.get("path", "x"))
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"]) == ("idempotency_key_reused", ["header", "idempotency-key"])
    assert set(fault) == {"type", "loc", "msg"}
    assert count(quick) == 1


def test_keys_belong_to_a_tenant(service: Web) -> None:
    first = asked(service, **{"Modelferry-Tenant": "anna"})
    other = asked(service, **{"Modelferry-Tenant": "bert"})
    assert first.json()["job_ids"] != other.json()["job_ids"]
    assert REPLAYED not in other.headers
    assert asked(service, **{"Modelferry-Tenant": "anna"}).content == first.content


def test_no_models_are_an_answer_too(service: Web) -> None:
    body: dict[str, Any] = {"json": {"models": []}, "headers": {"Idempotency-Key": "none"}}
    answers = [service.post("/models/download?download_path=x", **body) for _ in range(2)]
    assert [answer.json()["job_ids"] for answer in answers] == [[], []]
    assert REPLAYED in answers[1].headers


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        ({"models": [{**A_MODEL, "hub": "geti"}]}, 400),
        ({"models": [{**A_MODEL, "name": "../x"}]}, 400),
        ({"path": "../x"}, 400),
        ({"models": [{"hub": "huggingface"}]}, 422),
    ],
)
def test_a_refused_request_frees_its_key(service: Web, refused: dict[str, Any], status: int) -> None:
    assert asked(service, *refused.get("models", [A_MODEL]), path=refused.get("path", "x")).status_code == status
    answer = asked(service)
    assert (answer.status_code, REPLAYED in answer.headers) == (200, False)
    assert count(service) == 1


def test_while_the_first_request_is_not_answered_the_others_wait(service: Web, database: Database) -> None:
    store = JobStore(database)
    body = msgspec.json.encode({"models": [A_MODEL]})
    held = store.reserve("", "busy", fingerprint("submit", "x", body))
    assert not isinstance(held, list)
    waiting = asked(service, key="busy")
    assert (waiting.status_code, int(waiting.headers["retry-after"]) > 0) == (409, True)
    assert asked(service, key="busy", path="y").status_code == 422
    assert count(service) == 0
    store.abandon(held)
    assert asked(service, key="busy").status_code == 200


def test_of_many_requests_at_one_time_one_is_carried_out(service: Web) -> None:
    together = threading.Barrier(8)

    def ask(_: int) -> httpx.Response:
        together.wait()
        return asked(service, key="race")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert int(answer.headers["retry-after"]) > 0
    assert asked(service, key="race").headers[REPLAYED] == "true"
    assert count(service) == 1


def test_a_retry_is_carried_out_once_too(service: Web) -> None:
    (job_id, other_id) = service.submitted(A_MODEL, {**A_MODEL, "name": "org/other"})
    for _ in range(2):
        service.settle(Failed(code="x", detail="y", hint="z"))
    headers = {"Idempotency-Key": "again"}
    first = service.post(f"/jobs/{job_id}/retry", headers=headers)
    again = service.post(f"/api/v1/jobs/{job_id}/retry", headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert (again.json(), again.headers[REPLAYED]) == (first.json(), "true")
    assert again.headers["location"] == f"/api/v1{first.headers['location']}"
    assert count(service) == 3
    assert service.post(f"/jobs/{other_id}/retry", headers=headers).status_code == 422
    assert asked(service, key="again").status_code == 422


def test_a_refused_retry_frees_its_key(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL)
    headers = {"Idempotency-Key": "early"}
    assert service.post(f"/jobs/{job_id}/retry", headers=headers).status_code == 409
    service.settle(Failed(code="x", detail="y", hint="z"))
    assert service.post(f"/jobs/{job_id}/retry", headers=headers).status_code == 202
