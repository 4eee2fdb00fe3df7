"""How often callers may ask: together at all replicas, alone without Redis, and how slow guessing a key is."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from api.access.rate import Counts, OwnCounts, Rate, home_of
from api.embedded.redis_server import answers, find_redis_server, free_port, redis_command, redis_url
from common.access import make_key
from common.store.apikeys import ApiKeyStore
from common.store.database import Database
from common.vocabulary import Role
from tests.web import Web, web

CONNECTIONS = 32
"""So many ask Redis at a time."""
LOOKS = 5
"""How often it may have been looked, beside the requests, whether Redis is back: once a second."""

_ENOUGH = 41
"""So many guesses are too many, also where a minute ends meanwhile."""
ADMIN_KEY = "an-admin-key-of-at-least-32-characters"


@contextmanager
def redis_at(port: int, folder: Path) -> Iterator[None]:
    server = find_redis_server({"PATH": "/usr/bin:/bin"})
    assert server is not None
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(redis_command(server, port, folder)) as process:
        try:
            until = time.monotonic() + 10
            while not answers(port):
                assert time.monotonic() < until
                time.sleep(0.02)
            yield
        finally:
            process.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    with redis_at(port, tmp_path / "redis"):
        yield redis_url(port)


def _silent_server() -> socket.socket:
    """Takes connections, and never says a word."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def _tries(silent: socket.socket) -> int:
    """How many connections were made to it."""
    silent.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            silent.accept()[0].close()
            count += 1
    return count


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def a_key(service: Web, name: str = "ci", role: Role = Role.VIEWER) -> dict[str, str]:
    key = make_key()
    database = Database(f"sqlite:///{service.models_dir / '.modelferry' / 'state' / 'modelferry.db'}")
    ApiKeyStore(database).add(key.id, key.digest, name=name, role=role, tenant=None, lasts_s=None)
    database.dispose()
    return bearer(key.text)


class TestTheRate:
    def test_who_asks_too_often_is_told_when_to_come_back(self, tmp_path: Path) -> None:
        with web(tmp_path, rate_limit="3/day") as service:
            answers = [service.get("/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
        assert {answer.headers["ratelimit-limit"] for answer in answers} == {"3"}
        refused = answers[-1]
        assert refused.headers["x-error-code"] == "too_many_requests"
        assert 0 < int(refused.headers["retry-after"]) <= 86400
        assert refused.headers["ratelimit-reset"] == refused.headers["retry-after"]
        assert "More than 3 requests" in refused.json()["detail"]

    def test_probes_gates_and_the_description_are_not_counted(self, tmp_path: Path) -> None:
        with web(tmp_path, rate_limit="1/day") as service:
            for path in ("/health", "/ready", "/gates/chat", "/openapi.json", "/docs") * 2:
                answer = service.get(path)
                assert answer.status_code != 429
                assert "ratelimit-limit" not in answer.headers
            assert service.get("/jobs").status_code == 200
            assert service.get("/api/v1/jobs").status_code == 429

    def test_without_a_rate_nothing_is_counted(self, tmp_path: Path) -> None:
        with web(tmp_path) as service:
            assert "ratelimit-limit" not in service.get("/jobs").headers

    def test_each_caller_has_a_count_of_its_own(self, tmp_path: Path) -> None:
        with web(tmp_path, access="required", admin_key=ADMIN_KEY, rate_limit="2/day") as service:
            first, second = a_key(service, "ci"), a_key(service, "ci")
            assert [service.get("/jobs", headers=first).status_code for _ in range(3)] == [200, 200, 429]
            assert [service.get("/jobs", headers=second).status_code for _ in range(3)] == [200, 200, 429]
            admin = [service.get("/jobs", headers=bearer(ADMIN_KEY)).status_code for _ in range(3)]
            assert admin == [200, 200, 429]
            assert service.get("/jobs").status_code == 401

    def test_a_page_is_refused_as_a_page(self, tmp_path: Path) -> None:
        with web(tmp_path, rate_limit="1/day") as service:
            service.get("/ui/jobs")
            refused = service.get("/ui/jobs")
        assert refused.status_code == 429
        assert "text/html" in refused.headers["content-type"]

    def test_what_agents_ask_counts_once(self, tmp_path: Path) -> None:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_plugins", "arguments": {}}}
        with web(tmp_path, rate_limit="100/day") as service:
            headers = {"Accept": "application/json, text/event-stream"}
            answer = service.post("/mcp", json=call, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.headers["ratelimit-remaining"] == "99"
            assert service.get("/jobs").headers["ratelimit-remaining"] == "98"


class TestTogether:
    def test_two_replicas_share_one_count(self, tmp_path: Path, redis: str) -> None:
        with ExitStack() as stack:
            replicas = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                replicas.append(stack.enter_context(web(tmp_path / name, rate_limit="6/day", redis_url=redis)))
            answers = [replicas[number % 2].get("/jobs") for number in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
        assert [int(answer.headers["ratelimit-remaining"]) for answer in answers[:6]] == [5, 4, 3, 2, 1, 0]

    def test_a_redis_that_goes_and_comes_back(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", logger="api.access.rate")
        port = free_port()
        with web(tmp_path, rate_limit="1000/day", redis_url=redis_url(port)) as service:
            with redis_at(port, tmp_path / "redis"):
                assert service.get("/jobs").headers["ratelimit-remaining"] == "999"
                assert service.get("/jobs").headers["ratelimit-remaining"] == "998"
            began = time.monotonic()
            left = [int(service.get("/jobs").headers["ratelimit-remaining"]) for _ in range(20)]
            assert left == list(range(999, 979, -1)), "alone, this process begins to count anew"
            assert time.monotonic() - began < 2
            with redis_at(port, tmp_path / "redis"):
                until = time.monotonic() + 10
                while "rate.counted_together" not in caplog.messages:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                assert service.get("/jobs").status_code == 200
        assert caplog.messages.count("rate.counted_alone") == 1

    def test_nobody_waits_for_a_redis_that_does_not_answer(self) -> None:
        with _silent_server() as silent:
            url = redis_url(silent.getsockname()[1])

            async def asking() -> float:
                counts = Counts(url)
                began = time.monotonic()
                await counts.standing("a", Rate(10, 60))
                took = time.monotonic() - began
                for _ in range(19):
                    await counts.standing("a", Rate(10, 60))
                await asyncio.gather(*(counts.standing("b", Rate(10, 60)) for _ in range(200)))
                await counts.close()
                return took

            assert asyncio.run(asking()) >= 0.2, "the first one has tried"
            assert _tries(silent) <= 1 + LOOKS, "and after it nobody has"

    def test_many_who_come_first_wait_once(self) -> None:
        with _silent_server() as silent:
            url = redis_url(silent.getsockname()[1])

            async def asking() -> None:
                counts = Counts(url)
                await asyncio.gather(*(counts.standing("a", Rate(10, 60)) for _ in range(500)))
                await counts.close()

            asyncio.run(asking())
            assert 1 <= _tries(silent) <= CONNECTIONS + LOOKS

    def test_a_redis_that_answers_costs_little(self, redis: str) -> None:
        async def asking() -> float:
            counts = Counts(redis)
            await counts.standing("a", Rate(10**9, 86400))
            began = time.perf_counter()
            for _ in range(300):
                await counts.standing("a", Rate(10**9, 86400))
            each = (time.perf_counter() - began) / 300
            standing = await counts.standing("a", Rate(10**9, 86400))
            assert standing.asked == 302
            await counts.close()
            return each

        assert asyncio.run(asking()) < 0.005


class TestGuessing:
    def test_guesses_are_slow(self, tmp_path: Path) -> None:
        with web(tmp_path, access="required", admin_key=ADMIN_KEY) as service:
            known = a_key(service)
            assert service.get("/jobs", headers=known).status_code == 200
            tried = [service.get("/jobs", headers=bearer(make_key().text)) for _ in range(_ENOUGH)]
            assert {answer.status_code for answer in tried[:20]} == {401}
            refused = tried[-1]
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= 60
            right = service.get("/jobs", headers=bearer(ADMIN_KEY))
            assert right.status_code == 429, "also a right guess is not looked at"
            assert service.get("/jobs", headers=known).status_code == 200, "who was let in before stays"
            assert service.get("/jobs").status_code == 401

    def test_guesses_at_the_login_count_too(self, tmp_path: Path) -> None:
        with web(tmp_path, access="required", admin_key=ADMIN_KEY) as service:
            form = {"headers": {"Sec-Fetch-Site": "same-origin"}}
            tried = [service.post("/ui/login", data={"key": make_key().text}, **form) for _ in range(_ENOUGH)]
            assert {answer.status_code for answer in tried[:20]} == {401}
            assert tried[-1].status_code == 429
            assert service.post("/ui/login", data={"key": ADMIN_KEY}, **form).status_code == 429
            assert service.get("/jobs", headers=bearer(make_key().text)).status_code == 429

    def test_an_address_of_ipv6_is_its_network(self) -> None:
        assert home_of("2001:db8:1:2:3:4:5:6") == home_of("2001:db8:1:2::1") == "2001:db8:1:2::/64"
        assert home_of("2001:db8:1:3::1") != home_of("2001:db8:1:2::1")
        assert home_of("::ffff:10.0.0.1") == home_of("10.0.0.1") == "10.0.0.1"
        assert home_of("::1") == "::/64"
        assert home_of("") == ""
        assert home_of("no address") == "no address"


def test_own_counts_have_an_end() -> None:
    counts = OwnCounts()
    assert [counts.add("a", 60) for _ in range(3)] == [1, 2, 3]
    for number in range(60_000):
        counts.add(f"other {number}", 60)
    assert len(counts._counts) <= 50_001
