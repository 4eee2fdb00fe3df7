"""Logging in with a browser: the form, the cookie, what it opens, and how it ends."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from api.sessions import LASTS_S, Sessions
from common.access import Caller, Way, make_key
from common.seals import Seal
from common.store.apikeys import ApiKeyStore
from common.store.database import Database
from common.vocabulary import Role
from tests.keyholders import ADMIN, ADMIN_KEY, ASKING, bearer, key_of, logged_in, made
from tests.web import Web, web

HEARD_WITHIN_S = 4.0
OWN = {"Sec-Fetch-Site": "same-origin"}
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Origin": "http://elsewhere.example"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("web"), **ASKING) as service:
        yield service


@pytest.fixture
def site(running: Web) -> Web:
    """A browser that has not been here yet."""
    running.client.cookies.clear()
    return running


# Before


@pytest.mark.parametrize(
    ("path", "login"),
    [
        ("/", "/ui/login"),
        ("/ui/jobs", "/ui/login?next=/ui/jobs"),
        ("/ui/jobs?status=failed&name=a%20b", "/ui/login?next=/ui/jobs%3Fstatus%3Dfailed%26name%3Da%2520b"),
        ("/ui/webhooks", "/ui/login?next=/ui/webhooks"),
    ],
)
def test_a_page_without_a_session_leads_to_the_form(site: Web, path: str, login: str) -> None:
    answer = site.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, login)
    form = site.get(login)
    assert form.status_code == 200
    assert 'type="password"' in form.text
    assert "Log out" not in form.text


def test_a_form_without_a_session_leads_there_too_and_does_nothing(site: Web) -> None:
    answer = site.post("/ui/limits", data={"scope": "service", "speed": "1"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert site.get("/limits", headers=ADMIN).json()["limits"] == []


def test_a_part_of_a_page_sends_the_whole_page_there(site: Web) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/ui/jobs?status=failed"}
    answer = site.get("/ui/jobs/list", headers=headers)
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["hx-redirect"] == "/ui/login?next=/ui/jobs%3Fstatus%3Dfailed"


def test_what_the_form_needs_is_there_for_everybody(site: Web) -> None:
    for file in ("dashboard/app.css", "dashboard/app.js", "docs.js"):
        assert site.get(f"/static/{file}").status_code == 200


# The form


@pytest.mark.parametrize(
    "key", ["", " ", "wrong", "mf_000000000000_" + "a" * 43, ADMIN_KEY[:-1], "\x00", "é" * 20, "a" * 5000]
)
def test_a_wrong_key_is_told_and_makes_no_session(site: Web, key: str) -> None:
    answer = site.post("/ui/login", data={"key": key, "next": "/ui/models"}, headers=OWN)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert 'value="/ui/models"' in answer.text
    assert "set-cookie" not in answer.headers
    if len(key) > 2:
        assert key not in answer.text


def test_a_revoked_key_logs_nobody_in(site: Web) -> None:
    key = made(site)
    site.delete(f"/keys/{key['id']}", headers=ADMIN)
    assert site.post("/ui/login", data={"key": key["key"]}).status_code == 401


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_of_use_to_nobody_else(site: Web, scheme: str) -> None:
    key = key_of(site)
    answer = site.post(f"{scheme}://127.0.0.1/ui/login", data={"key": key}, headers=OWN)
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert cookie.key == "modelferry_session"
    assert (cookie["path"], cookie["max-age"], cookie["domain"]) == ("/", str(LASTS_S), "")
    assert (bool(cookie["httponly"]), cookie["samesite"].lower()) == (True, "strict")
    assert bool(cookie["secure"]) == (scheme == "https")
    assert key[16:] not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/ui/models?name=a", "/ui/models?name=a"),
        ("", "/"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example", "/"),
        ("/ui/\r\nSet-Cookie: a=b", "/"),
        ("/ui/login?next=/ui/login", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_after_logging_in_one_is_where_one_wanted_to_be(site: Web, wanted: str, path: str) -> None:
    key = key_of(site)
    answer = site.post("/ui/login", data={"key": key, "next": wanted}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    again = site.get("/ui/login", params={"next": wanted})
    assert (again.status_code, again.headers["location"]) == (303, path), "who is in already needs no form"


def test_a_form_of_another_site_logs_nobody_in(site: Web) -> None:
    answer = site.post("/ui/login", data={"key": key_of(site)}, headers=FOREIGN)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_where_nobody_is_asked_there_is_nothing_to_log_in_to(tmp_path: Path) -> None:
    with web(tmp_path) as service:
        assert service.get("/ui/login").headers["location"] == "/"
        assert "Log out" not in service.get("/").text
        assert service.get("/ui/new").status_code == 200


# In it


def test_a_session_opens_pages_and_what_their_scripts_call(site: Web) -> None:
    logged_in(site, key_of(site, "viewer", "Anna"))
    page = site.get("/ui/jobs")
    assert page.status_code == 200
    assert all(words in page.text for words in ("Anna", "viewer", "Log out"))
    assert site.get("/jobs").status_code == 200
    assert site.get("/jobs/none/events").status_code == 404
    assert site.get("/whoami").json()["way"] == "session"


def test_the_admin_of_the_settings_logs_in_too(site: Web) -> None:
    logged_in(site, ADMIN_KEY)
    assert site.get("/whoami").json() == {"name": "admin", "way": "session", "role": "admin"}
    assert site.get("/ui/webhooks").status_code == 200


def test_what_a_role_does_not_suffice_for_is_not_shown_and_is_refused_clearly(site: Web) -> None:
    logged_in(site, key_of(site, "viewer", "Vera"))
    (job_id,) = site.post(
        "/models/download", params={"download_path": "x"}, headers=ADMIN,
        json={"models": [{"name": "org/seen", "hub": "huggingface"}]},
    ).json()["job_ids"]  # fmt: skip
    for path in ("/", "/ui/jobs", f"/ui/jobs/{job_id}", "/ui/models", "/ui/gates", "/ui/limits"):
        page = site.get(path)
        assert page.status_code == 200
        forms = [line for line in page.text.splitlines() if 'method="post"' in line]
        assert [line for line in forms if "/ui/logout" not in line] == [], path
        assert 'href="/ui/new"' not in page.text, path
        assert 'href="/ui/webhooks"' not in page.text, path
    for method, path in (("GET", "/ui/new"), ("POST", f"/ui/jobs/{job_id}/cancel"), ("GET", "/ui/webhooks")):
        refused = site.client.request(method, path, headers=OWN, follow_redirects=False)
        assert refused.status_code == 403
        assert "needs the role" in refused.text
        assert "Vera" in refused.text
    logged_in(site, key_of(site, "operator", "Otto"))
    assert f"/ui/jobs/{job_id}/cancel" in site.get(f"/ui/jobs/{job_id}").text
    assert site.post(f"/ui/jobs/{job_id}/cancel", headers=OWN).status_code == 303
    assert site.get(f"/jobs/{job_id}").json()["status"] == "canceled"


@pytest.mark.parametrize("headers", [FOREIGN, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://elsewhere.example"}])
def test_no_other_site_can_use_a_session(site: Web, headers: dict[str, str]) -> None:
    logged_in(site, key_of(site, "admin"))
    limit = {"json": {"bytes_per_s": 5}}
    for answer in (
        site.put("/limits/service/*", headers=headers, **limit),
        site.post("/ui/limits", data={"scope": "service", "speed": "1"}, headers=headers),
        site.delete("/jobs/none", headers=headers),
    ):
        assert answer.status_code in {303, 401, 403}
        assert answer.headers.get("location", "/ui/login") == "/ui/login"
    assert site.get("/limits", headers=ADMIN).json()["limits"] == []
    site.put("/limits/service/*", headers=OWN, **limit)
    assert len(site.get("/limits").json()["limits"]) == 1
    site.delete("/limits/service/*", headers=OWN)


def test_a_session_that_is_over_keeps_no_key_from_being_used(site: Web) -> None:
    headers = bearer(key_of(site, "viewer")) | {"Cookie": "modelferry_session=gone"}
    assert site.get("/jobs", headers=headers).status_code == 200


# Its end


def test_logging_out_ends_it(site: Web) -> None:
    logged_in(site, key_of(site))
    assert site.post("/ui/logout", headers=FOREIGN).status_code == 403
    assert site.get("/ui/jobs").status_code == 200
    answer = site.post("/ui/logout", headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert not site.client.cookies.get("modelferry_session")
    assert site.get("/ui/jobs").status_code == 303
    assert site.post("/ui/logout", headers=OWN).status_code == 303, "again does no harm"


@pytest.mark.parametrize("how", ["revoked", "rotated"])
def test_it_ends_with_its_key_within_seconds(site: Web, how: str) -> None:
    key = made(site)
    logged_in(site, key["key"])
    assert site.get("/jobs").status_code == 200
    if how == "revoked":
        site.delete(f"/keys/{key['id']}", headers=ADMIN)
    else:
        site.post(f"/keys/{key['id']}/rotate", headers=ADMIN, json={"former_lasts_hours": 0})
    ended = time.monotonic()
    while site.get("/jobs").status_code == 200:
        assert time.monotonic() - ended < HEARD_WITHIN_S
        time.sleep(0.1)
    assert site.get("/ui/jobs").status_code == 303


def test_it_lasts_through_a_rotation_with_grace(site: Web) -> None:
    key = made(site)
    cookie = logged_in(site, key["key"])
    site.post(f"/keys/{key['id']}/rotate", headers=ADMIN, json={"former_lasts_hours": 1})
    assert site.get("/jobs").status_code == 200
    assert site.get("/jobs", headers=bearer(cookie)).status_code == 401, "a cookie is no key"


def test_any_replica_knows_it_and_no_other_service_does(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with web(tmp_path / "one", **ASKING) as first:
        cookie = logged_in(first, key_of(first))
        with web(tmp_path / "one", **ASKING) as second:
            assert second.get("/jobs", headers={"Cookie": f"modelferry_session={cookie}"}).status_code == 200
    with web(tmp_path / "two", **ASKING) as other:
        assert other.get("/jobs", headers={"Cookie": f"modelferry_session={cookie}"}).status_code == 401


def test_it_ends_by_itself(database: Database, tmp_path: Path) -> None:
    store, seal = ApiKeyStore(database), Seal(None, tmp_path)
    fresh = make_key()
    store.add(fresh.id, fresh.digest, name="a", role=Role.VIEWER, tenant="t", lasts_s=None)
    at = [datetime(2026, 1, 1, tzinfo=UTC)]
    sessions = Sessions(seal, store, None, lambda: at[0])
    cookie = sessions.begun(Caller(name="a", way=Way.KEY, role=Role.VIEWER, key_id=fresh.id), fresh.text)
    at[0] += timedelta(seconds=LASTS_S - 1)
    known = sessions.caller(cookie)
    assert known is not None
    assert (known.name, known.way, known.role, known.tenant, known.key_id) == ("a", "session", "viewer", "t", fresh.id)
    at[0] += timedelta(seconds=2)
    assert sessions.caller(cookie) is None


def test_a_cookie_that_was_changed_is_none(database: Database, tmp_path: Path) -> None:
    store, seal = ApiKeyStore(database), Seal(None, tmp_path)
    fresh = make_key()
    store.add(fresh.id, fresh.digest, name="a", role=Role.VIEWER, tenant=None, lasts_s=None)
    sessions = Sessions(seal, store, ADMIN_KEY)
    cookie = sessions.begun(Caller(name="a", way=Way.KEY, role=Role.VIEWER, key_id=fresh.id), fresh.text)
    assert sessions.caller(cookie) is not None
    for place in (0, 5, 20, len(cookie) // 2, len(cookie) - 4):
        other = "g" if cookie[place] != "g" else "A"
        assert sessions.caller(cookie[:place] + other + cookie[place + 1 :]) is None
    for text in ("", "A", "=", "a" * 5000, "é", "AgAA"):
        assert sessions.caller(text) is None


def test_the_settings_key_ends_sessions_when_it_changes(database: Database, tmp_path: Path) -> None:
    store, seal = ApiKeyStore(database), Seal(None, tmp_path)
    admin = Caller(name="admin", way=Way.SETTING, role=Role.ADMIN)
    cookie = Sessions(seal, store, ADMIN_KEY).begun(admin, ADMIN_KEY)
    assert Sessions(seal, store, ADMIN_KEY).caller(cookie) is not None
    assert Sessions(seal, store, f"{ADMIN_KEY}x").caller(cookie) is None
    assert Sessions(seal, store, None).caller(cookie) is None
