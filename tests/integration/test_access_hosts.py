"""By which names the service may be called, which pages may have it do something, and who says where a client is."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.access.hosts import is_own_name, name_in
from api.embedded.redis_server import free_port
from migrations.command import upgrade
from tests.keyholders import ADMIN, ADMIN_KEY, ASKING, key_of, logged_in
from tests.web import NOBODY, Web, web

A_MODEL = {"name": "org/model", "hub": "huggingface"}
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """On this machine alone, where nobody is asked."""
    with web(tmp_path_factory.mktemp("local")) as running:
        yield running


class TestHosts:
    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8200", "127.0.0.1", "127.0.0.1:8200", "127.1.2.3", "[::1]", "[::1]:8200"]
    )
    def test_own_names(self, local: Web, host: str) -> None:
        assert local.get("/jobs", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example", "evil.example:8200", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "",
            "evil.example@localhost:x", "0.0.0.0", "[::2]", "[", "localhost:1@evil.example",
        ],
    )  # fmt: skip
    def test_other_names(self, local: Web, host: str) -> None:
        for path in ("/jobs", "/api/v1/jobs", "/ui/jobs", "/"):
            answer = local.get(path, headers={"Host": host})
            assert answer.status_code == 421, path
        assert local.get("/jobs", headers={"Host": host}).headers["x-error-code"] == "unknown_host"
        assert local.post("/mcp", json={}, headers={"Host": host}).status_code == 421

    def test_probes_may_use_any_name(self, local: Web) -> None:
        for path in ("/health", "/ready", "/openapi.json"):
            assert local.get(path, headers={"Host": "10.244.0.7:8000"}).status_code in {200, 503}

    def test_names_that_the_operator_allows(self, tmp_path: Path) -> None:
        with web(tmp_path, allowed_hosts="Models.example, other.example") as service:
            for host in ("models.example", "MODELS.example:8200", "models.example.", "other.example", "localhost"):
                assert service.get("/jobs", headers={"Host": host}).status_code == 200, host
            assert service.get("/jobs", headers={"Host": "models.example.evil.example"}).status_code == 421

    def test_they_hold_too_where_callers_are_asked(self, tmp_path: Path) -> None:
        with web(tmp_path, allowed_hosts="models.example", **ASKING) as service:
            assert service.get("/jobs", headers={"Host": "models.example", **ADMIN}).status_code == 200
            assert service.get("/jobs", headers={"Host": "evil.example", **ADMIN}).status_code == 421

    def test_where_callers_are_asked_any_name_will_do(self, tmp_path: Path) -> None:
        with web(tmp_path, **ASKING) as service:
            assert service.get("/jobs", headers={"Host": "models.example", **ADMIN}).status_code == 200

    def test_where_all_may_come_any_name_will_do(self, tmp_path: Path) -> None:
        with web(tmp_path, access="off", host="0.0.0.0") as service:
            assert service.get("/jobs", headers={"Host": "models.example"}).status_code == 200

    def test_names(self) -> None:
        assert [name_in(host) for host in ("A.b:1", "[::1]:2", "a.", "", "[x", "a:b:c")] == [
            "a.b", "::1", "a", "", "", "",
        ]  # fmt: skip
        assert not is_own_name("")


class TestPages:
    @pytest.mark.parametrize(
        "page",
        [{"Origin": EVIL}, {"Origin": "null"}, {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
         {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site"}],
        ids=str,
    )  # fmt: skip
    def test_another_page_changes_nothing(self, local: Web, page: dict[str, str]) -> None:
        (job,) = local.submitted(A_MODEL)
        for answer in (
            local.post(f"/jobs/{job}/cancel", headers=page),
            local.post("/models/upload", files={"file": b"x"}, data={"model_name": "m"}, headers=page),
            local.post("/models/download", params={"download_path": "x"}, json={"models": [A_MODEL]}, headers=page),
        ):
            assert (answer.status_code, answer.headers["x-error-code"]) == (403, "forbidden")
            assert "access-control-allow-origin" not in answer.headers
        assert local.job(job)["status"] == "queued"

    @pytest.mark.parametrize("page", [{}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "same-origin"},
                                      {"Sec-Fetch-Site": "none"}], ids=str)  # fmt: skip
    def test_our_own_pages_and_programs_do(self, local: Web, page: dict[str, str]) -> None:
        (job,) = local.submitted(A_MODEL)
        assert local.post(f"/jobs/{job}/cancel", headers=page).status_code == 200

    @pytest.mark.parametrize("origins", ["*", f"http://a.example, {EVIL}"])
    def test_pages_that_the_operator_lets_call(self, tmp_path: Path, origins: str) -> None:
        page = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}
        with web(tmp_path, cors_allow_origins=origins) as service:
            (job,) = service.submitted(A_MODEL)
            answer = service.post(f"/jobs/{job}/cancel", headers=page)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] in {"*", EVIL}


class TestSessions:
    """A browser sends the cookie by itself, to a page of another port of this machine too: that is the same site."""

    SAME_SITE = {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}

    @pytest.mark.parametrize("origins", ["", "*"])
    def test_no_other_origin_acts_or_reads_with_a_session(self, tmp_path: Path, origins: str) -> None:
        with web(tmp_path, cors_allow_origins=origins, **ASKING) as service:
            logged_in(service, key_of(service, "operator"))
            assert service.get("/jobs").status_code == 200, "our own page"
            assert service.get("/jobs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
            answer = service.get("/jobs", headers=self.SAME_SITE)
            assert answer.status_code == 401
            assert "jobs" not in answer.json()
            body: dict[str, Any] = {"params": {"download_path": "x"}, "json": {"models": [A_MODEL]}}
            acted = service.post("/models/download", headers=self.SAME_SITE, **body)
            assert acted.status_code == (401 if origins else 403)
            with_a_key = service.get("/jobs", headers={**self.SAME_SITE, **ADMIN})
            assert with_a_key.status_code == 200, "a key is sent by nobody but who has it"
            service.client.cookies.clear()
            assert service.get("/jobs", headers=ADMIN).json()["jobs"] == []

    def test_the_cookie_goes_to_no_other_site(self, tmp_path: Path) -> None:
        with web(tmp_path, **ASKING) as service:
            answer = service.post("/ui/login", data={"key": ADMIN_KEY})
        cookie = answer.headers["set-cookie"].lower()
        assert "samesite=strict" in cookie
        assert "httponly" in cookie


@contextmanager
def process(folder: Path, **variables: str) -> Iterator[str]:
    """`python -m api.asgi` on a socket: its address."""
    port = free_port()
    url = f"sqlite:///{folder / 'jobs.db'}"
    own = {
        "MODELS_DIR": str(folder), "DATABASE_URL": url, "REDIS_URL": NOBODY, "HOST": "127.0.0.1", "PORT": str(port),
        "MODELFERRY_ACCESS": "required", "MODELFERRY_OPEN_NETWORKS": "10.0.0.0/8", **variables,
    }  # fmt: skip
    environment = {**os.environ, **own}
    upgrade(url)
    with subprocess.Popen([sys.executable, "-m", "api.asgi"], env=environment) as running:
        try:
            deadline = time.monotonic() + 60
            while True:
                assert time.monotonic() < deadline
                assert running.poll() is None
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False)
                except httpx.HTTPError:
                    time.sleep(0.05)
                else:
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()


def ask(address: str, **headers: str) -> int:
    return httpx.get(f"{address}/jobs", headers=headers, timeout=20, trust_env=False).status_code


class TestProxies:
    def test_a_client_cannot_say_where_it_is(self, tmp_path: Path) -> None:
        with process(tmp_path, FORWARDED_ALLOW_IPS="*") as address:
            assert ask(address) == 401
            assert ask(address, **{"X-Forwarded-For": "10.1.2.3"}) == 401
            assert ask(address, **{"X-Real-IP": "10.1.2.3", "Forwarded": "for=10.1.2.3"}) == 401

    def test_a_proxy_that_the_operator_trusts_can(self, tmp_path: Path) -> None:
        with process(tmp_path, MODELFERRY_TRUSTED_PROXIES="127.0.0.1, 192.168.7.0/24") as address:
            assert ask(address) == 401
            assert ask(address, **{"X-Forwarded-For": "10.1.2.3"}) == 200
            assert ask(address, **{"X-Forwarded-For": "8.8.8.8"}) == 401
            lied = {"X-Forwarded-For": "10.1.2.3, 8.8.8.8"}
            assert ask(address, **lied) == 401, "what the client has said itself stands before what the proxy adds"
            assert ask(address, **{"X-Forwarded-For": "10.1.2.3, 192.168.7.9"}) == 200, "two proxies in a row"
