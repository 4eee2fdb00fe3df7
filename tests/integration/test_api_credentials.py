"""Credentials that come with a request: judged, sealed, used for that request alone, and gone with its jobs."""

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from api.compat.submission import ModelRequest
from common.outcome import Failed, Succeeded
from common.store.database import Database
from common.store.jobs import JobStore
from common.store.retention import Retention
from common.store.stages import RetryPolicy, StageStore
from common.store.tables import SecretRow
from common.vocabulary import Pool, StageKind
from tests.answering import answered
from tests.builders import a_download
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.plugins.folder_hub import TOKEN
from tests.web import Web

WRONG = "a-token-that-nobody-knows"
BAD_BASE64 = "override_credentials['{}'] must be a valid Base64-encoded UTF-8 string"


def brought(**values: str) -> dict[str, Any]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}


def a_model(name: str = "org/model", hub: str = "huggingface", **more: Any) -> dict[str, Any]:
    return {"name": name, "hub": hub, **more}


def with_token(token: str = TOKEN, **more: Any) -> dict[str, Any]:
    return a_model(override_credentials=brought(HF_TOKEN=token), **more)


def stored(service: Web) -> list[bytes]:
    return kept(service.stages._database)


def kept(database: Database) -> list[bytes]:
    with database.read() as connection:
        return list(connection.execute(select(SecretRow.sealed)).scalars())


def refusal(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    detail: Any = answer.json()["detail"]
    return str(detail if status == 400 else detail[0]["msg"])


# What may be brought


@pytest.mark.parametrize("value", ["%%%", "YQ", "YQ==\n", "/w==", 3, ["x"], {"a": "b"}, True])
def test_case_72_what_is_no_base64_of_text(quick: Web, value: object) -> None:
    answer = quick.submit(a_model(override_credentials={"HF_TOKEN": value}))
    assert BAD_BASE64.format("HF_TOKEN") in refusal(answer, 422)
    assert answer.json()["detail"][0]["loc"] == ["body", "models", 0, "override_credentials"]


@pytest.mark.parametrize("given", ["x", 1, ["HF_TOKEN"]])
def test_case_72_what_is_no_object(quick: Web, given: object) -> None:
    refusal(quick.submit(a_model(override_credentials=given)), 422)


def test_null_is_as_good_as_nothing(quick: Web) -> None:
    quick.submitted(a_model(override_credentials={"HF_TOKEN": None}), a_model(override_credentials=None))
    assert stored(quick) == []


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            a_model(override_credentials=brought(X="v")),
            "Unknown override key 'X' for hub 'huggingface'. Allowed keys: HF_TOKEN.",
        ),
        (
            a_model("llama3.2", "ollama", override_credentials=brought(X="v")),
            "Unknown override key 'X' for hub 'ollama'. Allowed keys: none.",
        ),
        (
            a_model("m", "geti", override_credentials=brought(GETI_HOST="geti.example")),
            "When overriding 'geti' credentials, 'GETI_TOKEN' must also be provided in the request.",
        ),
        (with_token("x" * 8193), "The value of override key 'HF_TOKEN' is longer than 8192 characters."),
        (with_token("x\ny"), "holds a control character"),
        (with_token(""), "is empty"),
    ],
)
def test_case_72_what_a_hub_does_not_take(quick: Web, model: dict[str, Any], told: str) -> None:
    for path in ("download", "plan"):
        answer = quick.post(f"/models/{path}?download_path=x", json={"models": [a_model(), model]})
        assert told in refusal(answer)
    assert quick.get("/jobs").json()["jobs"] == []
    assert stored(quick) == []


def test_a_conversion_takes_what_the_hub_of_its_source_takes(quick: Web) -> None:
    quick.submitted(with_token(hub="openvino", is_ovms=True))
    claim = quick.claim()
    fetch = claim.work["fetch"]
    assert claim.kind is StageKind.PLAN
    assert isinstance(fetch, dict)
    assert fetch["secret"]
    assert len(stored(quick)) == 1


# What is stored


def test_credentials_are_stored_sealed_and_apart(service: Web) -> None:
    (job_id,) = service.submitted(with_token(config={"colour": "blue"}))
    (sealed,) = stored(service)
    assert TOKEN.encode() not in sealed
    database = service.stages._database
    with database.read() as connection:
        for table in ("jobs", "stages", "job_events", "idempotency_keys"):
            rows = str(connection.execute(text(f"SELECT * FROM {table}")).all())
            assert TOKEN not in rows
            assert brought(T=TOKEN)["T"] not in rows
    assert TOKEN not in service.get(f"/jobs/{job_id}").text
    assert service.job(job_id)["config"] == {"colour": "blue"}


def test_a_stage_is_shared_only_by_those_who_brought_the_same(service: Web) -> None:
    service.submitted(a_model(), with_token(), with_token(), with_token("another"))
    service.submitted(with_token())
    assert service.stages.claimable(Pool.DOWNLOAD) == 4, "none, the first two, another, and another request"
    assert len(stored(service)) == 3


def test_a_request_that_is_sent_again_stores_nothing_anew(service: Web) -> None:
    for _ in range(3):
        answer = service.post(
            "/models/download?download_path=x", json={"models": [with_token()]}, headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 200
    assert len(stored(service)) == 1


def test_credentials_go_with_the_job(service: Web) -> None:
    for name, end in (("completed", Succeeded(artefact="a")), ("failed", Failed(code="c", detail="d", hint="h"))):
        (job_id,) = service.submitted(with_token(name=f"org/{name}"))
        assert len(stored(service)) == 1
        service.settle(end)
        if name == "completed":
            assert len(stored(service)) == 1, "it may be needed again until the end"
            service.settle(end)
        assert service.job(job_id)["status"] == name
        assert stored(service) == []
    (job_id,) = service.submitted(with_token(name="org/cancelled"))
    service.post(f"/jobs/{job_id}/cancel")
    assert stored(service) == []


def test_credentials_of_several_jobs_go_with_the_last(service: Web) -> None:
    first, second = service.submitted(with_token(), with_token(name="org/other"))
    service.post(f"/jobs/{first}/cancel")
    service.delete(f"/jobs/{first}")
    assert len(stored(service)) == 1
    service.post(f"/jobs/{second}/cancel")
    assert stored(service) == []


def test_a_job_that_had_credentials_is_not_tried_again_without_them(service: Web) -> None:
    (job_id,) = service.submitted(with_token())
    service.settle(Failed(code="source_gated", detail="d", hint="h"))
    answer = service.post(f"/jobs/{job_id}/retry")
    assert answer.status_code == 409
    assert "submit its model again with its credentials" in answer.json()["detail"]


def test_what_was_left_behind_and_what_is_too_old_is_swept(database: Database) -> None:
    jobs = JobStore(database)
    wanted = a_download()
    for secret_id in ("young", "old"):
        jobs.add([type(wanted)(**{**_fields(wanted), "secret": secret_id})], sealed={secret_id: secret_id.encode()})
    with database.write() as connection:
        connection.execute(text("INSERT INTO secrets (id, sealed, created_at) VALUES ('lost', 'x', 4e9)"))
        connection.execute(text("UPDATE secrets SET created_at = created_at - 8 * 86400 WHERE id = 'old'"))
    Retention(database, keep_days=0, keep_jobs=0).prune()
    assert kept(database) == [b"young"]
    assert StageStore(database, lease_s=60, retry=RetryPolicy()).sealed("old") is None


def test_jobs_that_end_at_one_moment_leave_no_credentials(database: Database) -> None:
    jobs = JobStore(database)
    for _ in range(5):
        specs = [type(one)(**{**_fields(one), "secret": "s"}) for one in (a_download(f"org/m{n}") for n in range(8))]
        ids = jobs.add(specs, sealed={"s": b"x"})
        assert kept(database) == [b"x"]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(jobs.cancel, ids))
        assert kept(database) == []


def test_no_request_shows_what_it_brought() -> None:
    model = ModelRequest.model_validate(with_token())
    assert TOKEN not in f"{model!r} {model} {model.wish()!r}"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


# What workers do with them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for name in ("gated-one", "open-one"):
        (root / name).mkdir()
        (root / name / "weights").write_text(name)
    return root


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with answered(tmp_path_factory.mktemp("working")) as running:
        yield running


def ended(service: Web, model: dict[str, Any]) -> dict[str, Any]:
    (job_id,) = service.submitted(model)
    until = time.monotonic() + 30
    while "completion_time" not in (job := service.job(job_id)):
        assert time.monotonic() < until, job
        time.sleep(0.02)
    return job


def gated(folder: Path, token: str | None = None, **more: Any) -> dict[str, Any]:
    own = {} if token is None else {"override_credentials": brought(FOLDER_TOKEN=token)}
    return a_model("gated-one", "folder", config={"root": str(folder)}, **own, **more)


def test_a_credential_is_used_for_its_own_request_alone(working: Web, folder: Path) -> None:
    assert ended(working, gated(folder))["error_code"] == "source_gated"
    assert ended(working, gated(folder, TOKEN))["status"] == "completed"
    again = ended(working, gated(folder))
    assert again["error_code"] == "source_gated", "what another was allowed is not allowed to all"
    assert stored(working) == []


def test_no_error_repeats_a_credential(working: Web, folder: Path) -> None:
    job = ended(working, gated(folder, WRONG))
    assert (job["error_code"], job["error"]) == ("token_invalid", "Nobody knows the token ***")


def test_a_plan_takes_them_too(working: Web, folder: Path) -> None:
    body = {"models": [gated(folder, TOKEN), gated(folder)]}
    plans = working.post("/models/plan?download_path=x", json=body).json()["plans"]
    assert [plan["status"] for plan in plans] == ["planned", "refused"]
    assert stored(working) == []


def test_what_narrows_the_operators_setting_stands_beside_it(working: Web) -> None:
    body = {"hub": "folder", "search": "access", "override_credentials": brought(FOLDER_ROOTS="a/b/")}
    (item,) = working.post("/models/list", json=body).json()["items"]
    assert item["metadata"] == {"REQUESTED_FOLDER_ROOTS": "a/b/", "given": ["REQUESTED_FOLDER_ROOTS"]}


def test_a_worker_with_another_key_says_so(tmp_path: Path, folder: Path) -> None:
    other = base64.b64encode(bytes(32)).decode()
    with answered(tmp_path, worker={"secret_key": other}) as service:
        job = ended(service, gated(folder, TOKEN))
        assert (job["status"], job["error_code"]) == ("failed", "credentials_lost")
        assert "MODELFERRY_SECRET_KEY" in job["hint"]
        assert stored(service) == []


# Checks before a job is made


def test_case_73_no_job_is_made_of_credentials_that_the_hub_does_not_know(working: Web, folder: Path) -> None:
    before = len(working.get("/jobs").json()["jobs"])
    answer = working.submit(a_model("open-one", "folder"), gated(folder, WRONG, validate_credentials=True))
    told = "Credential validation failed [folder_auth]: The folder does not know this token"
    assert refusal(answer) == told
    assert refusal(working.submit(gated(folder, validate_credentials=True))) == told
    assert len(working.get("/jobs").json()["jobs"]) == before
    assert stored(working) == []
    assert ended(working, gated(folder, TOKEN, validate_credentials=True))["status"] == "completed"


def test_where_there_is_nothing_to_check_nothing_is_checked(quick: Web) -> None:
    quick.submitted(a_model("llama3.2", "ollama", validate_credentials=True))


def test_case_73_the_hugging_face_hub_is_asked_once_for_all_equal_credentials(tmp_path: Path) -> None:
    with FakeHuggingFace() as hub:
        hub.tokens = {TOKEN: set()}
        with answered(tmp_path, hf_endpoint=hub.endpoint) as service:
            models = [with_token(name=f"org/m{number}", validate_credentials=True) for number in range(3)]
            assert service.submit(*models).status_code == 200
            assert refusal(service.submit(with_token(WRONG, validate_credentials=True))).startswith(
                "Credential validation failed [hf_auth]: "
            )
    assert hub.requests.count("*whoami*") == 2


def test_case_73_a_hub_that_is_away_cannot_tell(tmp_path: Path) -> None:
    with answered(tmp_path, hf_endpoint="http://127.0.0.1:1") as service:
        told = refusal(service.submit(with_token(validate_credentials=True)))
        assert told.startswith("Credential validation failed [hf_connectivity]: ")
        assert service.get("/jobs").json()["jobs"] == []
