"""Keys in the hands of clients: the command line, the Python clients, and agents."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import httpx2
import pytest
from mcp import Client as Agent
from mcp import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from api.cli.program import run
from api.client import AsyncClient, Client, Refused, WantedModel
from api.client.http import options
from common.settings import SettingsError, client_key
from tests.integration.test_api_socket import process
from tests.keyholders import ADMIN_KEY

SOME = [WantedModel(name="org/model", hub="huggingface")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MODELFERRY_ACCESS", "required")
        environment.setenv("MODELFERRY_ADMIN_KEY", ADMIN_KEY)
        with process(tmp_path_factory.mktemp("models")) as address:
            yield address


@pytest.fixture(scope="module")
def keys(address: str) -> dict[str, str]:
    """A key of each role."""
    with Client(address, api_key=ADMIN_KEY) as client:
        return {role: str(client.add_key(f"a {role}", role).key) for role in ("viewer", "operator", "admin")}


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MODELFERRY_URL", address)
    for name in ("MODELFERRY_API_KEY", "MODELFERRY_API_KEY_FILE", "MODELFERRY_ACCESS", "MODELFERRY_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)


# The command line


class Done(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def done(*arguments: str) -> Done:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return done


def test_a_command_without_a_key_is_not_allowed_and_says_how_to_be(cli: Cli) -> None:
    code, out, err = cli("jobs", "ls")
    assert (code, out) == (4, "")
    assert "MODELFERRY_API_KEY" in err
    assert "--api-key-file" in err
    told = json.loads(cli("jobs", "ls", "--format", "json").err)
    assert (told["exit_code"], told["code"], told["status"]) == (4, "unauthenticated", 401)


def test_a_role_that_does_not_suffice_is_told(cli: Cli, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFERRY_API_KEY", keys["viewer"])
    assert cli("jobs", "ls").code == 0
    code, _, err = cli("keys", "ls")
    assert code == 4
    assert "admin" in err
    assert "modelferry whoami" in err
    assert keys["viewer"] not in err
    code, out, _ = cli("whoami")
    assert code == 0
    assert "viewer" in out
    assert cli("whoami", "-q").out == "a viewer\n"


def test_keys_from_the_first_to_the_last(cli: Cli, tmp_path: Path) -> None:
    admin = tmp_path / "admin.key"
    admin.write_text(f"{ADMIN_KEY}\n")
    asked = ("--api-key-file", str(admin))
    made = cli("keys", "add", "ci", "--role", "operator", "--tenant", "ci", "--days", "90", "-q", *asked)
    assert made.code == 0
    file = tmp_path / "ci.key"
    file.write_text(made.out)
    mine = ("--api-key-file", str(file))
    who = json.loads(cli("whoami", "--format", "json", *mine).out)
    assert (who["name"], who["role"], who["tenant"]) == ("ci", "operator", "ci")
    key_id = who["key_id"]
    listed = cli("keys", "ls", *asked).out
    assert key_id in listed
    assert "expires" in listed
    assert made.out.strip() not in listed
    renewed = cli("keys", "rotate", key_id, "--former-lasts", "0", *asked)
    assert renewed.code == 0
    assert "mf_" + key_id in renewed.out
    assert cli("keys", "revoke", key_id, *asked).code == 0
    assert key_id not in cli("keys", "ls", "-q", *asked).out
    assert cli("keys", "revoke", "nobody", *asked).code == 3
    assert cli("keys", "rotate", key_id, *asked).code == 3


def test_a_key_is_never_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    assert cli("jobs", "ls", "--api-key", ADMIN_KEY).code == 2
    assert cli("jobs", "ls", "--api-key-file", str(tmp_path / "missing")).code == 2
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert cli("jobs", "ls", "--api-key-file", str(empty)).code == 2
    broken = tmp_path / "broken"
    broken.write_text("planted-secret\nsecond line")
    code, _, err = cli("jobs", "ls", "--api-key-file", str(broken))
    assert code == 2
    assert "planted" not in err


def test_the_doctor_says_who_is_let_in(
    cli: Cli, tmp_path: Path, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))

    def verdicts() -> list[str]:
        found = json.loads(cli("doctor", "--format", "json").out)
        return [f"{one['verdict']} {one['text']}" for one in found if one["part"] == "access"]

    assert verdicts()[0].startswith("ok nobody is asked for a key")
    assert verdicts()[-1].startswith("warn The service lets in nobody without a key")
    monkeypatch.setenv("MODELFERRY_API_KEY", keys["viewer"])
    monkeypatch.setenv("MODELFERRY_ACCESS", "required")
    assert [line[:4] for line in verdicts()] == ["ok c", "fail"]
    monkeypatch.setenv("MODELFERRY_ADMIN_KEY", ADMIN_KEY)
    assert [line[:2] for line in verdicts()] == ["ok", "ok"]
    monkeypatch.setenv("MODELFERRY_ACCESS", "off")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert verdicts()[0].startswith("warn Nobody is asked for a key")


# The Python clients


def test_a_client_sends_the_key_that_it_is_given_or_finds(
    address: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Client(address, api_key=keys["operator"]) as client:
        assert client.whoami().role == "operator"
        (job_id,) = client.submit(SOME, "x").job_ids
        assert next(iter(client.events(job_id))) is not None
        client.cancel(job_id)
    with Client(address) as client, pytest.raises(Refused) as refused:
        client.whoami()
    assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
    monkeypatch.setenv("MODELFERRY_API_KEY", keys["viewer"])
    with Client(address) as client:
        assert client.whoami().role == "viewer"
        with pytest.raises(Refused) as refused:
            client.submit(SOME)
    assert refused.value.status == 403
    assert keys["viewer"] not in f"{refused.value!r} {client!r} {vars(client)}"
    with Client(address, api_key="") as client, pytest.raises(Refused):
        client.whoami()
    file = tmp_path / "key"
    file.write_text(keys["admin"])
    monkeypatch.setenv("MODELFERRY_API_KEY_FILE", str(file))
    with pytest.raises(SettingsError):
        Client(address)
    monkeypatch.delenv("MODELFERRY_API_KEY")
    with Client(address) as client:
        assert [key.name for key in client.keys().keys][:3] == ["a viewer", "a operator", "a admin"]

    async def awaited() -> str:
        async with AsyncClient(address, api_key=keys["operator"]) as client:
            return (await client.whoami()).name

    assert asyncio.run(awaited()) == "a operator"


def test_keys_by_the_client(address: str) -> None:
    with Client(address, api_key=ADMIN_KEY) as client:
        made = client.add_key("by the client", "viewer", tenant="t", expires_in_days=1)
        assert client.key(made.id).tenant == "t"
        renewed = client.rotate_key(made.id)
        assert renewed.key != made.key
        client.revoke_key(made.id)
        assert client.key(made.id).revoked_at
        with pytest.raises(Refused) as gone:
            client.rotate_key(made.id, former_lasts_hours=1)
    assert gone.value.code == "no_such_key"


@pytest.mark.parametrize("key", ["planted\nX: y", "plantéd", "planted key", "planted\x00"])
def test_what_can_be_no_key_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError) as error:
        Client("http://127.0.0.1:1", api_key=key)
    assert "plant" not in str(error.value)


def test_a_key_goes_before_what_an_address_says() -> None:
    assert options("http://user:password@127.0.0.1", 1, None, "abc")["auth"] is not None
    assert options("http://127.0.0.1", 1, None, "")["auth"] is None
    assert client_key({"MODELFERRY_API_KEY": " abc\n"}) == "abc"
    assert client_key({}) == ""


class Redirecting(BaseHTTPRequestHandler):
    """Sends on to wherever the server's `to` says, and notes what it was sent."""

    def do_GET(self) -> None:
        self.server.heard.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        to = self.server.to  # type: ignore[attr-defined]
        if to and self.path == "/whoami":
            self.send_response(307)
            self.send_header("Location", to)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"name": "a", "way": "key", "role": "viewer"}')

    def log_message(self, *_: object) -> None:
        pass


def test_a_key_is_not_sent_to_another_origin() -> None:
    servers: list[Any] = [HTTPServer(("127.0.0.1", 0), Redirecting) for _ in range(2)]
    for server in servers:
        server.heard, server.to = [], ""
        Thread(target=server.serve_forever, daemon=True).start()
    first, second = servers
    own = f"http://127.0.0.1:{first.server_port}"
    try:
        with Client(own, api_key="the-key") as client:
            first.to = f"{own}/elsewhere"
            assert client.whoami().name == "a"
            first.to = f"http://127.0.0.1:{second.server_port}/whoami"
            assert client.whoami().name == "a"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    sent = "Bearer the-key"
    assert first.heard == [("/whoami", sent), ("/elsewhere", sent), ("/whoami", sent)]
    assert second.heard == [("/whoami", None)]


# Agents


def told(agent: Agent, work: Callable[[Agent], Awaitable[Any]]) -> Any:
    async def run_it() -> Any:
        async with agent as client:
            return await work(client)

    return asyncio.run(run_it())


def over_http(address: str, key: str, mode: str = "auto") -> Agent:
    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
            streamable_http_client(f"{address}/mcp", http_client=http) as streams,
        ):
            yield streams

    return Agent(transport(), mode=mode)


async def use(client: Agent) -> tuple[Any, Any, Any]:
    async def call(tool: str, **arguments: Any) -> Any:
        return (await client.call_tool(tool, arguments)).structured_content

    jobs = await call("list_jobs")
    read = await client.read_resource("models://plugins")
    started = await call("download_model", name="org/model", hub="huggingface")
    return jobs, read, started


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_agent_may_do_what_its_key_may(address: str, keys: dict[str, str], mode: str) -> None:
    jobs, read, started = told(over_http(address, keys["viewer"], mode), use)
    assert "jobs" in jobs
    assert "huggingface" in read.contents[0].text
    assert "operator" in started["error"]
    assert started["status"] == "failed"
    jobs, _, started = told(over_http(address, keys["operator"], mode), use)
    assert "jobs" in jobs
    assert started["job_ids"]


def test_agents_of_different_keys_at_one_time_are_not_mixed_up(address: str, keys: dict[str, str]) -> None:
    async def all_of_them() -> list[Any]:
        async def one(role: str) -> Any:
            async with over_http(address, keys[role]) as client:
                return (await use(client))[2]

        return await asyncio.gather(*(one(role) for role in ("viewer", "operator") * 4))

    for viewer, operator in zip(*[iter(asyncio.run(all_of_them()))] * 2, strict=True):
        assert "error" in viewer
        assert "job_ids" in operator


def test_an_agent_without_a_key_is_not_let_in(address: str) -> None:
    for key in ("", "wrong"):
        answer = httpx2.post(
            f"{address}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )  # fmt: skip
        assert answer.status_code == 401
    with pytest.raises((MCPError, BaseExceptionGroup, httpx2.HTTPError)):
        told(over_http(address, "wrong"), use)


def test_an_agent_through_pipes_uses_the_key_around_it(address: str, keys: dict[str, str], tmp_path: Path) -> None:
    def program(**environment: str) -> Agent:
        return Agent(
            StdioServerParameters(command=sys.executable, args=["-m", "api.mcp", "--address", address], env=environment)
        )

    _, _, started = told(program(MODELFERRY_API_KEY=keys["operator"]), use)
    assert started["job_ids"]
    file = tmp_path / "key"
    file.write_text(keys["viewer"])
    jobs, _, started = told(program(MODELFERRY_API_KEY_FILE=str(file)), use)
    assert "jobs" in jobs
    assert "operator" in started["error"]
    command = [sys.executable, "-P", "-m", "api.cli", "mcp", "--api-key-file", str(tmp_path / "missing")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, input="")
    assert ended.returncode == 2
    assert "cannot be read" in ended.stderr
