"""Limits, tenants and priorities over HTTP."""

from datetime import datetime
from typing import Any

import pytest

from common.store.database import Database
from common.store.limits import LimitStore
from common.vocabulary import Pool
from tests.web import OWNER, Web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}


def test_limits_are_set_changed_and_taken_away(service: Web) -> None:
    assert service.get("/limits").json() == {"limits": [], "hubs": []}
    answer = service.put("/limits/hub/huggingface", json={"max_running": 2, "bytes_per_s": 10**12})
    assert answer.status_code == 200
    assert answer.json() == {"scope": "hub", "name": "huggingface", "max_running": 2, "bytes_per_s": 10**12}
    changed = service.put("/api/v1/limits/hub/huggingface", json={"max_running": 1}).json()
    assert changed == {"scope": "hub", "name": "huggingface", "max_running": 1, "bytes_per_s": None}
    assert service.get("/api/v1/limits").json()["limits"] == [changed]
    gone = service.delete("/limits/hub/huggingface")
    assert (gone.status_code, gone.content) == (204, b"")
    assert service.delete("/limits/hub/huggingface").status_code == 404
    assert service.get("/limits").json()["limits"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("service/*", {"bytes_per_s": 1}),
        ("service/%2A", {"bytes_per_s": 2**63 - 1}),
        ("hub/huggingface", {"max_running": 1, "bytes_per_s": None}),
        ("tenant/a.b_c@d:e-f", {"max_running": 2**31 - 1}),
        ("tenant/::1", {"max_running": 3}),
        ("pool/convert", {"max_running": 1}),
        ("pool/download", {}),
    ],
)
def test_limits_that_can_be(quick: Web, path: str, body: dict[str, Any]) -> None:
    answer = quick.put(f"/limits/{path}", json=body)
    assert answer.status_code == 200, answer.text
    (shown,) = quick.get("/limits").json()["limits"]
    assert shown == answer.json() == {"max_running": None, "bytes_per_s": None, **body, **shown}
    assert quick.delete(f"/limits/{path}").status_code == 204


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("galaxy/x", {"max_running": 1}, "service, hub, tenant, pool"),
        ("service/x", {"bytes_per_s": 1}, "Use *"),
        ("service/*", {"max_running": 1}, "limit its pools"),
        ("hub/nope", {"max_running": 1}, "huggingface"),
        ("hub/openvino", {"max_running": 1}, "huggingface"),
        ("tenant/a%20b", {"max_running": 1}, "letters"),
        ("tenant/" + "x" * 65, {"max_running": 1}, "letters"),
        ("tenant/anna", {"bytes_per_s": 1}, "limit a hub"),
        ("pool/convert", {"bytes_per_s": 1}, "limit a hub"),
        ("pool/upload", {"max_running": 1}, "convert, download"),
        ("pool/%00", {"max_running": 1}, "convert, download"),
    ],
)
def test_limits_that_cannot_be(quick: Web, path: str, body: dict[str, Any], says: str) -> None:
    answer = quick.put(f"/limits/{path}", json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (400, True), answer.text
    assert quick.delete(f"/limits/{path}").status_code == 404
    assert quick.get("/limits").json()["limits"] == []


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        ({"max_running": 0}, "greater_than", ["body", "max_running"]),
        ({"max_running": -1}, "greater_than", ["body", "max_running"]),
        ({"max_running": 2**31}, "less_than", ["body", "max_running"]),
        ({"max_running": "2"}, "int_type", ["body", "max_running"]),
        ({"max_running": True}, "int_type", ["body", "max_running"]),
        ({"bytes_per_s": 1.5}, "int_type", ["body", "bytes_per_s"]),
        ({"bytes_per_s": 2**63}, "value_error", ["body"]),
        ({"max_runing": 2}, "extra_forbidden", ["body", "max_runing"]),
        ([], "model_attributes_type", ["body"]),
    ],
)
def test_bodies_that_cannot_be(quick: Web, body: Any, kind: str, loc: list[str]) -> None:
    answer = quick.put("/limits/hub/huggingface", json=body)
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"]) == (kind, loc)


def test_a_limit_holds_at_once(service: Web) -> None:
    service.submitted(A_MODEL, {**A_MODEL, "name": "org/other"})
    service.put("/limits/hub/huggingface", json={"max_running": 1})
    service.claim()
    assert service.stages.claim(Pool.DOWNLOAD, OWNER) is None
    (hub,) = service.get("/limits").json()["hubs"]
    assert hub == {"name": "huggingface", "running": 1}
    service.delete("/limits/hub/huggingface")
    service.claim()


def test_a_hub_that_has_told_us_to_wait_says_so(service: Web, database: Database) -> None:
    LimitStore(database).close_hub("huggingface", 60.0, "rate_limited")
    (hub,) = service.get("/limits").json()["hubs"]
    assert (hub["running"], hub["reason"]) == (0, "rate_limited")
    assert datetime.fromisoformat(hub["resumes_at"]).tzinfo is not None


def test_a_job_shows_who_asked_and_how_urgently(quick: Web) -> None:
    bare = quick.job(quick.submitted(A_MODEL)[0])
    assert (bare["tenant"], bare["priority"]) == ("testclient", "normal")
    body = {"models": [{**A_MODEL, "priority": "high"}, {**A_MODEL, "name": "org/other", "priority": "low"}]}
    answer = quick.post("/models/download?download_path=x", json=body, headers={"Modelferry-Tenant": "team:a@b"})
    jobs = [quick.job(job_id) for job_id in answer.json()["job_ids"]]
    assert [(job["tenant"], job["priority"]) for job in jobs] == [("team:a@b", "high"), ("team:a@b", "low")]


@pytest.mark.parametrize("tenant", ["", " ", "a b", "x" * 65, "a/b", "ä".encode("latin-1")])
@pytest.mark.parametrize("path", ["/models/download?download_path=x", "/jobs/none/retry"])
def test_a_tenant_that_cannot_be_is_refused(quick: Web, path: str, tenant: Any) -> None:
    answer = quick.post(path, json={"models": [A_MODEL]}, headers={"Modelferry-Tenant": tenant})
    assert answer.status_code == 400
    assert "Modelferry-Tenant must be" in answer.json()["detail"]
    assert quick.get("/jobs").json() == {"jobs": []}


def test_a_priority_that_cannot_be_is_refused(quick: Web) -> None:
    answer = quick.submit({**A_MODEL, "priority": "HIGH"})
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert (fault["type"], fault["loc"]) == ("enum", ["body", "models", 0, "priority"])


def test_the_urgent_one_goes_first(service: Web) -> None:
    low, normal, high = service.submitted(
        *({**A_MODEL, "name": f"org/{priority}", "priority": priority} for priority in ("low", "normal", "high"))
    )
    assert [service.claim().job_ids for _ in range(3)] == [(high,), (normal,), (low,)]


def test_one_job_of_another_tenant_need_not_wait_for_a_hundred(service: Web) -> None:
    for number in range(10):
        service.submitted({**A_MODEL, "name": f"org/m{number}"})
    answer = service.post(
        "/models/download?download_path=x",
        json={"models": [{**A_MODEL, "name": "org/single"}]},
        headers={"Modelferry-Tenant": "anna"},
    )
    (single,) = answer.json()["job_ids"]
    assert (single,) in [service.claim().job_ids for _ in range(2)]
