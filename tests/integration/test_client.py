"""Every call of the clients, against the real web process; and what their types say."""

import asyncio
import inspect
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mypy import api as mypy

import modelferry
from api.client import AsyncClient, Client, Refused, Unreachable, WantedModel, calls
from api.embedded.redis_server import free_port
from common.settings import service_address
from common.vocabulary import JobState
from tests.integration.test_api_socket import process

SECRET = "c2VjcmV0"

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with process(tmp_path_factory.mktemp("models")) as address:
        yield address


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest, address: str) -> Ask:
    """Calls a method of one of the clients."""

    def blocking(method: str, *given: Any, **more: Any) -> Any:
        with Client(address) as client:
            return getattr(client, method)(*given, **more)

    async def awaited(method: str, *given: Any, **more: Any) -> Any:
        async with AsyncClient(f"{address}/api/v1") as client:
            return await getattr(client, method)(*given, **more)

    return blocking if request.param == "Client" else lambda *given, **more: asyncio.run(awaited(*given, **more))


def some(name: str) -> list[WantedModel]:
    return [WantedModel(name=name, hub="huggingface")]


def test_the_service(ask: Ask) -> None:
    assert ask("health").status == "ok"
    assert ask("ready").status == "not ready"
    assert ask("overview").volume.total_bytes > 0
    assert ask("workers").workers == []
    assert ask("plugins").total_count > 0
    limit = ask("put_limit", "hub", "huggingface", max_running=2)
    assert ask("limits").limits == [limit]
    ask("remove_limit", "hub", "huggingface")


def test_jobs(ask: Ask) -> None:
    (job_id,) = ask("submit", some("org/one"), "here", tenant="anna").job_ids
    assert ask("job", job_id).tenant == "anna"
    assert job_id in {job.id for job in ask("jobs", JobState.QUEUED).jobs}
    assert ask("page", limit=1, newest_first=True).jobs[0].id == job_id
    assert ask("attempts", job_id) == []
    assert ask("log", job_id, limit=1).lines[0].job_id == job_id
    assert ask("cancel", job_id).status is JobState.CANCELED
    assert ask("wait", job_id, timeout_s=20).status is JobState.CANCELED
    again = ask("retry", job_id)
    assert again.retry_of == job_id
    ask("cancel", again.id)
    ended = ask("wait_all", [again.id, job_id], timeout_s=20)
    assert [job.id for job in ended] == [again.id, job_id]
    assert {job.id for job in ask("jobs_of_model", "org/one").jobs} >= {job_id, again.id}
    with pytest.raises(Refused):
        ask("provenance", job_id)
    ask("delete", job_id)
    with pytest.raises(Refused) as gone:
        ask("job", job_id)
    assert gone.value.status == 404


def test_models(ask: Ask, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = f"sent-{len(request.node.name)}"
    archive = tmp_path / 'a "model".zip'
    with zipfile.ZipFile(archive, "w") as file:
        for kind in ("xml", "bin"):
            file.writestr(f"m.{kind}", f"{kind} of a model" * 1000)
    sent = ask("upload", archive, name, precision="FP32")
    assert sent.model_name == name
    (model,) = ask("models", name=name).models
    assert ask("model", model.id).file_list[0].size > 0
    assert ask("verify_model", model.id).state == "good"
    assert sent.job_id in {line.job_id for line in ask("results").results}
    assert ask("provenance", sent.job_id)["_type"]
    assert ask("remove_model", model.id).name == model.name
    with pytest.raises(OSError, match="nowhere"):
        ask("upload", tmp_path / "nowhere.zip", name)


def test_hubs(ask: Ask) -> None:
    with pytest.raises(Refused, match="does not support listing models"):
        ask("search", "ollama")
    with pytest.raises(Refused, match=r"body\.models\.0\.type"):
        ask("plan", [WantedModel(name="x", hub="hls", type="poem")])


def test_gates(ask: Ask) -> None:
    gate = ask("put_gate", "voice", some("org/gate"), "gates")
    assert (gate.open, gate.missing) == (False, 1)
    assert ask("gate", "voice").models[0].name == "org/gate"
    assert [one.name for one in ask("gates").gates] == ["voice"]
    assert ask("ready", ["voice"]).status == "not ready"
    with pytest.raises(modelferry.TimedOut):
        ask("wait_gate", "voice", timeout_s=0.1)
    ask("remove_gate", "voice")
    with pytest.raises(Refused) as gone:
        ask("gate", "voice")
    assert gone.value.status == 404


def test_webhooks(ask: Ask) -> None:
    hook = ask("add_webhook", "https://hooks.example/modelferry", events=["job.failed"])
    assert hook.secret.startswith("whsec_")
    assert ask("webhook", hook.id).events == ["job.failed"]
    assert ask("rotate_webhook", hook.id).secret != hook.secret
    sent = ask("send_test_message", hook.id)
    assert [one.id for one in ask("deliveries", hook.id).deliveries] == [sent.id]
    with pytest.raises(Refused):
        ask("redeliver", hook.id, "none")
    assert ask("change_webhook", hook.id, enabled=False).enabled is False
    assert [one.id for one in ask("webhooks").webhooks] == [hook.id]
    ask("remove_webhook", hook.id)


def test_events_come_over_the_wire(address: str) -> None:
    with Client(address) as client:
        (job_id,) = client.submit(some("org/events")).job_ids
        stream = client.events(job_id)
        assert next(stream).event == "snapshot"
        client.cancel(job_id)
        assert list(stream)[-1].event == "end"
        everything = client.all_events()
        assert next(everything).event == "snapshot"
        everything.close()


def test_every_call_has_a_method_in_both_clients() -> None:
    named = set(calls.__all__)
    for kind in (Client, AsyncClient):
        assert named <= vars(kind).keys()
        for name in named:
            method, call = getattr(kind, name), getattr(calls, name)
            assert method.__doc__ == call.__doc__
            assert list(inspect.signature(method).parameters)[1:] == list(inspect.signature(call).parameters)
            assert inspect.iscoroutinefunction(method) is (kind is AsyncClient)


# What an answer says, and what nobody else hears


def answering(status: int, body: bytes) -> Client:
    return Client("http://service.test", transport=httpx.MockTransport(lambda _: httpx.Response(status, content=body)))


def test_a_refusal_has_its_code_and_hint() -> None:
    body = b'{"detail": "no list", "reason": "gated", "reason_code": "access_denied", "hint": "Ask for access."}'
    with answering(502, body) as client, pytest.raises(Refused, match="no list") as refused:
        client.search("huggingface")
    assert (refused.value.status, refused.value.code, refused.value.hint) == (502, "access_denied", "Ask for access.")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b'{"detail": 1}', b"[]"])
def test_a_refusal_without_words_is_told_by_its_number(body: bytes) -> None:
    with answering(500, body) as client, pytest.raises(Refused, match="500 Internal Server Error"):
        client.health()


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b'{"status": "bad"}'])
def test_another_language_is_not_understood(body: bytes) -> None:
    with answering(200, body) as client, pytest.raises(modelferry.NotUnderstood, match="does not speak"):
        client.health()


def test_secrets_are_not_shown() -> None:
    wanted = WantedModel(name="m", hub="huggingface", override_credentials={"HF_TOKEN": SECRET})
    assert SECRET not in f"{wanted!r} {wanted}"
    with Client(f"http://user:{SECRET}@127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable) as away:
        client.health()
    assert SECRET not in str(away.value)


def test_the_address_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delenv("MODELFERRY_URL", raising=False)
    assert service_address() == "http://127.0.0.1:8200"
    monkeypatch.setenv("MODELFERRY_URL", address)
    with Client() as client:
        assert client.health().status == "ok"


# What the package is for others


def test_the_package_can_be_imported_from_anywhere(tmp_path: Path) -> None:
    """And brings neither the service nor its libraries along."""
    code = "import modelferry, sys; print(sorted({'litestar', 'sqlalchemy', 'pydantic', 'mcp', 'celery'} & {*sys.modules}))"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
    assert all(hasattr(modelferry, name) for name in modelferry.__all__)


TYPED = """
import modelferry

def use(client: modelferry.Client) -> None:
    reveal_type(client.submit([modelferry.WantedModel(name="m", hub="ollama")], "p", idempotency_key="k"))
    reveal_type(client.attempts("j"))
    reveal_type(client.wait("j"))
    reveal_type(client.events("j"))
    client.remove_model("m").bytes.bit_length()
    client.add_webhook()
    client.job(1)
    client.models(nothing=1)

async def use_too(client: modelferry.AsyncClient) -> None:
    reveal_type(await client.gate("g"))
    reveal_type(await client.wait_all(["j"]))
    async for event in client.all_events():
        reveal_type(event)
"""
TOLD = [
    'Revealed type is "api.wire.Started"',
    'Revealed type is "list[api.wire.AttemptView]"',
    'Revealed type is "api.wire.JobView"',
    'Revealed type is "typing.Generator[api.client.events.StreamEvent, None, None]"',
    "Too few arguments",
    'Argument 1 has incompatible type "int"; expected "str"',
    'Unexpected keyword argument "nothing"',
    'Revealed type is "api.wire.gates.GateView"',
    'Revealed type is "list[api.wire.JobView]"',
    'Revealed type is "api.client.events.StreamEvent"',
]


def test_types_are_known_without_saying_them_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    monkeypatch.chdir(tmp_path)
    out, err, _ = mypy.run(["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(program)])
    assert err == ""
    said = [line for line in out.splitlines() if "program.py" in line]
    for expected, line in zip(TOLD, said, strict=True):
        assert expected in line, out
