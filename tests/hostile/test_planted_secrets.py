"""Every secret that can enter a service is planted in one that runs, fails and succeeds; then all of it is searched."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets as random_secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.embedded.redis_server import answers as redis_answers
from api.embedded.redis_server import find_redis_server, free_port, redis_command
from common.log import configure
from tests.databases import postgres_url
from tests.e2e.service import Service
from tests.fakes.exchange import Reply, Request, reply_with
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.proxy import ForwardProxy
from tests.fakes.tiny_models import tiny_bert
from tests.fakes.traffic import Match
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.hostile.planted import Eavesdropper, Places, answers, files, forms, found, redis_content, rows, secret

ECHOES = (401, 403, 500)
"""What a hub may answer, with everything that it was told in the answer."""

PARTS = ("api", "download", "reconcile")

NAMES = (
    "HF_TOKEN", "GETI_TOKEN", "MODELFERRY_SECRET_KEY", "MODELFERRY_ADMIN_KEY", "an API key", "a token of a request",
    "a wrong token of a request", "the password of Redis", "the password of the database", "the password of a proxy",
    "the password of another proxy", "the secret of a webhook", "a token in the URL of a webhook",
    "a password in the URL of a source", "a wrong key", "a wrong bearer token", "a wrong key in the form", "a basic login", "a query", "a wrong cookie",
    "a session",
)  # fmt: skip

KNOWN = {"the password of another proxy": "environment of a child of download", "a query": "GET / "}
"""Where it has to be: a stage that fetches takes the environment's proxy from the environment, as all programs do; and who
is sent to log in is told where that came from, to come back."""


@dataclass(frozen=True)
class Echo(FaultKind):
    """Answers with all headers of the request, in the body and in a header that clients show."""

    status: int

    def meet(self, request: Request) -> Reply:
        told = " ".join(f"{name}={value}" for name, value in request.headers.items())
        shown = request.headers.get("authorization", "none")
        body = json.dumps({"error": told, "message": shown}).encode()
        headers = {"X-Error-Message": shown, "X-Error-Code": "Echo", "WWW-Authenticate": shown}
        return reply_with(self.status, body, headers | {"Content-Length": str(len(body))})


@contextmanager
def guarded_redis(folder: Path, password: str) -> Iterator[int]:
    """A Redis with a password, which stands in a file that is none of the service's."""
    server = find_redis_server(os.environ)
    assert server is not None
    folder.mkdir()
    told = folder / "redis.conf"
    told.write_text(f"requirepass {password}\n")
    port = free_port()
    program, *arguments = redis_command(server, port, folder)
    process = subprocess.Popen([program, str(told), *arguments], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            if (folder / "redis.log").exists() and b"Ready to accept" in (folder / "redis.log").read_bytes():
                break
            redis_answers(port)
        yield port
    finally:
        process.kill()
        process.wait()


@dataclass
class World:
    """One service, every secret that it was given, and what it has been heard to say."""

    service: Service
    hub: FakeHuggingFace
    proxy: ForwardProxy
    receiver: WebhookReceiver
    ear: Eavesdropper
    planted: dict[str, str]
    database_url: str
    redis_url: str
    answered: Places = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    """Id -> model."""
    known: dict[str, list[str]] = field(default_factory=dict)
    """What the parameters of paths may be."""

    @property
    def database(self) -> str:
        return self.database_url.partition(":")[0]

    def ask(self, method: str, path: str, *, shows: str = "", **more: Any) -> httpx.Response:
        """A request of somebody who may do everything. Its answer is kept, unless it is where a secret is shown once."""
        headers = {"Authorization": f"Bearer {self.planted['MODELFERRY_ADMIN_KEY']}"} | more.pop("headers", {})
        answer = httpx.request(method, self.service.url() + path, headers=headers, trust_env=False, timeout=40, **more)
        if not shows:
            told = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
            self.answered[f"{method} {path} {len(self.answered)} {answer.status_code}"] = told.encode() + answer.content
        return answer

    def submit(self, name: str, *, hub: str = "huggingface", path: str = "planted", **more: Any) -> None:
        body = {"models": [{"name": name, "hub": hub, **more}]}
        answer = self.ask("POST", "/api/v1/models/download", params={"download_path": path}, json=body)
        assert answer.is_success, answer.text
        self.jobs |= dict.fromkeys(answer.json()["job_ids"], name)

    def wait(self) -> dict[str, str]:
        """How all jobs have ended: model -> error code, or that it is there."""
        ended = {}
        for job_id, name in self.jobs.items():
            job = self.service.wait(job_id, timeout_s=120)
            ended[f"{name} {job_id[:2]}"] = str(job.get("error_code") or job["status"])
        return ended

    def places(self) -> Places:
        """All that the service has left behind, said and shown, and what was seen of it while it ran."""
        left = {**files(self.service.folder), **rows(self.database_url), **redis_content(self.redis_url)}
        return {**left, **self.ear.seen, "MONITOR": bytes(self.ear.heard), **self.answered}


@contextmanager
def running(folder: Path, database: str) -> Iterator[World]:
    planted = {name: secret(f"{number:02}") for number, name in enumerate(NAMES)}
    planted["MODELFERRY_SECRET_KEY"] = b64(random_secrets.token_bytes(32))
    planted["a token of a request"] = secret("request", '/+=%"\\<')
    (folder / "service").mkdir()
    with (
        FakeHuggingFace() as hub, ForwardProxy() as proxy, WebhookReceiver() as receiver,
        guarded_redis(folder / "queue", planted["the password of Redis"]) as redis_port,
        _database(folder, database, planted["the password of the database"]) as database_url,
    ):  # fmt: skip
        _fill(hub, planted, folder, converts=database == "sqlite")
        redis_url = f"redis://:{planted['the password of Redis']}@127.0.0.1:{redis_port}/0"
        service = Service(
            folder / "service", run=[*PARTS, "convert"] if database == "sqlite" else PARTS, database_url=database_url,
            HF_ENDPOINT=hub.endpoint, REDIS_URL=redis_url, GETI_HOST="https://127.0.0.1:1",
            **{name: planted[name] for name in NAMES if name.isupper()},
            MODELFERRY_ACCESS="required", MODELFERRY_LOG_LEVEL="debug", MODELFERRY_MAX_ATTEMPTS="2",
            MODELFERRY_LOG_FORMAT="text" if database == "sqlite" else "json",
            MODELFERRY_PRIVATE_HOSTS=receiver.host,
            MODELFERRY_PROXIES=f"huggingface=http://ferry:{planted['the password of a proxy']}@{proxy.address}",
            https_proxy=f"http://ferry:{planted['the password of another proxy']}@127.0.0.1:1",
        )  # fmt: skip
        service._client.headers["Authorization"] = f"Bearer {planted['MODELFERRY_ADMIN_KEY']}"
        with service, Eavesdropper(service, redis_port, planted["the password of Redis"]) as ear:
            yield World(service, hub, proxy, receiver, ear, planted, database_url, redis_url)


@contextmanager
def _database(folder: Path, database: str, password: str) -> Iterator[str]:
    if database == "sqlite":
        yield f"sqlite:///{folder / 'service' / 'jobs.db'}"
        return
    with postgres_url() as url:
        # This server lets everybody in who reaches its socket, but the service cannot know.
        yield url.replace("postgres:@", f"postgres:{password}@")


def _fill(hub: FakeHuggingFace, planted: dict[str, str], folder: Path, *, converts: bool) -> None:
    held = {"config.json": b"{}", "model.safetensors": b"w" * 200_000}
    hub.tokens = {planted["HF_TOKEN"]: {"org/private"}, planted["a token of a request"]: {"org/gated"}}
    hub.add_repo("org/private", held, private=True)
    hub.add_repo("org/gated", held, gated="manual")
    hub.add_repo("org/unplaced", held)
    hub.add_repo("OpenVINO/ready", {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"b" * 5000})
    for status in ECHOES:
        hub.add_repo(f"org/echo-{status}", held)
        hub.add_fault(Fault(kind=Echo(status), match=Match(path=f"*/api/models/org/echo-{status}*")))
        hub.add_repo(f"org/later-{status}", {**held, "model.safetensors": bytes([status % 256]) * 200_000})
        hub.add_fault(Fault(kind=Echo(status), match=Match(path=f"*/resolve*/org/later-{status}/*")))
        hub.add_fault(Fault(kind=Echo(status), match=Match(path=f"*/org/later-{status}/resolve/*")))
    if converts:
        hub.add_directory("tiny/bert", tiny_bert(folder / "bert"))
        hub.add_repo("tiny/broken", {**held, "config.json": b'{"model_type": "bert"}'})


def b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def play(world: World) -> dict[str, str]:
    """Everything that a service can be asked with a secret, well and badly. How the jobs have ended."""
    _come_in(world)
    token = world.planted["a token in the URL of a webhook"]
    made = world.ask("POST", "/webhooks", shows="its secret", json={"url": f"{world.receiver.url}?token={token}"})
    assert made.is_success, made.text
    world.planted["the secret of a webhook"] = made.json()["secret"].removeprefix("whsec_")
    world.known["webhook_id"] = [made.json()["id"]]
    _submit(world)
    _ask_hubs(world)
    ended = world.wait()
    world.receiver.wait(len(world.jobs), timeout_s=30)
    world.known |= {"job_id": [*world.jobs], "name": ["a-gate"]}
    world.known["model_id"] = [model["id"] for model in world.ask("GET", "/models").json()["models"]]
    with httpx.Client(base_url=world.service.url(), headers=world.service._client.headers, trust_env=False) as client:
        world.answered |= answers(client, world.known)
    return ended


def _come_in(world: World) -> None:
    """With keys, logins and sessions, right and wrong."""
    planted, nobody = world.planted, {"Authorization": ""}
    for path in ("/jobs", "/models/download", "/", "/webhooks"):
        world.ask("GET", path, headers={"Authorization": f"Bearer {planted['a wrong bearer token']}"})
        world.ask("GET", path, headers={"X-API-Key": planted["a wrong key"], **nobody})
        world.ask("GET", path, headers={"Authorization": "Basic " + b64(f"me:{planted['a basic login']}")})
        world.ask("GET", path, headers={"Cookie": f"modelferry={planted['a wrong cookie']}", **nobody})
        world.ask("GET", path, params={"api_key": planted["a query"]}, headers=nobody)
    made = world.ask("POST", "/keys", shows="the key", json={"name": "planted", "role": "operator"})
    assert made.is_success, made.text
    planted["an API key"] = made.json()["key"].rpartition("_")[2]
    world.known["key_id"] = [made.json()["id"]]
    assert world.ask("GET", "/jobs", headers={"Authorization": f"Bearer {made.json()['key']}"}).is_success
    world.ask("POST", "/ui/login", data={"key": planted["a wrong key in the form"]}, headers=nobody)
    let_in = world.ask("POST", "/ui/login", shows="a cookie", data={"key": made.json()["key"]}, headers=nobody)
    [(name, planted["a session"])] = let_in.cookies.items()
    inside = world.ask("GET", "/ui/jobs", headers={"Cookie": f"{name}={planted['a session']}", **nobody})
    assert inside.status_code == 200, inside.text


def _submit(world: World) -> None:
    """Jobs that succeed, and jobs that fail in every stage."""
    own = {"HF_TOKEN": b64(world.planted["a token of a request"])}
    wrong = {"HF_TOKEN": b64(world.planted["a wrong token of a request"])}
    place = world.service.models_dir / "taken" / "huggingface" / "org_unplaced"
    place.parent.mkdir(parents=True)
    place.write_text("somebody else's")
    world.submit("org/private")
    world.submit("org/gated", override_credentials=own)
    world.submit("org/gated", override_credentials=wrong)
    world.submit("org/unplaced", path="taken")
    world.submit("OpenVINO/ready", hub="openvino")
    for status in ECHOES:
        world.submit(f"org/echo-{status}", override_credentials=own)
        world.submit(f"org/later-{status}", override_credentials=own)
    if world.database == "sqlite":
        for name in ("tiny/bert", "tiny/broken"):
            world.submit(name, type="embeddings", is_ovms=True, config={"precision": "int8", "device": "CPU"})


def _ask_hubs(world: World) -> None:
    """What is answered while somebody waits."""
    password = world.planted["a password in the URL of a source"]
    url = f"https://me:{password}@github.com/open-edge-platform/edge-ai-resources/x.tar"
    bad = {"models": [{"name": "x", "hub": "remote-url", "config": {"url": url}}]}
    assert world.ask("POST", "/models/download", params={"download_path": "x"}, json=bad).status_code == 200
    own = {"HF_TOKEN": b64(world.planted["a token of a request"])}
    wrong = {"HF_TOKEN": b64(world.planted["a wrong token of a request"])}
    gated = {"name": "org/gated", "hub": "huggingface"}
    world.ask("POST", "/models/plan", json={"models": [{**gated, "override_credentials": own}]})
    world.ask("POST", "/models/plan", json={"models": [{**gated, "name": "org/echo-403", "override_credentials": own}]})
    checked = {"models": [{**gated, "override_credentials": wrong, "validate_credentials": True}]}
    assert world.ask("POST", "/models/download", params={"download_path": "x"}, json=checked).status_code == 400
    world.ask("POST", "/models/list", json={"hub": "huggingface", "search": "gated", "override_credentials": own})
    assert world.ask("POST", "/models/list", json={"hub": "geti"}).status_code == 502
    assert world.ask("PUT", "/gates/a-gate", json={"models": [gated]}).is_success


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def haul(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haul]:
    with running(tmp_path_factory.mktemp("planted"), request.param) as world:
        ended = play(world)
        yield Haul(world, ended, world.places())


@dataclass(frozen=True)
class Haul:
    """What one run has left."""

    world: World
    ended: dict[str, str]
    places: Places

    def held(self, beginning: str) -> list[bytes]:
        return [content for place, content in self.places.items() if place.startswith(beginning)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_nowhere(haul: Haul, name: str) -> None:
    traces = found(haul.world.planted[name], haul.places)
    assert [trace for trace in traces if KNOWN.get(name, "\0") not in trace] == []


def test_the_secrets_were_used(haul: Haul) -> None:
    """What was not found would say nothing about what was never there."""
    world = haul.world
    assert any(request.had_authorization for request in world.hub.requests.matching(path="*/org/private*"))
    assert any(login and "Basic" in login for _, _, login in world.proxy.asked)
    assert world.receiver.letters[0].target.endswith(world.planted["a token in the URL of a webhook"])
    assert sum(b"AUTH" in content.upper() for content in haul.held("MONITOR")) == 1
    by_model = {name.partition(" ")[0]: how for name, how in haul.ended.items()}
    assert by_model["org/private"] == "completed"
    assert "completed" in {how for name, how in haul.ended.items() if name.startswith("org/gated")}
    assert all(by_model[f"org/{when}-{status}"] != "completed" for when in ("echo", "later") for status in ECHOES)
    assert by_model["org/unplaced"] in {"publication_refused", "destination_invalid"}
    if world.database == "sqlite":
        assert by_model["tiny/bert"] == "completed"
        assert by_model["tiny/broken"] != "completed"


def test_everything_was_looked_at(haul: Haul) -> None:
    world = haul.world
    log = world.service.log.read_bytes()
    assert b"stage.settled" in log
    assert b"debug" in log
    assert {name.partition(" ")[0] for name in world.ear.children} >= {"download"}
    assert len(haul.held("environment of a child of download")) > 0
    assert (len(haul.held("environment of a child of convert")) > 0) == (world.database == "sqlite")
    assert all(b"HF_TOKEN" not in environment for environment in haul.held("environment of a child"))
    assert any(b"LPUSH" in content for content in haul.held("MONITOR"))
    assert len(haul.held("jobs ")) >= len(world.jobs)
    assert haul.held("webhooks ")
    assert haul.held("api_keys ")
    assert haul.held("audit ")
    shown = {place.split(" ")[1] for place in haul.places if place.startswith("GET ") and place.endswith(" 200")}
    assert {
        "/jobs",
        "/webhooks",
        "/keys",
        "/audit",
        "/events",
        "/metrics",
        "/ui/jobs",
        "/openapi.json",
    } <= shown or shown
    print(sorted(shown))


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=False)
def test_each_form_is_found_where_it_is_planted(database: str, tmp_path: Path) -> None:
    """On purpose, into a log of ours, a file, a row and a document: the search finds it, in whatever form."""
    value = secret("control", '/+=%"')
    with (tmp_path / "a.log").open("w") as stream:
        kept = logging.getLogger().handlers[:], logging.getLogger().level
        try:
            configure("debug", "text" if database == "sqlite" else "json", stream)
            logging.getLogger("planted").warning("planted", extra={"detail": f"the token is {value}"})
        finally:
            logging.getLogger().handlers[:], _ = kept
            logging.getLogger().setLevel(kept[1])
    assert found(value, files(tmp_path))
    for form, written in forms(value).items():
        assert found(value, {"a place": b"before " + written + b" after"}), form
    for before in range(5):
        assert found(value, {"base64": base64.b64encode(b"x" * before + value.encode() + b"yy")})
        assert found(value, {"base64": base64.urlsafe_b64encode(b"x" * before + value.encode() + b"yy")})
    assert not found(value, {"a place": secret("control").encode()})
