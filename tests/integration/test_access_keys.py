"""API keys: what each role may do, how keys begin and end, and where they are never seen."""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute

from api.access.needs import COMPATIBLE, PUBLIC
from api.app import create_app
from api.keys import Made
from common.access import ApiKey, make_key, parts_of
from common.errors import KeysFull, NoSuchKey
from common.log import redact
from common.settings import Settings
from common.store import apikeys
from common.store.apikeys import ApiKeyStore
from common.store.database import Database
from common.vocabulary import Role
from migrations.command import upgrade
from tests.keyholders import ADMIN, ADMIN_KEY, ASKING, bearer, key_of, made
from tests.web import NOBODY, Web, web

HEARD_WITHIN_S = 4.0
"""A key that was revoked lets nobody in for longer, at no replica."""

ROLES = ("nobody", "viewer", "operator", "admin")

NEEDED = {
    "anybody": """
        health ready openapi_document docs_page get_handler head_handler login_page log_in log_out
    """,
    "viewer": """
        list_hub_models list_model_jobs list_results list_models get_model list_jobs get_job list_attempts get_provenance
        watch_job watch_all read_log get_gate list_gates list_limits get_overview list_workers list_plugins who_am_i mcp
        overview_page strip glance jobs_page jobs_list job_page job_state codes_page models_page model_page gates_page
        gate_detail_page plugins_page workers_page limits_page
        _handler handle_schema_path_not_found metrics
    """,
    "operator": """
        download_models plan_models upload_model remove_model verify_model cancel_job retry_job delete_job put_gate
        remove_gate
        new_page plan start cancel retry forget verify_from_page confirm_removal_page remove_from_page
        put_gate_from_page remove_gate_from_page
    """,
    "admin": """
        put_limit remove_limit list_webhooks add_webhook get_webhook change_webhook remove_webhook rotate_webhook
        test_webhook list_deliveries redeliver list_keys add_key get_key rotate_key revoke_key list_audit audit_trail_page
        webhooks_page add_webhook_from_page webhook_page_of_one test_webhook_from_page switch_webhook_from_page
        rotate_webhook_from_page remove_webhook_from_page redeliver_from_page put_limit_from_page
        remove_limit_from_page
    """,
}
"""Who may do what. Whoever adds a route says it here, after a thought."""


def parts(key: str) -> tuple[str, str]:
    """The id and the secret of a key."""
    found = parts_of(key)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web"), **ASKING) as running:
        yield running


@pytest.fixture(scope="module")
def holders(service: Web) -> dict[str, dict[str, str]]:
    """What callers of each role send."""
    return {"nobody": {}} | {role: bearer(key_of(service, role, f"the {role}")) for role in ROLES[1:]}


def operations(service: Web) -> Iterator[tuple[str, str, str]]:
    """Operation, method and path of every route."""
    for route in service.client.app.routes:
        if route.path.startswith("/api/v1"):
            continue
        if not isinstance(route, HTTPRoute):
            yield route.route_handler.handler_name, "POST", route.path_format
            continue
        for handler in route.route_handlers:
            for method in sorted(handler.http_methods - {"OPTIONS"}):
                yield handler.handler_name, method, route.path_format


# What each role may do


def test_every_operation_says_whom_it_is_for(service: Web) -> None:
    known = {operation: role for role, names in NEEDED.items() for operation in names.split()}
    found = {operation for operation, _, _ in operations(service)}
    assert found - known.keys() == set(), "say in NEEDED who may do that, and in api/access/needs.py"
    assert known.keys() - found == set(), "these are gone"


def test_every_operation_lets_in_those_who_may_and_nobody_else(
    service: Web, holders: dict[str, dict[str, str]]
) -> None:
    """A request that is let in may well be refused for what it says: it is empty. Only 401 and 403 are the door's."""
    known = {operation: role for role, names in NEEDED.items() for operation in names.split()}
    wrong = []
    for operation, method, path in operations(service):
        if operation in {"watch_job", "watch_all"}:
            continue  # They do not end.
        asked = path.replace("{file_path}", "docs.js")
        for holder in ROLES:
            service.client.cookies.clear()
            page = path == "/" or path.startswith("/ui/")
            answer = service.client.request(method, _filled(asked), headers=holders[holder], follow_redirects=False)
            # A page sends those who have not said who they are to where they can.
            refused = answer.status_code in {401, 403} or (
                page and answer.status_code == 303 and answer.headers["location"].startswith("/ui/login")
            )
            if operation in {"log_in", "log_out", "login_page"}:
                continue
            least = known[operation]
            may = least == "anybody" or ROLES.index(holder) >= ROLES.index(least)
            if may == refused:
                wrong.append(f"{method} {path} ({operation}) for {holder}: {answer.status_code}")
    assert wrong == []


def _filled(path: str) -> str:
    """A path with names in the places of its parameters."""
    return "/".join("hub" if step.startswith("{") else step for step in path.split("/"))


def test_streams_need_a_viewer(service: Web, holders: dict[str, dict[str, str]]) -> None:
    for path in ("/events", "/jobs/none/events"):
        assert service.get(path).status_code == 401
    assert service.get("/jobs/none/events", headers=holders["viewer"]).status_code == 404


def test_both_forms_of_an_address_are_guarded(service: Web, holders: dict[str, dict[str, str]]) -> None:
    for prefix in ("", "/api/v1"):
        assert service.get(f"{prefix}/jobs").status_code == 401
        assert service.get(f"{prefix}/jobs/").status_code == 307, "to where it is asked again"
        assert service.get(f"{prefix}/jobs", headers=holders["viewer"]).status_code == 200
        assert service.post(f"{prefix}/jobs/x/cancel", headers=holders["viewer"]).status_code == 403
        assert service.get(f"{prefix}/health").status_code == 200


def test_a_refusal_says_what_is_missing(service: Web, holders: dict[str, dict[str, str]]) -> None:
    unknown = service.get("/jobs")
    assert unknown.headers["www-authenticate"] == 'Bearer realm="modelferry"'
    assert unknown.headers["x-error-code"] == "unauthenticated"
    refused = service.get("/keys", headers=holders["operator"])
    assert refused.headers["x-error-code"] == "forbidden"
    assert refused.json()["detail"] == "This needs the role 'admin'; 'the operator' has 'operator'."


def test_whoami(service: Web) -> None:
    assert service.get("/whoami", headers=ADMIN).json() == {"name": "admin", "way": "setting", "role": "admin"}
    key = made(service, "operator", "Anna's laptop", tenant="anna")
    assert service.get("/whoami", headers={"X-API-Key": key["key"]}).json() == {
        "name": "Anna's laptop",
        "way": "key",
        "role": "operator",
        "tenant": "anna",
        "key_id": key["id"],
    }
    assert service.get("/whoami").status_code == 401


def test_nobody_is_asked_where_access_is_off(tmp_path: Path) -> None:
    with web(tmp_path) as open_to_all:
        assert open_to_all.get("/whoami").json() == {"name": "anybody", "way": "open", "role": "admin"}
        assert open_to_all.get("/whoami", headers=bearer("whatever")).status_code == 200
        assert open_to_all.post("/keys", json={"name": "a", "role": "viewer"}).status_code == 201


def test_clients_without_keys_use_the_routes_of_intels_service_from_open_networks(tmp_path: Path) -> None:
    settings = Settings(
        models_dir=tmp_path, redis_url=NOBODY, access="required", admin_key=ADMIN_KEY, open_networks="10.0.0.0/8,::1"
    )
    upgrade(settings.store_url)

    async def statuses(address: str, **headers: str) -> list[int]:
        transport = httpx.ASGITransport(create_app(settings), client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            return [(await client.get(path)).status_code for path in ("/jobs", "/api/v1/plugins", "/whoami", "/keys")]

    for inside in ("10.1.2.3", "::1"):
        assert asyncio.run(statuses(inside)) == [200, 200, 401, 401]
    assert asyncio.run(statuses("11.1.2.3")) == [401, 401, 401, 401]
    assert asyncio.run(statuses("10.1.2.3", Authorization="Bearer wrong")) == [401, 401, 401, 401], (
        "a wrong key is none"
    )
    assert not COMPATIBLE & PUBLIC


# How keys begin and end


def test_a_key_is_shown_once(service: Web) -> None:
    answer = service.post("/keys", headers=ADMIN, json={"name": "ci", "role": "operator", "expires_in_days": 30})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    key = answer.json()
    assert parts_of(key["key"]) is not None
    assert answer.headers["location"] == f"/keys/{key['id']}"
    again = service.get(answer.headers["location"], headers=ADMIN).json()
    assert again == {name: value for name, value in key.items() if name != "key"}
    listed = service.get("/keys", headers=ADMIN).json()["keys"]
    assert again in listed
    assert not any("key" in one for one in listed)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"name": "", "role": "viewer"},
        {"name": " a", "role": "viewer"},
        {"name": "a\nb", "role": "viewer"},
        {"name": "a" * 65, "role": "viewer"},
        {"name": "a", "role": "root"},
        {"name": "a", "role": "viewer", "tenant": "a b"},
        {"name": "a", "role": "viewer", "tenant": ""},
        {"name": "a", "role": "viewer", "expires_in_days": 0},
        {"name": "a", "role": "viewer", "expires_in_days": 4000},
        {"name": "a", "role": "viewer", "digest": "x"},
    ],
)
def test_what_makes_no_key(service: Web, body: dict[str, Any]) -> None:
    before = len(service.get("/keys", headers=ADMIN).json()["keys"])
    answer = service.post("/keys", headers=ADMIN, json=body)
    assert answer.status_code == 422, answer.text
    assert len(service.get("/keys", headers=ADMIN).json()["keys"]) == before


def test_a_revocation_is_heard_within_seconds(service: Web) -> None:
    key = made(service)
    headers = bearer(key["key"])
    assert service.get("/jobs", headers=headers).status_code == 200
    assert service.delete(f"/keys/{key['id']}", headers=ADMIN).status_code == 204
    revoked = time.monotonic()
    while service.get("/jobs", headers=headers).status_code == 200:
        assert time.monotonic() - revoked < HEARD_WITHIN_S
        time.sleep(0.1)
    seen = service.get(f"/keys/{key['id']}", headers=ADMIN).json()
    assert seen["revoked_at"]
    assert service.delete(f"/keys/{key['id']}", headers=ADMIN).status_code == 204
    assert service.get(f"/keys/{key['id']}", headers=ADMIN).json()["revoked_at"] == seen["revoked_at"], "the first time"
    assert service.post(f"/keys/{key['id']}/rotate", headers=ADMIN).status_code == 404


def test_the_former_secret_lets_in_for_as_long_as_was_said(service: Web) -> None:
    key = made(service)
    renewed = service.post(f"/keys/{key['id']}/rotate", headers=ADMIN, json={"former_lasts_hours": 1})
    assert renewed.headers["cache-control"] == "no-store"
    second = renewed.json()
    assert (second["id"], second["key"] != key["key"], "former_until" in second) == (key["id"], True, True)
    assert service.get("/whoami", headers=bearer(key["key"])).status_code == 200
    assert service.get("/whoami", headers=bearer(second["key"])).status_code == 200
    third = service.post(f"/keys/{key['id']}/rotate", headers=ADMIN, json={"former_lasts_hours": 0}).json()
    assert service.get("/whoami", headers=bearer(third["key"])).status_code == 200
    rotated = time.monotonic()
    # Both of the former ones were let in a moment ago.
    for former in (key["key"], second["key"]):
        while service.get("/whoami", headers=bearer(former)).status_code == 200:
            assert time.monotonic() - rotated < HEARD_WITHIN_S
            time.sleep(0.1)


def test_a_rotation_says_how_long_by_itself(service: Web) -> None:
    key = made(service)
    for body in (None, {}):
        answer = service.post(f"/keys/{key['id']}/rotate", headers=ADMIN, **({} if body is None else {"json": body}))
        assert answer.status_code == 200, answer.text
    assert service.post(f"/keys/{key['id']}/rotate", headers=ADMIN, json={"former_lasts_hours": -1}).status_code == 422


def test_a_key_expires(database: Database) -> None:
    store = ApiKeyStore(database)
    fresh = make_key()
    secret = parts(fresh.text)[1]
    store.add(fresh.id, fresh.digest, name="brief", role=Role.VIEWER, tenant=None, lasts_s=0.4)
    assert store.holder(fresh.id, secret) is not None
    assert store.count() == 1
    time.sleep(0.5)
    assert store.holder(fresh.id, secret) is None
    assert store.count() == 0
    with pytest.raises(NoSuchKey):
        store.rotate(fresh.id, make_key(fresh.id).digest, 60)


def test_a_store_of_keys(database: Database) -> None:
    """On both databases: the secret, the former one, and neither without its time."""
    store = ApiKeyStore(database)
    first = make_key()
    assert store.holder(first.id, "a" * 43) is None
    store.add(first.id, first.digest, name="a", role=Role.ADMIN, tenant="t", lasts_s=None)
    secret = parts(first.text)[1]
    held = store.holder(first.id, secret)
    assert held is not None
    assert (held.name, held.role, held.tenant) == ("a", "admin", "t")
    assert store.holder(first.id, "a" * 43) is None
    second = make_key(first.id)
    store.rotate(first.id, second.digest, 0.4)
    assert store.holder(first.id, secret) is not None
    time.sleep(0.5)
    assert store.holder(first.id, secret) is None
    assert store.holder(first.id, parts(second.text)[1]) is not None
    assert store.key(first.id).used_at is not None
    store.revoke(first.id)
    assert store.holder(first.id, parts(second.text)[1]) is None
    for unknown in ("nobody", ""):
        with pytest.raises(NoSuchKey):
            store.revoke(unknown)


def test_there_are_not_more_keys_than_there_may_be(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "MOST_KEYS", 2)
    store = ApiKeyStore(database)
    keys = [make_key() for _ in range(3)]
    for key in keys[:2]:
        store.add(key.id, key.digest, name="a", role=Role.VIEWER, tenant=None, lasts_s=None)
    with pytest.raises(KeysFull):
        store.add(keys[2].id, keys[2].digest, name="a", role=Role.VIEWER, tenant=None, lasts_s=None)
    store.revoke(keys[0].id)
    store.add(keys[2].id, keys[2].digest, name="a", role=Role.VIEWER, tenant=None, lasts_s=None)


def test_a_key_of_another_service_lets_nobody_in(service: Web, tmp_path: Path) -> None:
    with web(tmp_path, **ASKING) as other:
        theirs = made(other, "admin")["key"]
        assert other.get("/jobs", headers=bearer(theirs)).status_code == 200
        assert service.get("/jobs", headers=bearer(theirs)).status_code == 401
    under_our_id = theirs.replace(parts(theirs)[0], made(service, "admin")["id"])
    assert service.get("/jobs", headers=bearer(under_our_id)).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {ADMIN_KEY}x"},
        {"Authorization": f"Bearer {ADMIN_KEY[:-1]}"},
        {"Authorization": "Bearer mf_000000000000_" + "a" * 43},
        {"X-API-Key": "mf_"},
        {"Cookie": "modelferry_session=" + "A" * 80},
        {"Cookie": "modelferry_session=%00"},
    ],
)
def test_what_is_no_key(service: Web, headers: dict[str, str]) -> None:
    service.client.cookies.clear()
    assert service.get("/jobs", headers=headers).status_code == 401


# On whose turn


def test_a_key_that_is_bound_to_a_tenant_asks_as_that_one(service: Web) -> None:
    bound = bearer(key_of(service, "operator", tenant="anna"))
    free = bearer(key_of(service, "operator"))
    for sent, named, tenant in ((bound, "berta", "anna"), (bound, None, "anna"), (free, "berta", "berta")):
        headers = sent | ({"Modelferry-Tenant": named} if named else {})
        answer = service.post(
            "/models/download", params={"download_path": "x"}, headers=headers,
            json={"models": [{"name": "org/model", "hub": "huggingface"}]},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        job = service.get(f"/jobs/{answer.json()['job_ids'][0]}", headers=sent).json()
        assert job["tenant"] == tenant
        gate = service.put(
            f"/gates/of-{tenant}-{named}".lower(), headers=headers,
            json={"models": [{"name": f"org/{tenant}-{named}", "hub": "huggingface"}]},
        )  # fmt: skip
        assert gate.status_code in {200, 201}, gate.text
        job_id = gate.json()["models"][0]["job_id"]
        assert service.get(f"/jobs/{job_id}", headers=sent).json()["tenant"] == tenant


# Where keys are never seen


def test_a_key_is_in_no_file_and_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), web(tmp_path, **ASKING) as service:
        key = made(service, "admin", "planted")["key"]
        secret = parts(key)[1]
        renewed = service.post(f"/keys/{parts(key)[0]}/rotate", headers=bearer(key)).json()["key"]
        service.get("/jobs", headers=bearer(key))
        service.get("/nowhere", headers=bearer(key))
        service.post("/ui/login", data={"key": key})
        cookie = service.client.cookies["modelferry_session"]
        documents = service.get("/openapi.json").text
    planted = [secret, parts(renewed)[1], cookie]
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for text in planted:
        assert text.encode() not in held
        assert text not in caplog.text
        assert text not in documents
    assert "mf_" not in json.dumps(json.loads(documents)["paths"])
    database = sqlite3.connect(next(tmp_path.rglob("modelferry.db")))
    assert database.execute("select count(*) from api_keys").fetchone() == (1,)
    database.close()


def test_a_key_is_blotted_out() -> None:
    fresh = make_key()
    assert fresh.text not in redact(f"it said {fresh.text}, and went")
    assert "cookie-value" not in redact("Cookie: modelferry_session=cookie-value-of-somebody")
    assert fresh.text not in repr(fresh)
    shown = ApiKey(id=fresh.id, name="a", role=Role.VIEWER, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert fresh.text not in repr(Made(shown, fresh.text))


def test_a_stream_ends_with_the_key_that_has_asked_for_it(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path, redis_url=NOBODY, access="required", admin_key=ADMIN_KEY)
    upgrade(settings.store_url)
    database = Database(settings.store_url)
    store, fresh = ApiKeyStore(database), make_key()
    store.add(fresh.id, fresh.digest, name="a", role=Role.VIEWER, tenant=None, lasts_s=None)

    async def streamed() -> list[Any]:
        told: asyncio.Queue[Any] = asyncio.Queue()
        never = asyncio.Event()

        async def receive() -> Any:
            await never.wait()

        scope = {
            "type": "http", "method": "GET", "path": "/events", "raw_path": b"/events", "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {fresh.text}".encode())],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1",
            "root_path": "", "extensions": {},
        }  # fmt: skip
        app = create_app(settings)
        asked = asyncio.create_task(app(scope, receive, told.put))  # type: ignore[arg-type]
        seen = [await asyncio.wait_for(told.get(), 10) for _ in range(2)]
        assert seen[0]["status"] == 200
        assert seen[1]["more_body"] is True
        await asyncio.sleep(4)
        assert not asked.done(), "it lasts for as long as the key does"
        await asyncio.to_thread(store.revoke, fresh.id)
        await asyncio.wait_for(asked, 10)
        while not told.empty():
            seen.append(told.get_nowait())
        return seen

    assert asyncio.run(streamed())[-1]["more_body"] is False
    database.dispose()
