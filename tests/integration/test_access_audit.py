"""The audit trail: what is noted, what never is, that it cannot be rewritten, and how it is read."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from api.access import audit as trail_module
from api.access.audit import LEFT_OUT, REFUSALS_PER_MINUTE
from api.app import create_app
from api.cli.program import run
from api.client import Client
from common.access import Way, make_key
from common.settings import Settings
from common.store.audit import AuditEntry, AuditFilter, AuditRecord, AuditStore
from common.store.database import Database
from common.store.retention import Retention
from common.vocabulary import Role
from migrations.command import upgrade
from tests.keyholders import ADMIN_KEY, bearer
from tests.live import serving
from tests.web import NOBODY, Web, web

A_MODEL = {"name": "org/model", "hub": "huggingface"}
ADMIN = bearer(ADMIN_KEY)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path, access="required", admin_key=ADMIN_KEY) as running:
        yield running


def store_of(service: Web) -> AuditStore:
    return AuditStore(Database(f"sqlite:///{service.models_dir / '.modelferry' / 'state' / 'modelferry.db'}"))


def noted(service: Web, **wanted: Any) -> list[AuditRecord]:
    """Oldest first."""
    return store_of(service).page(AuditFilter(**wanted), before=None, limit=1000).records[::-1]


def operations(service: Web) -> list[tuple[str, int]]:
    return [(record.operation, record.status) for record in noted(service)]


def key_of(service: Web, name: str, role: str) -> dict[str, str]:
    answer = service.post("/keys", json={"name": name, "role": role}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    return bearer(answer.json()["key"])


def entry(**more: Any) -> AuditEntry:
    said: dict[str, Any] = {
        "caller": "ann", "way": Way.KEY, "role": Role.OPERATOR, "address": "10.0.0.1", "operation": "download_models",
        "target": "/models/download", "status": 200, "code": None, "request_id": "r-1", **more,
    }  # fmt: skip
    return AuditEntry(**said)


class TestWhatIsNoted:
    def test_changes_with_how_they_end(self, service: Web) -> None:
        ann = key_of(service, "ann", "operator")
        asked = {"headers": {**ann, "X-Request-Id": "my-request"}, "params": {"download_path": "x"}}
        assert service.post("/models/download", json={"models": [A_MODEL]}, **asked).status_code == 200
        assert service.post("/api/v1/models/download", json={"models": "x"}, **asked).status_code == 422
        assert service.delete("/gates/none", headers=ann).status_code == 404
        assert service.get("/jobs", headers=ann).status_code == 200
        made, submitted, faulty, removed = noted(service)
        assert (made.caller, made.way, made.role) == ("admin", Way.SETTING, Role.ADMIN)
        assert (made.operation, made.target, made.status) == ("add_key", "/keys", 201)
        assert (submitted.caller, submitted.way, submitted.role) == ("ann", Way.KEY, Role.OPERATOR)
        assert (submitted.operation, submitted.target) == ("download_models", "/models/download")
        assert (submitted.status, submitted.code, submitted.address) == (200, None, "testclient")
        assert abs((submitted.at - datetime.now(UTC)).total_seconds()) < 30
        assert faulty.target == "/api/v1/models/download"
        assert faulty.status == 422
        assert (removed.operation, removed.status, removed.code) == ("remove_gate", 404, "no_such_gate")

    def test_a_row_is_there_when_the_answer_is(self, service: Web) -> None:
        for number in range(5):
            service.put(f"/gates/g{number}", json={"models": []}, headers=ADMIN)
            assert noted(service)[-1].target == f"/gates/g{number}"

    def test_refusals_of_whoever_is_known(self, service: Web) -> None:
        ann = key_of(service, "ann", "viewer")
        assert service.get("/keys", headers=ann).status_code == 403
        assert service.get("/webhooks", headers=ann).status_code == 403
        refused = [(one.caller, one.operation, one.status, one.code) for one in noted(service)][1:]
        assert refused == [("ann", "list_keys", 403, "forbidden"), ("ann", "list_webhooks", 403, "forbidden")]

    def test_refusals_of_nobody_and_of_those_in_a_hurry(self, tmp_path: Path) -> None:
        with web(tmp_path, access="required", admin_key=ADMIN_KEY, rate_limit="1/day") as service:
            service.get("/jobs")
            service.get("/jobs", headers=bearer(make_key().text))
            service.get("/jobs", headers=ADMIN)
            service.get("/jobs", headers=ADMIN)
            refused = [(one.caller, one.way, one.status, one.code) for one in noted(service)]
        assert refused == [
            ("nobody", Way.NOBODY, 401, "unauthenticated"),
            ("nobody", Way.NOBODY, 401, "unauthenticated"),
            ("admin", Way.SETTING, 429, "too_many_requests"),
        ]

    def test_looking_at_keys_and_at_the_trail(self, service: Web) -> None:
        for path in ("/keys", "/audit", "/ui/audit"):
            assert service.get(path, headers=ADMIN).status_code == 200
        assert operations(service) == [("list_keys", 200), ("list_audit", 200), ("audit_trail_page", 200)]

    def test_logging_in_is_noted_by_name(self, service: Web) -> None:
        form = {"headers": {"Sec-Fetch-Site": "same-origin"}}
        assert service.post("/ui/login", data={"key": ADMIN_KEY}, **form).status_code == 303
        assert service.post("/ui/login", data={"key": make_key().text}, **form).status_code == 401
        good, bad = noted(service)
        assert (good.caller, good.operation, good.status) == ("admin", "log_in", 303)
        assert (bad.operation, bad.status) == ("log_in", 401)

    def test_where_nobody_is_asked_changes_are_noted_too(self, tmp_path: Path) -> None:
        with web(tmp_path) as service:
            service.submitted(A_MODEL)
            (one,) = noted(service)
        assert (one.caller, one.way, one.operation) == ("anybody", Way.OPEN, "download_models")

    def test_what_agents_do_is_noted_by_what_it_is(self, tmp_path: Path) -> None:
        call = {"name": "download_model", "arguments": {"hub": "huggingface", "name": "org/model"}}
        with web(tmp_path) as service:
            tools = service.post("/mcp", json=_rpc("tools/list", {}), headers=MCP).json()["result"]["tools"]
            assert call["name"] in {tool["name"] for tool in tools}, [tool["name"] for tool in tools]
            service.post("/mcp", json=_rpc("tools/call", call), headers=MCP)
            assert operations(service) == [("download_models", 200)]

    def test_no_secret_no_query_and_no_body(self, service: Web) -> None:
        ann, guess = key_of(service, "ann", "operator"), make_key().text
        service.post("/models/download", params={"download_path": "q-secret"}, headers=ann, json={
            "models": [{**A_MODEL, "override_credentials": {"HF_TOKEN": "Ym9keS1zZWNyZXQ="}}]
        })  # fmt: skip
        service.delete(f"/gates/{ann['Authorization'].split()[1]}", headers=ann)
        service.delete(f"/gates/{guess}", headers=bearer(guess))
        service.delete("/gates/" + "x" * 5000 + "%0Aforged%00row", headers=ann)
        rows = json.dumps([str(record) for record in noted(service)])
        for secret in ("q-secret", "Ym9keS1zZWNyZXQ", ann["Authorization"].split("_")[2], guess.split("_", 2)[2]):
            assert secret not in rows
        assert max(len(record.target) for record in noted(service)) == 300
        assert len(noted(service)) == 5


class TestNoise:
    def test_refusals_do_not_fill_the_table(self, service: Web, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trail_module, "_MINUTE_S", 1.5)
        for _ in range(40):
            service.get("/jobs")
        assert operations(service) == [("list_jobs", 401)] * REFUSALS_PER_MINUTE
        service.put("/gates/g", json={"models": []}, headers=ADMIN)
        assert operations(service)[-1][0] == "put_gate", "others are not kept out by that"
        time.sleep(1.6)
        service.get("/health")
        told = noted(service)[-1]
        assert (told.operation, told.target, told.status) == (LEFT_OUT, f"{40 - REFUSALS_PER_MINUTE} more", 401)
        assert (told.caller, told.address) == ("nobody", "testclient")

    def test_what_was_left_out_is_told_at_the_end(self, tmp_path: Path) -> None:
        with web(tmp_path, access="required") as service:
            for _ in range(15):
                service.get("/jobs")
        assert [record.target for record in noted(service)][-1] == "5 more"

    def test_all_addresses_together_have_an_end_too(self) -> None:
        noise = trail_module._Noise()
        passed = 0
        for number in range(5000):
            refused = entry(way=Way.NOBODY, address=f"10.{number // 250}.{number % 250}.1", status=401)
            passed += noise.may_pass(refused)
        assert passed <= 610
        told = noise.told(at_once=True)
        assert len(told) <= 601
        assert sum(int(one.target.split()[0]) for one in told) == 5000 - passed


class TestTheDatabaseAway:
    def test_what_is_owed_is_written_later(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trail_module, "_TRY_AGAIN_S", 0.2)
        with web(tmp_path) as service:
            path = service.models_dir / ".modelferry" / "state" / "modelferry.db"
            with sa.create_engine(f"sqlite:///{path}").connect() as connection:
                connection.exec_driver_sql("ALTER TABLE audit RENAME TO audit_away")
                connection.commit()
                assert service.put("/gates/g", json={"models": [A_MODEL]}).status_code == 201
                assert "audit.owed" in caplog.messages
                connection.exec_driver_sql("ALTER TABLE audit_away RENAME TO audit")
                connection.commit()
            time.sleep(0.3)
            service.get("/health")
            (one,) = noted(service)
        assert (one.operation, one.status) == ("put_gate", 201)
        assert (datetime.now(UTC) - one.at).total_seconds() > 0.2, "it has the time at which it happened"

    def test_many_at_once_share_transactions(self, tmp_path: Path) -> None:
        with web(tmp_path) as service:
            threads = [
                threading.Thread(target=lambda n=n: service.put(f"/gates/g{n}", json={"models": []})) for n in range(12)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(record.target for record in noted(service)) == sorted(f"/gates/g{n}" for n in range(12))


class TestAppendOnly:
    def test_the_database_refuses_to_change_a_row(self, database: Database) -> None:
        store = AuditStore(database)
        store.add([(entry(), 0.0), (entry(caller="bob"), 29 * 86400.0)])
        for statement in (
            "UPDATE audit SET caller = 'somebody else'",
            "UPDATE audit SET at = 0",
            "DELETE FROM audit",
            "DELETE FROM audit WHERE caller = 'bob'",
        ):
            with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
                connection.exec_driver_sql(statement)
        if not database.is_sqlite:
            with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
                connection.exec_driver_sql("TRUNCATE audit")
        assert {record.caller for record in store.page(AuditFilter(), before=None, limit=10).records} == {"ann", "bob"}

    def test_old_rows_are_forgotten_after_their_time(self, database: Database) -> None:
        store = AuditStore(database)
        store.add([(entry(caller=f"{days}"), days * 86400.0) for days in (400, 366, 364, 31, 0)])
        Retention(database, keep_days=0, keep_jobs=0).prune()
        assert len(store.page(AuditFilter(), before=None, limit=10).records) == 5
        Retention(database, keep_days=0, keep_jobs=0, keep_audit_days=365).prune()
        assert [one.caller for one in store.page(AuditFilter(), before=None, limit=10).records] == ["0", "31", "364"]
        Retention(database, keep_days=0, keep_jobs=0, keep_audit_days=30).prune()
        assert [one.caller for one in store.page(AuditFilter(), before=None, limit=10).records] == ["0"]


class TestReading:
    @pytest.fixture
    def filled(self, service: Web) -> Web:
        store_of(service).add([
            (entry(caller=("ann", "bob")[number % 2], operation=("put_gate", "remove_gate")[number % 3 == 0],
                   status=(200, 404, 503)[number % 3], code=(None, "no_such_gate", None)[number % 3],
                   request_id=f"r-{number}"), float(3600 * (30 - number)))
            for number in range(30)
        ])  # fmt: skip
        return service

    def read(self, service: Web, **query: str) -> list[str]:
        answer = service.get("/audit", params=query, headers=ADMIN)
        assert answer.status_code == 200, answer.text
        return [one["request_id"] for one in answer.json()["entries"] if one["request_id"].startswith("r-")]

    def test_newest_first_page_by_page(self, filled: Web) -> None:
        seen, path = [], "/audit?limit=7"
        for _ in range(10):
            answer = filled.get(path, headers=ADMIN)
            seen += [one["request_id"] for one in answer.json()["entries"] if one["request_id"].startswith("r-")]
            if "link" not in answer.headers:
                break
            link = answer.headers["link"]
            assert link.endswith('; rel="next"')
            assert answer.json()["next_cursor"] in link
            path = link.split(">")[0].removeprefix("<")
        assert seen == [f"r-{number}" for number in range(29, -1, -1)]

    def test_filters(self, filled: Web) -> None:
        assert self.read(filled, caller="bob") == [f"r-{number}" for number in range(29, 0, -2)]
        assert self.read(filled, operation="remove_gate") == [f"r-{number}" for number in range(27, -1, -3)]
        assert self.read(filled, status="5xx") == [f"r-{number}" for number in range(29, 0, -3)]
        assert self.read(filled, status="4xx", caller="ann") == [f"r-{n}" for n in range(28, 0, -6)]
        middle = datetime.now(UTC) - timedelta(hours=14.5)
        assert self.read(filled, since=middle.isoformat()) == [f"r-{number}" for number in range(29, 15, -1)]
        assert self.read(filled, until=middle.isoformat(), limit="3") == ["r-15", "r-14", "r-13"]
        assert self.read(filled, caller="nobody else") == []

    def test_queries_that_cannot_be_read(self, service: Web) -> None:
        for query in (
            "limit=0", "limit=1001", "cursor=x", "cursor=WzEsMl0", "cursor=Wy0xXQ", "since=yesterday",
            "since=2026-11-30T12:00", "status=200",
        ):  # fmt: skip
            assert service.get(f"/audit?{query}", headers=ADMIN).status_code == 422, query

    def test_it_is_for_admins(self, service: Web) -> None:
        for role in ("viewer", "operator"):
            headers = key_of(service, role, role)
            assert service.get("/audit", headers=headers).status_code == 403
            assert service.get("/ui/audit", headers=headers).status_code == 403
        assert service.get("/audit").status_code == 401

    def test_a_page_shows_it(self, filled: Web) -> None:
        page = filled.get("/ui/audit", params={"caller": "bob", "status": "4xx"}, headers=ADMIN)
        assert page.status_code == 200
        assert "r-25" in page.text
        assert "r-28" not in page.text
        assert "no_such_gate" in page.text
        assert 'value="bob"' in page.text
        refused = filled.get("/ui/audit", params={"since": "yesterday"}, headers=ADMIN)
        assert "since:" in refused.text
        begun = filled.get("/ui/audit", params={"since": "2026-01-01T00:00"}, headers=ADMIN)
        assert "r-29" in begun.text
        assert '<a href="/ui/audit" aria-current="page">' in begun.text

    def test_the_page_goes_back_in_time(self, service: Web) -> None:
        store_of(service).add([(entry(request_id=f"r-{number}"), 0.0) for number in range(60)])
        first = service.get("/ui/audit", headers=ADMIN).text
        assert "r-59" in first
        assert "r-9<" not in first
        (older,) = [part.split('"')[0] for part in first.split('href="') if "cursor=" in part.split('"')[0]]
        assert "r-9<" in service.get(older.replace("&amp;", "&"), headers=ADMIN).text

    def test_the_client_and_the_command_read_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = f"sqlite:///{tmp_path / 'jobs.db'}"
        upgrade(url)
        database = Database(url)
        AuditStore(database).add([(entry(request_id=f"r-{n}", caller="ab"[n % 2]), 3600.0 * (5 - n)) for n in range(5)])
        database.dispose()
        settings = Settings(
            models_dir=tmp_path, database_url=url, redis_url=NOBODY, access="required", admin_key=ADMIN_KEY
        )
        with serving(create_app(settings)) as address:
            monkeypatch.setenv("MODELFERRY_URL", address)
            monkeypatch.setenv("MODELFERRY_API_KEY", ADMIN_KEY)
            with Client() as client:
                page = client.audit(limit=2, operation="download_models")
                assert [one.request_id for one in page.entries] == ["r-4", "r-3"]
                rest = client.audit(str(page.next_cursor), operation="download_models")
                assert [one.request_id for one in rest.entries] == ["r-2", "r-1", "r-0"]
            assert run(["audit", "--caller", "a", "--since", "3h30m", "-q"]) == 0
            assert capsys.readouterr().out.split() == ["r-4", "r-2"]
            assert run(["audit", "--operation", "download_models", "--status", "2xx", "--until", "90m"]) == 0
            table = capsys.readouterr().out
            assert table.splitlines()[0].split() == [
                "AT", "CALLER", "ROLE", "ADDRESS", "OPERATION", "TARGET", "STATUS",
            ]  # fmt: skip
            assert len(table.splitlines()) == 5
            assert run(["audit", "--caller", "b", "--format", "json"]) == 0
            shown = json.loads(capsys.readouterr().out)
            assert [one["request_id"] for one in shown["entries"]] == ["r-3", "r-1"]
            assert run(["audit", "--since", "yesterday"]) == 2
            monkeypatch.setenv("MODELFERRY_API_KEY", "")
            assert run(["audit"]) == 4

    def test_what_others_have_sent_is_shown_as_text(self, service: Web) -> None:
        service.delete("/gates/<img src=x onerror=alert(1)>", headers=ADMIN)
        page = service.get("/ui/audit", headers=ADMIN).text
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img src=x" not in page


MCP = {"Accept": "application/json, text/event-stream"}


def _rpc(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
