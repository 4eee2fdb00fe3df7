"""Gates: open when every model is published and whole on the disk, and closed whatever else is the case."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine, event

from api.gates.answers import GateAnswers
from common.artefacts.library import model_id
from common.artefacts.publish import publish
from common.outcome import Failed
from common.spec import Progress, Target
from common.store.database import Database
from common.store.jobs import JobStore
from common.vocabulary import Format, ModelType, Phase, Precision
from tests.databases import postgres_url
from tests.shelving import FILES, a_wish, bring, claimed
from tests.stored_models import a_plan, a_store, a_stored_artefact
from tests.web import Web, web

PATH = "huggingface/org_a"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("gates")) as service:
        yield service


@pytest.fixture
def service(running: Web) -> Iterator[Web]:
    """One service for all: what a test leaves is cleared away, except what the content store holds."""
    yield running
    for gate in running.get("/gates").json()["gates"]:
        running.delete(f"/gates/{gate['name']}")
    for job in jobs(running):
        running.post(f"/jobs/{job['id']}/cancel")
        running.delete(f"/jobs/{job['id']}")
    for folder in running.models_dir.iterdir():
        if not folder.name.startswith("."):
            shutil.rmtree(folder)


def asked(service: Web, *models: Any, name: str = "chat", path: str = "", **more: Any) -> httpx.Response:
    body = {"models": list(models or [a_wish()]), "download_path": path}
    return service.put(f"/gates/{name}", json=body, **more)


def answers_of(service: Web) -> GateAnswers:
    found: GateAnswers = service.client.app.dependencies["gate_answers"].dependency()
    return found


def looked(service: Web, name: str = "chat") -> httpx.Response:
    """The answer of somebody who has not asked for a while."""
    answers_of(service).forget(name)
    return service.get(f"/gates/{name}")


def states(service: Web, name: str = "chat") -> list[str]:
    return [model["state"] for model in looked(service, name).json()["models"]]


def jobs(service: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get("/jobs").json()["jobs"]
    return found


def verified(service: Web, folder: str) -> httpx.Response:
    return service.post(f"/models/{model_id(folder)}/verify")


# Open and closed


def test_a_gate_opens_when_its_model_is_published(service: Web) -> None:
    made = asked(service, path="llm")
    assert (made.status_code, made.json()["open"]) == (201, False)
    closed = looked(service)
    assert closed.status_code == 503
    assert 1 <= int(closed.headers["retry-after"]) <= 10
    said = closed.json()
    assert (said["open"], said["missing"], said["eta_s"]) == (False, 1, None)
    assert said["message"] == "1 of 1 are not there. Still to come: org/a."
    (job,) = jobs(service)
    assert said["models"][0]["job_id"] == job["id"]
    at = bring(service)
    opened = looked(service)
    assert opened.status_code == 200, opened.text
    assert "retry-after" not in opened.headers
    assert opened.headers["cache-control"] == "no-store"
    said = opened.json()
    assert (said["open"], said["missing"], said["message"]) == (True, 0, "The model is there.")
    (model,) = said["models"]
    assert (model["state"], model["path"], model["revision"], model["job_id"]) == ("published", at, "c0", job["id"])
    assert service.get("/api/v1/gates/chat").content == opened.content


def test_what_is_missing_is_told_with_how_far_it_is(service: Web) -> None:
    asked(service, a_wish("org/a"), a_wish("org/b"), a_wish("org/c"))
    bring(service)
    claim = claimed(service)
    service.beat(claim, Progress(phase=Phase.DOWNLOADING, bytes_done=50, bytes_total=200, speed_bps=10.0))
    said = looked(service)
    assert said.json()["message"] == "2 of 3 are not there. Still to come: org/b, org/c."
    first, second, third = said.json()["models"]
    assert (first["state"], second["state"], third["state"]) == ("published", "coming", "coming")
    assert (second["eta_s"], third["eta_s"], said.json()["eta_s"]) == (15.0, None, 15.0)
    assert second["percent"] > 0
    assert said.headers["retry-after"] == "10"


def test_a_model_that_is_there_already_needs_no_job(service: Web) -> None:
    service.submitted(a_wish(), download_path="")
    bring(service)
    made = asked(service)
    assert (made.status_code, made.json()["open"], len(jobs(service))) == (201, True, 1)
    assert looked(service).status_code == 200


def test_a_failure_is_told_and_a_retry_of_the_job_opens_the_gate(service: Web) -> None:
    asked(service)
    service.settle(Failed(code="source_gated", detail="No access.", hint="Get a token."))
    said = looked(service).json()
    assert said["message"] == "1 of 1 are not there. Failed: org/a (source_gated)."
    (model,) = said["models"]
    assert (model["state"], model["error"], model["hint"]) == ("failed", "No access.", "Get a token.")
    again = service.post(f"/jobs/{jobs(service)[0]['id']}/retry").json()["id"]
    said = looked(service).json()
    assert (said["models"][0]["state"], said["models"][0]["job_id"]) == ("coming", again)
    service.post(f"/jobs/{again}/cancel")
    assert looked(service).json()["message"] == "1 of 1 are not there. Failed: org/a (canceled)."
    service.post(f"/jobs/{again}/retry")
    bring(service)
    assert looked(service).status_code == 200


def test_a_job_that_was_deleted_will_not_bring_its_model(service: Web) -> None:
    asked(service)
    (job,) = jobs(service)
    service.post(f"/jobs/{job['id']}/cancel")
    assert service.delete(f"/jobs/{job['id']}").is_success
    assert looked(service).json()["models"][0]["error_code"] == "job_deleted"


def test_it_stays_open_when_the_job_is_forgotten(service: Web) -> None:
    asked(service)
    bring(service)
    assert looked(service).status_code == 200
    assert service.delete(f"/jobs/{jobs(service)[0]['id']}").is_success
    assert looked(service).status_code == 200


# The disk is the truth


def test_a_model_that_is_removed_by_hand_closes_the_gate(service: Web) -> None:
    asked(service)
    at = bring(service)
    assert looked(service).status_code == 200
    shutil.rmtree(at)
    closed = looked(service)
    assert (closed.status_code, closed.json()["models"][0]["state"]) == (503, "gone")
    assert closed.json()["message"] == "1 of 1 are not there. Gone: org/a."
    asked(service)
    assert states(service) == ["coming"]
    bring(service)
    assert looked(service).status_code == 200


def test_a_model_that_is_removed_through_the_api_closes_the_gate(service: Web) -> None:
    asked(service)
    bring(service)
    assert service.delete(f"/models/{model_id(PATH)}").is_success
    assert states(service) == ["gone"]


def test_a_file_of_another_size_closes_the_gate(service: Web) -> None:
    asked(service)
    at = Path(bring(service))
    assert looked(service).status_code == 200
    (at / "model.safetensors").unlink()
    assert states(service) == ["spoilt"]
    (at / "model.safetensors").write_bytes(b"other")
    said = looked(service).json()["models"][0]
    assert (said["state"], said["error"]) == ("spoilt", "model.safetensors has 5 bytes instead of 8000")


def test_content_that_a_verification_finds_spoilt_closes_the_gate_until_it_is_brought_anew(service: Web) -> None:
    asked(service)
    at = Path(bring(service))
    assert verified(service, PATH).json()["state"] == "good"
    assert looked(service).status_code == 200
    weights = at / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"x" * len(FILES["model.safetensors"]))
    assert verified(service, PATH).json()["state"] == "spoilt"
    assert states(service) == ["spoilt"]
    asked(service)
    bring(service)
    assert looked(service).status_code == 200
    assert weights.read_bytes() == FILES["model.safetensors"]


def test_a_manifest_that_nobody_can_read_is_none(service: Web) -> None:
    asked(service)
    at = Path(bring(service))
    (at / ".modelferry.json").write_text("{}")
    assert states(service) == ["gone"]


def test_another_revision_does_not_open_the_gate(service: Web) -> None:
    asked(service, a_wish(revision="v1"))
    bring(service, revision="c1")
    assert looked(service).json()["models"][0]["revision"] == "c1"
    service.submitted(a_wish(revision="v2"), download_path="")
    bring(service, revision="c2", files={**FILES, "config.json": b"{2}"})
    said = looked(service).json()["models"][0]
    assert (said["state"], said["error"]) == ("gone", "Another revision is published there.")
    asked(service, a_wish(revision="v2"))
    assert looked(service).status_code == 503, "it was asked for by another name of the revision than that of the job"


def test_a_commit_is_asked_for_by_its_own_name_too(service: Web) -> None:
    service.submitted(a_wish(revision="main"), download_path="")
    bring(service, revision="c1")
    for revision, status in (("c1", 200), ("main", 200), ("c2", 503)):
        asked(service, a_wish(revision=revision), name=revision)
        assert looked(service, revision).status_code == status


def test_a_revision_that_turns_out_to_be_what_is_there_opens_the_gate(service: Web) -> None:
    service.submitted(a_wish(), download_path="")
    bring(service, revision="c1")
    asked(service, a_wish(revision="v1"))
    assert states(service) == ["coming"]
    bring(service, revision="c1")
    assert looked(service).status_code == 200, "nothing was published anew, but it is the same commit"
    assert service.delete(f"/jobs/{jobs(service)[1]['id']}").is_success
    assert looked(service).status_code == 200


def test_a_newer_publication_of_the_same_wish_counts(service: Web) -> None:
    asked(service)
    bring(service, revision="c1")
    assert looked(service).json()["models"][0]["revision"] == "c1"
    service.submitted(a_wish(), download_path="")
    assert looked(service).status_code == 200
    bring(service, revision="c2", files={**FILES, "config.json": b"{2}"})
    assert looked(service).json()["models"][0]["revision"] == "c2"


def test_another_model_in_its_place_does_not_open_the_gate(service: Web) -> None:
    asked(service, a_wish("org/a_b"))
    service.post(f"/jobs/{jobs(service)[0]['id']}/cancel")
    service.submitted(a_wish("org_a/b"), download_path="")
    bring(service)
    assert states(service) == ["failed"]
    asked(service, a_wish("org_a/b"), name="other")
    assert looked(service, "other").status_code == 200


def test_options_that_changed_count_once_they_have_been_brought(service: Web) -> None:
    asked(service, a_wish())
    bring(service)
    changed = a_wish(config={"colour": "blue"})
    assert asked(service, changed).json()["models"][0]["state"] == "coming"
    bring(service)
    assert looked(service).status_code == 200
    assert asked(service, changed).status_code == 200
    assert len(jobs(service)) == 2


def test_a_conversion_is_of_one_precision_and_device(service: Web) -> None:
    wish = {"name": "org/c", "hub": "openvino", "type": "llm", "is_ovms": True, "config": {"precision": "int4"}}
    asked(service, wish)
    said = looked(service).json()["models"][0]
    assert (said["precision"], said["device"], said["type"]) == ("int4", "CPU", "llm")
    assert said["path"] == str(service.models_dir / "openvino_models/cpu/int4/org/c")


def published_form(service: Web, folder: str, *, precision: Precision, device: str = "CPU", **serving: object) -> None:
    store = a_store(service.models_dir)
    target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=precision, device=device)
    plan = a_plan(a_stored_artefact(store), folder, serving)
    described = msgspec.structs.replace(plan.description, name="org/model", hub="openvino", target=target)
    publish(store, replace(plan, description=described), fence=lambda: None)


@pytest.mark.parametrize(
    ("precision", "device", "cache", "is_open"),
    [("int4", "CPU", 4, True), ("int8", "CPU", 4, False), ("int4", "GPU", 4, False), ("int4", "CPU", 8, False)],
)
def test_a_form_that_is_there_opens_the_gate_and_no_other_does(
    service: Web, precision: str, device: str, cache: int, is_open: bool
) -> None:
    wish = {"name": "org/model", "hub": "openvino", "type": "llm", "is_ovms": True}
    asked(service, {**wish, "config": {"precision": "int4", "cache_size": 4}}, name="asked")
    serving = JobStore(database_of(service)).jobs()[0].spec.serving_options
    folder = "openvino_models/cpu/int4/org/model"
    published_form(service, folder, precision=Precision(precision), device=device, **{**serving, "cache_size": cache})
    service.post(f"/jobs/{jobs(service)[0]['id']}/cancel")
    asked(service, {**wish, "config": {"precision": "int4", "cache_size": 4}})
    assert (looked(service).status_code, len(jobs(service))) == ((200, 1) if is_open else (503, 2))


def database_of(service: Web) -> Database:
    found: Database = service.client.app.dependencies["gates"].dependency().store._database
    return found


def test_the_jobs_of_a_gate_are_of_who_has_asked(service: Web) -> None:
    asked(service, headers={"Modelferry-Tenant": "team-a"})
    assert [job["tenant"] for job in jobs(service)] == ["team-a"]


# Several models in one wish


def test_several_models_in_one_wish_are_all_wanted(service: Web) -> None:
    asked(service, {"name": "face,person", "hub": "pipeline-zoo-models"})
    assert states(service) == ["coming"]
    at = Path(bring(service, files={"face/a.xml": b"<net/>", "person/b.xml": b"<net/>"}))
    assert looked(service).status_code == 200, looked(service).text
    shutil.rmtree(at / "person")
    assert states(service) == ["gone"]


def test_all_models_of_a_hub_are_those_that_the_job_has_brought(service: Web) -> None:
    wish = {"name": "all", "hub": "pipeline-zoo-models"}
    asked(service, wish)
    at = Path(bring(service, files={"face/a.xml": b"<net/>", "person/b.xml": b"<net/>"}))
    assert looked(service).status_code == 200
    assert service.delete(f"/jobs/{jobs(service)[0]['id']}").is_success
    assert looked(service).status_code == 200
    shutil.rmtree(at / "face")
    assert states(service) == ["gone"]


# What is asked for


def test_the_same_request_again_does_nothing_twice(service: Web) -> None:
    models = [a_wish("org/a"), a_wish("org/b")]
    assert asked(service, *models).status_code == 201
    bring(service)
    for _ in range(3):
        assert asked(service, *models).status_code == 200
    assert len(jobs(service)) == 2
    bring(service)
    assert asked(service, *models).json()["open"] is True
    assert len(jobs(service)) == 2


def test_what_has_failed_or_was_cancelled_is_asked_for_anew(service: Web) -> None:
    models = [a_wish("org/a"), a_wish("org/b"), a_wish("org/c")]
    asked(service, *models)
    service.settle(Failed(code="source_gone", detail="no", hint=""))
    service.post(f"/jobs/{jobs(service)[1]['id']}/cancel")
    assert states(service) == ["failed", "failed", "coming"]
    asked(service, *models)
    assert states(service) == ["coming"] * 3
    assert [job["model_name"] for job in jobs(service)] == ["org/a", "org/b", "org/c", "org/a", "org/b"]


def test_a_changed_gate_keeps_what_is_equal(service: Web) -> None:
    asked(service, a_wish("org/a"), a_wish("org/b"))
    changed = asked(service, a_wish("org/b", priority="high"), a_wish("org/c"))
    assert changed.status_code == 200
    assert [model["name"] for model in changed.json()["models"]] == ["org/b", "org/c"]
    assert [job["model_name"] for job in jobs(service)] == ["org/a", "org/b", "org/c"]
    assert [job["status"] for job in jobs(service)] == ["queued"] * 3, "nobody has cancelled what else was asked for"


def test_a_model_that_is_named_twice_is_wanted_once(service: Web) -> None:
    made = asked(service, a_wish(), a_wish(priority="high"))
    assert (len(made.json()["models"]), len(jobs(service))) == (1, 1)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"models": []}, 422, "List should have at least 1 item"),
        ({"models": [a_wish()] * 101}, 422, "List should have at most 100 items"),
        ({"models": [a_wish()], "colour": "blue"}, 422, "Extra inputs are not permitted"),
        ({"models": [a_wish(), {"name": "x"}]}, 422, "Field required"),
        ({"models": [a_wish(), a_wish("../x")]}, 400, "Invalid model name"),
        ({"models": [a_wish()], "download_path": "../x"}, 400, "must remain under MODELS_DIR"),
        ({"models": [a_wish(revision="v1"), a_wish(revision="v2")]}, 400, "in one place"),
        ({"models": [a_wish(override_credentials={"HF_TOKEN": "aGY="})]}, 400, "takes no override_credentials"),
        ({"models": [a_wish(validate_credentials=True)]}, 400, "takes no override_credentials"),
    ],
    ids=["none", "many", "key", "field", "name", "path", "place", "credentials", "check"],
)
def test_what_will_not_do_is_refused_as_a_whole(service: Web, body: dict[str, Any], status: int, words: str) -> None:
    answer = service.put("/gates/chat", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert service.get("/gates").json() == {"gates": []}
    assert jobs(service) == []


def test_a_hub_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        answer = asked(service, a_wish(), {"name": "llama3", "hub": "ollama"})
        assert (answer.status_code, jobs(service)) == (400, [])


@pytest.mark.parametrize("name", ["A", "a b", "-a", "a" * 64, "ä"])
def test_a_name_has_a_form(service: Web, name: str) -> None:
    assert asked(service, name=name).status_code in {400, 404, 405}
    assert service.get(f"/gates/{name}").status_code in {404, 400}
    assert service.get("/gates").json() == {"gates": []}


def test_gates_are_listed_and_forgotten(service: Web) -> None:
    for name in ("b", "a.1", "c_2"):
        asked(service, name=name)
    assert [gate["name"] for gate in service.get("/gates").json()["gates"]] == ["a.1", "b", "c_2"]
    assert service.get("/gates/b").status_code == 503
    assert service.delete("/gates/b").status_code == 204
    assert service.get("/gates/b").status_code == 404
    assert service.delete("/gates/b").status_code == 404
    assert service.delete("/gates/B").status_code == 404
    assert len(jobs(service)) == 3


def test_there_are_not_more_than_two_hundred(service: Web) -> None:
    bring_one(service)
    for number in range(200):
        assert asked(service, name=f"g{number}").status_code == 201
    refused = asked(service, name="more")
    assert (refused.status_code, "200 gates" in refused.json()["detail"]) == (409, True)
    assert asked(service, name="g7").status_code == 200


def bring_one(service: Web) -> None:
    service.submitted(a_wish(), download_path="")
    bring(service)


# Several at once


@contextmanager
def two_replicas(folder: Path, url: str = "") -> Iterator[tuple[Web, Web]]:
    with web(folder, database_url=url) as first, web(folder, database_url=url or "") as second:
        yield first, second


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_replicas_that_are_asked_at_one_moment_make_no_job_twice(tmp_path: Path, database: str) -> None:
    models = [a_wish(f"org/m{number}") for number in range(5)]
    with urls(database) as url, two_replicas(tmp_path, url) as replicas:
        together = threading.Barrier(8)

        def ask(number: int) -> int:
            mine = models if number % 2 else models[::-1]
            together.wait()
            return asked(replicas[number % 2], *mine).status_code

        with ThreadPoolExecutor(8) as threads:
            found = sorted(threads.map(ask, range(8)))
        assert found == [200] * 7 + [201]
        names = [job["model_name"] for job in jobs(replicas[0])]
        assert len(names) == len(set(names)), "no job twice"
        assert set(names) == {f"org/m{number}" for number in range(5)}, "and none lost"
        for replica in replicas:
            said = looked(replica).json()
            assert {model["state"] for model in said["models"]} == {"coming"}


@contextmanager
def urls(database: str) -> Iterator[str]:
    if database == "sqlite":
        yield ""
        return
    with postgres_url() as url:
        yield url


def test_the_life_of_a_gate_on_postgres_and_through_two_replicas(tmp_path: Path) -> None:
    with urls("postgres") as url, two_replicas(tmp_path, url) as (first, second):
        assert asked(first).status_code == 201
        assert asked(second).status_code == 200
        assert looked(second).status_code == 503
        at = bring(first)
        assert (looked(first).status_code, looked(second).status_code) == (200, 200)
        shutil.rmtree(at)
        assert (states(first), states(second)) == (["gone"], ["gone"])
        assert second.delete("/gates/chat").status_code == 204
        assert looked(first).status_code == 404


def test_a_gate_outlives_its_service(tmp_path: Path) -> None:
    with web(tmp_path) as service:
        asked(service)
    with web(tmp_path) as service:
        assert states(service) == ["coming"]
        bring(service)
    with web(tmp_path) as service:
        assert service.get("/gates/chat").status_code == 200


# Cheap answers


@contextmanager
def statements() -> Iterator[list[str]]:
    said: list[str] = []

    def heard(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", heard)
    try:
        yield said
    finally:
        event.remove(Engine, "before_cursor_execute", heard)


def test_an_answer_is_made_once_for_all_who_ask(service: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(service)
    bring(service)
    looked(service)
    now = [answers_of(service)._known["chat"].at]
    monkeypatch.setattr(answers_of(service), "_clock", lambda: now[0])
    with statements() as said:
        found = [service.get("/gates/chat") for _ in range(50)]
    assert said == []
    assert {answer.status_code for answer in found} == {200}
    now[0] += 1.0
    with statements() as said:
        service.get("/gates/chat")
    assert len([one for one in said if "SELECT" in one]) == 1, "an open gate costs one look at its row"


def test_an_open_gate_is_not_taken_for_open_for_long(service: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(service)
    bring(service)
    assert looked(service).status_code == 200
    answers = answers_of(service)
    start = answers._known["chat"].at
    now = [start]
    monkeypatch.setattr(answers, "_clock", lambda: now[0])
    stuck = threading.Event()
    look = type(answers._eyes).gate

    def slow(eyes: Any, name: str) -> Any:
        stuck.wait(10)
        return look(eyes, name)

    monkeypatch.setattr(type(answers._eyes), "gate", slow)
    monkeypatch.setattr("api.gates.answers._LONGEST_WAIT_S", 0.3)
    try:
        for age, status in ((0.9, 200), (1.5, 200), (2.9, 200), (3.0, 503), (10.0, 503)):
            now[0] = start + age
            began = time.monotonic()
            answer = service.get("/gates/chat")
            assert answer.status_code == status, age
            assert service.get("/health").status_code == 200
            assert time.monotonic() - began < 2
        assert "Nobody knows" in answer.json()["detail"]
    finally:
        stuck.set()
        answers.forget("chat")


def test_a_database_that_is_away_closes_gates_with_words(tmp_path: Path) -> None:
    with web(tmp_path) as service:
        asked(service)
        bring(service)
        assert looked(service).status_code == 200
        file = next((tmp_path / "models").rglob("*.db"))
        file.rename(file.with_suffix(".away"))
        database_of(service).dispose()
        for answer in (looked(service), looked(service, "other"), service.get("/ready", params={"gate": "chat"})):
            assert answer.status_code == 503
            assert answer.headers["content-type"].startswith("application/json")
        assert "Nobody knows" in looked(service).json()["detail"]


def test_a_change_is_seen_at_once_where_it_was_made(service: Web) -> None:
    asked(service)
    assert service.get("/gates/chat").json()["models"][0]["name"] == "org/a"
    asked(service, a_wish("org/b"))
    assert service.get("/gates/chat").json()["models"][0]["name"] == "org/b"


# Ready


def test_ready_tells_of_the_gates_that_are_named(service: Web) -> None:
    asked(service, name="a")
    bring(service)
    asked(service, a_wish("org/b"), name="b")
    parts: Callable[..., dict[str, str]] = lambda *names: service.get("/ready", params={"gate": names}).json()["parts"]  # noqa: E731
    assert not [part for part in service.get("/ready").json()["parts"] if part.startswith("gate:")]
    assert parts("a")["gate:a"] == "ok"
    said = parts("a", "b", "none", "a")
    assert said["gate:a"] == "ok"
    assert said["gate:b"] == "1 of 1 are not there. Still to come: org/b."
    assert said["gate:none"] == "There is no gate 'none'"
    assert service.get("/ready?gate=a&gate=B").status_code == 422
