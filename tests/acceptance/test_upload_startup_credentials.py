"""Models that clients send, models that are there from the start, and credentials of requests."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import WITHOUT_CONVERSIONS, Wire, faults, files_below, refused
from tests.e2e.service import Service
from tests.fakes.geti import zip_of
from tests.fakes.huggingface import FakeHuggingFace

IR = {"deployment/model.xml": b"<net/>", "deployment/model.bin": b"weights", "note.txt": b"kept"}
UPLOADS = "custom_uploaded_models"
OURS, THEIRS = "hf_the-operators-own", "hf_of-one-request"
A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
STARTUP = """\
download_path: from/the/start
models:
  - name: org/model
    hub: huggingface
  - {name: org/other, hub: HuggingFace, download_path: elsewhere}
"""
PARTLY_BAD = """\
download_path: partly
models:
  - {name: yolov8n, hub: ultralytics}
  - {name: org/other, hub: huggingface}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with FakeHuggingFace() as hub:
        hub.tokens = {OURS: {"org/ours"}, THEIRS: {"org/theirs"}}
        for name in ("org/model", "org/other"):
            hub.add_repo(name, {"config.json": b"{}", "model.safetensors": name.encode() * 100})
        for name in ("org/ours", "org/theirs"):
            hub.add_repo(name, {"config.json": b"{}", "model.safetensors": name.encode() * 100}, gated="manual")
        with Service(
            tmp_path_factory.mktemp("upload"),
            run=WITHOUT_CONVERSIONS,
            HF_ENDPOINT=hub.endpoint,
            HF_TOKEN=OURS,
            MAX_UPLOAD_SIZE_MB="1",
        ) as service:
            yield service


# Upload


def uploaded(wire: Wire, file: bytes, **fields: str) -> httpx.Response:
    return wire.ask("POST", "/models/upload", files={"file": ("model.zip", file)}, data=fields)


@case(67)
def test_an_upload_is_published_once(wire: Wire) -> None:
    name = f"My Model.{wire.form}"
    answer = uploaded(wire, zip_of(IR), model_name=name)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    kept = f"My_Model.{wire.form}"
    folder = wire.below(f"{UPLOADS}/geti/openvino/{kept}/FP16")
    assert (body["status"], body["model_name"], body["model_path"]) == ("success", kept, str(folder))
    assert files_below(folder) >= set(IR), "the tree of the zip, as it is"
    job = wire.job(body["job_id"])
    assert (job["operation_type"], job["hub"], job["status"]) == ("upload", "user-uploaded", "completed")
    assert (job["model_name"], job["output_dir"], job["plugin_name"]) == (kept, str(folder), None)
    again = uploaded(wire, zip_of(IR), model_name=name)
    assert again.status_code == 409
    assert again.json()["detail"].startswith(f"Model '{kept}' already exists ")


@case(68)
@pytest.mark.parametrize(
    ("file", "name", "words"),
    [
        pytest.param(b"this is no zip", "bad", "Uploaded file is not a valid ZIP archive.", id="no-zip"),
        pytest.param(
            zip_of({"model.xml": b"<net/>"}),
            "bad",
            "ZIP must contain at least one .xml and one .bin file (OpenVINO IR format).",
            id="no-weights",
        ),
        pytest.param(
            zip_of({"../../e.xml": b"<net/>", "model.bin": b"w"}),
            "bad",
            "Invalid ZIP archive: '../../e.xml' resolves outside target directory.",
            id="climbs",
        ),
        pytest.param(zip_of(IR), "../x", "model_name", id="no-name"),
    ],
)
def test_an_upload_that_will_not_do_is_refused_and_leaves_nothing(
    wire: Wire, file: bytes, name: str, words: str
) -> None:
    refused(uploaded(wire, file, model_name=name), words)
    assert not wire.below(f"{UPLOADS}/geti/openvino/bad").exists()
    assert not list(wire.service.folder.rglob("e.xml"))
    assert not list(wire.below(".modelferry/work").iterdir())


@case(68)
def test_an_upload_may_not_be_too_large(wire: Wire) -> None:
    answer = uploaded(wire, zip_of({**IR, "large.bin": b"\0" * 2_000_000}), model_name="large")
    assert answer.status_code == 413
    assert "exceeds the 1MB upload limit." in answer.json()["detail"]
    assert not wire.below(f"{UPLOADS}/geti/openvino/large").exists()


@case(68)
def test_an_upload_has_a_file_and_a_name(wire: Wire) -> None:
    assert faults(uploaded(wire, zip_of(IR))) == [("missing", ["body", "model_name"])]
    answer = wire.ask("POST", "/models/upload", data={"model_name": "a"})
    assert ("missing", ["body", "file"]) in faults(answer)


# Models from the start


def started(service: Service, name: str, config: Path) -> Wire:
    """A web process with this file of startup models. It answers before they are there."""
    service.start(name, STARTUP_MODELS_CONFIG=str(config))
    service.await_health(name)
    return Wire(service, "bare", api=name)


def said(service: Service, name: str, event: str) -> str:
    """The line in which a process has told of an event, once it has."""

    def found() -> list[str]:
        return [line for line in service.lines(name) if event in line]

    service.wait_until(found, 10, f"{event} told by {name}")
    return found()[0]


@pytest.fixture(scope="module")
def begun(service: Service) -> Iterator[SimpleNamespace]:
    """Two web processes with two files, and the jobs of each by their models' names."""
    files = {"api-whole": STARTUP, "api-partly": PARTLY_BAD}
    jobs = {}
    for name, text in files.items():
        config = service.folder / f"{name}.yaml"
        config.write_text(text)
        before = {job["id"] for job in service.get("/jobs").json()["jobs"]}
        wire = started(service, name, config)
        said(service, name, "startup_model_submission_failed" if text is PARTLY_BAD else "startup_model_scheduled")
        new = {"org/model", "org/other"} if text is STARTUP else {"org/other"}

        def found(wire: Wire = wire, before: set[str] = before) -> dict[str, Any]:
            return {job["model_name"]: job for job in wire.jobs() if job["id"] not in before}

        service.wait_until(lambda found=found, new=new: new <= found().keys(), 10, "the jobs of the start")
        jobs[name] = {model: wire.wait(job["id"]) for model, job in found().items()}
    yield SimpleNamespace(**{name.removeprefix("api-"): one for name, one in jobs.items()})
    for name in files:
        service.kill(name)


@case(70)
def test_models_of_the_file_are_asked_for_at_the_start(wire: Wire, begun: SimpleNamespace) -> None:
    assert {name: job["status"] for name, job in begun.whole.items()} == {
        "org/model": "completed",
        "org/other": "completed",
    }
    assert {job["id"] for job in begun.whole.values()} <= {job["id"] for job in wire.jobs()}
    assert Wire(wire.service, wire.form, api="api-whole").get("/health").json() == {"status": "ok"}


@case(70)
def test_a_file_that_cannot_be_used_is_passed_over_as_a_whole(service: Service) -> None:
    folder = service.folder / "unusable"
    folder.mkdir()
    model = "  - {name: org/model, hub: huggingface}\n"
    texts = {
        "field.yaml": f"download_path: x\nmodels:\n{model}  - {{name: org/other, hub: huggingface, colour: blue}}\n",
        "many.yaml": "download_path: x\nmodels:\n" + model * 101,
        "large.yaml": f"download_path: x\nmodels:\n{model}# " + "x" * 1024 * 1024,
        "models.txt": f"download_path: x\nmodels:\n{model}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    os.mkfifo(folder / "pipe.yaml")
    before = len(service.get("/jobs").json()["jobs"])
    processes = {f"api-{number}": file for number, file in enumerate(sorted(folder.iterdir()))}
    for name, file in processes.items():
        service.start(name, STARTUP_MODELS_CONFIG=str(file))
    for name, file in processes.items():
        service.await_health(name)
        line = said(service, name, "startup_models_config_unusable")
        assert all(word in line for word in (str(file), "reason=", "action=")), line
    assert len(service.get("/jobs").json()["jobs"]) == before
    for name in processes:
        service.kill(name)


@case(71)
def test_a_model_of_the_file_may_have_a_place_of_its_own(wire: Wire, begun: SimpleNamespace) -> None:
    assert begun.whole["org/model"]["output_dir"] == str(wire.below("from/the/start"))
    assert begun.whole["org/other"]["output_dir"] == str(wire.below("elsewhere"))
    assert wire.below("elsewhere/huggingface/org_other/model.safetensors").is_file()


@case(71)
def test_a_model_that_cannot_be_had_stops_no_other(wire: Wire, begun: SimpleNamespace) -> None:
    assert set(begun.partly) == {"org/other"}
    assert wire.job(begun.partly["org/other"]["id"])["status"] == "completed"
    assert "yolov8n" in said(wire.service, "api-partly", "startup_model_submission_failed")


# Credentials of a request


def encoded(**values: str) -> dict[str, str]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}


def with_credentials(wire: Wire, hub: str = "huggingface", **values: str) -> httpx.Response:
    return wire.download({"name": "org/model", "hub": hub, "override_credentials": encoded(**values)})


@case(72)
@pytest.mark.parametrize("value", ["not base64!", base64.b64encode(b"\xff\xfe").decode()])
def test_credentials_are_base64_of_text(wire: Wire, value: str) -> None:
    answer = wire.download({**A_MODEL, "override_credentials": {"HF_TOKEN": value}})
    assert [kind for kind, _ in faults(answer)] == ["value_error"]
    told = answer.json()["detail"][0]["msg"]
    assert "override_credentials['HF_TOKEN'] must be a valid Base64-encoded UTF-8 string" in told


@case(72)
def test_credentials_that_the_hub_does_not_know_or_that_lack_others_are_refused(wire: Wire) -> None:
    refused(with_credentials(wire, GETI_TOKEN="x"), "Unknown override key 'GETI_TOKEN' for hub 'huggingface'.")
    told = "When overriding 'geti' credentials, 'GETI_TOKEN' must also be provided in the request."
    assert refused(with_credentials(wire, "geti", GETI_HOST="https://geti.example")) == told
    refused(with_credentials(wire, HF_TOKEN="x" * 8193), "HF_TOKEN", "8192")


@case(72)
def test_credentials_of_a_request_win_and_hold_for_it_alone(wire: Wire) -> None:
    ours, theirs = {**A_MODEL, "name": "org/ours"}, {**A_MODEL, "name": "org/theirs"}
    place = f"opened/{wire.form}"
    wire.completed(ours, place)
    wire.completed({**theirs, "override_credentials": encoded(HF_TOKEN=THEIRS)}, place)
    assert wire.failed({**ours, "override_credentials": encoded(HF_TOKEN=THEIRS)}, f"{place}/no")["error"]
    assert "gated" in wire.failed(theirs, f"{place}/no")["error"]


@case(73)
def test_credentials_can_be_checked_before_there_is_a_job(wire: Wire) -> None:
    before = len(wire.jobs())
    checked = {**A_MODEL, "validate_credentials": True}
    answer = wire.download({**checked, "override_credentials": encoded(HF_TOKEN="nobody")})
    assert refused(answer).startswith("Credential validation failed [hf_auth]: ")
    assert len(wire.jobs()) == before
    wire.completed({**checked, "override_credentials": encoded(HF_TOKEN=THEIRS)}, f"checked/{wire.form}")
