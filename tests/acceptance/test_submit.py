"""Submissions: what has the documented shape, what it means, and what is refused before there is a job."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import WITHOUT_CONVERSIONS, Wire, conversion, faults, files_below, in_model, refused
from tests.e2e.service import Service
from tests.fakes.geti import FakeGeti2, Shelf, Training
from tests.fakes.huggingface import FakeHuggingFace

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
SECRET = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
HIDDEN = base64.b64encode(SECRET.encode()).decode()
READY_MADE = {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"\0" * 2000, "config.json": b"{}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with FakeHuggingFace() as hub, FakeGeti2() as geti:
        hub.add_repo("org/model", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
        hub.add_repo("OpenVINO/model-int8-ov", READY_MADE)
        geti.add(Shelf(name="Project").add(Training(name="Detector")))
        with Service(
            tmp_path_factory.mktemp("submit"),
            run=WITHOUT_CONVERSIONS,
            HF_ENDPOINT=hub.endpoint,
            GETI_HOST=geti.host,
            GETI_TOKEN=geti.token,
        ) as service:
            service.start("api-2", ENABLED_PLUGINS="huggingface")
            service.await_health("api-2")
            yield service


@pytest.fixture
def narrow(wire: Wire) -> Wire:
    """The same service through a web process that offers one hub and no conversion."""
    return Wire(wire.service, wire.form, api="api-2")


def submitted(wire: Wire, **config: object) -> dict[str, Any]:
    """The job of a conversion with this config. No worker converts here."""
    (job_id,) = wire.submit(conversion("org/model", "llm", **config), download_path="x")
    job = wire.job(job_id)
    wire.post(f"/jobs/{job_id}/cancel")
    return job


def configured(wire: Wire, **config: object) -> httpx.Response:
    return wire.download(conversion("org/model", "llm", **config))


# Its shape


@case(5)
def test_no_models_are_no_fault(wire: Wire) -> None:
    answer = wire.post("/models/download", {"models": []}, download_path="x")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Started processing 0 model(s)", "job_ids": [], "status": "processing"}


@case(6)
def test_the_download_path_is_required(wire: Wire) -> None:
    assert faults(wire.post("/models/download", {"models": [A_MODEL]})) == [("missing", ["query", "download_path"])]


@case(7)
def test_an_empty_download_path_is_the_models_directory(wire: Wire) -> None:
    answer = wire.ask("POST", "/models/download?download_path=", json={"models": [A_MODEL]})
    assert answer.status_code == 200
    assert wire.job(answer.json()["job_ids"][0])["output_dir"] == str(wire.service.models_dir)


@case(8)
@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"name": "", "hub": "huggingface"}, ("string_too_short", in_model("name"))),
        ({"name": "a"}, ("missing", in_model("hub"))),
        ({"name": "a", "hub": "nope"}, ("enum", in_model("hub"))),
        ({**A_MODEL, "type": "LLM"}, ("enum", in_model("type"))),
    ],
)
def test_a_model_without_the_documented_shape_is_refused(
    wire: Wire, model: dict[str, Any], fault: tuple[str, list[Any]]
) -> None:
    assert faults(wire.download(model)) == [fault]


@case(8)
def test_a_body_that_is_no_json_is_refused(wire: Wire) -> None:
    headers = {"Content-Type": "application/json"}
    answer = wire.ask("POST", "/models/download?download_path=x", content=b"not json", headers=headers)
    assert [kind for kind, _ in faults(answer)] == ["json_invalid"]


@case(9)
@pytest.mark.parametrize(
    ("hub", "name"), [("HuggingFace", "org/model"), ("GETI", "Detector"), ("Pipeline-Zoo-Models", "dbnet")]
)
def test_hubs_are_named_in_any_case(wire: Wire, hub: str, name: str) -> None:
    (job_id,) = wire.submit({"name": name, "hub": hub})
    assert wire.job(job_id)["hub"] == hub.lower()


@case(10)
def test_a_revision_is_text(wire: Wire) -> None:
    assert faults(wire.download({**A_MODEL, "revision": 3})) == [("string_type", in_model("revision"))]
    assert wire.completed({**A_MODEL, "revision": "main"})["revision"] == "main"


@case(11)
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"precision": "bf16"}, "enum"),
        ({"device": "TPU"}, "value_error"),
        ({"cache_size": 0}, "greater_than"),
        ({"cache_size": ""}, "int_parsing"),
    ],
)
def test_a_config_of_impossible_values_is_refused(wire: Wire, config: dict[str, Any], kind: str) -> None:
    assert faults(configured(wire, **config)) == [(kind, in_model("config", *config))]


@case(11)
def test_digits_are_a_cache_size(wire: Wire) -> None:
    assert submitted(wire, cache_size="10")["config"] == {"cache_size": 10}


@case(12)
@pytest.mark.parametrize(
    ("device", "stored", "folder"),
    [
        (" hetero:gpu,cpu ", "HETERO:GPU,CPU", "hetero_gpu_cpu"),
        ("HETERO:NPU,GPU.1,CPU", "HETERO:NPU,GPU.1,CPU", "hetero_npu_gpu.1_cpu"),
    ],
)
def test_several_devices_may_be_named(wire: Wire, device: str, stored: str, folder: str) -> None:
    job = submitted(wire, device=device)
    assert job["config"] == {"device": stored}
    assert job["output_dir"] == str(wire.below(f"x/openvino_models/{folder}/int8"))


@case(12)
@pytest.mark.parametrize("device", ["HETERO", "HETERO:GPU,FPGA"])
def test_devices_that_nobody_knows_are_refused(wire: Wire, device: str) -> None:
    answer = configured(wire, device=device)
    assert faults(answer) == [("value_error", in_model("config", "device"))]
    told = f"Invalid device '{device}'. Use CPU, GPU, NPU, or HETERO:<dev>[,<dev>...]"
    assert told in answer.json()["detail"][0]["msg"]


@case(14)
def test_an_unknown_field_of_a_model_is_passed_over(wire: Wire) -> None:
    assert wire.completed({**A_MODEL, "colour": "blue", "deep": {"er": [1]}})["config"] == {}


@case(14)
def test_an_unknown_field_of_a_config_reaches_the_plugin(wire: Wire) -> None:
    job = wire.completed({"name": "detector", "hub": "geti", "config": {"zebra": "striped"}}, f"kept/{wire.form}")
    assert job["config"] == {"zebra": "striped"}
    assert job["result"]["warnings"]["ignored_fields"] == ["zebra"], "the plugin says that it knows no such thing"


@case(15)
@pytest.mark.parametrize(
    "model",
    [
        {"type": "x", "override_credentials": {"HF_TOKEN": HIDDEN}},
        {"override_credentials": {"HF_TOKEN": SECRET}},
        {"override_credentials": HIDDEN},
        {"override_credentials": {"HF_TOKEN": [HIDDEN]}},
        {"override_credentials": {"HF_TOKEN": {"x": HIDDEN}}, "validate_credentials": SECRET},
        {"hub": SECRET, "is_ovms": SECRET, "target": SECRET, "config": {"precision": SECRET}},
    ],
)
def test_a_refusal_never_repeats_a_credential(wire: Wire, model: dict[str, Any]) -> None:
    answer = wire.download({**A_MODEL, **model})
    assert answer.status_code == 422
    assert SECRET not in answer.text
    assert HIDDEN not in answer.text


# What it means


@case(17)
def test_ids_come_in_the_order_of_the_models_and_can_be_read_at_once(wire: Wire) -> None:
    names = [f"org/model-{number}" for number in range(7)]
    answer = wire.download(*({**A_MODEL, "name": name} for name in names))
    assert (answer.status_code, answer.json()["message"]) == (200, "Started processing 7 model(s)")
    assert "error" not in answer.text, "clients search for the word"
    ids = answer.json()["job_ids"]
    assert len(set(ids)) == 7
    assert [wire.job(job_id)["model_name"] for job_id in ids] == names


@case(18)
def test_a_hub_that_is_not_active_is_told_with_those_that_are(narrow: Wire) -> None:
    before = len(narrow.jobs())
    detail = refused(narrow.download(A_MODEL, {"name": "llama3.2", "hub": "ollama"}), "'ollama'", "not available")
    assert detail.endswith("Active hubs: huggingface.")
    assert len(narrow.jobs()) == before, "nor was the model before it accepted"


@case(20)
@pytest.mark.parametrize("hub", ["openvino", "huggingface"])
def test_there_is_no_conversion_without_its_plugin(narrow: Wire, hub: str) -> None:
    before = len(narrow.jobs())
    detail = refused(narrow.download(A_MODEL, {**conversion("org/model", "llm"), "hub": hub}))
    assert detail.startswith("OpenVINO conversion requested but plugin is not available: ")
    assert len(narrow.jobs()) == before


@case(21)
def test_models_of_other_hubs_are_fetched_and_converted_in_one_job(wire: Wire) -> None:
    (job_id,) = wire.submit({**conversion("org/model", "llm"), "hub": "huggingface"})
    job = wire.job(job_id)
    assert (job["operation_type"], job["hub"], job["plugin_name"]) == ("convert", "huggingface", "openvino")
    wire.post(f"/jobs/{job_id}/cancel")


@case(21)
@pytest.mark.parametrize("hub", ["ollama", "geti", "pipeline-zoo-models", "omz", "remote-url", "hls"])
def test_models_that_cannot_be_converted_are_refused_with_guidance(wire: Wire, hub: str) -> None:
    answer = wire.download({"name": "model", "hub": hub, "is_ovms": True, "type": "llm"})
    refused(answer, f"'{hub}'", "cannot be converted", "Set is_ovms to false")


@case(22)
def test_a_ready_made_model_is_downloaded_as_it_is(wire: Wire) -> None:
    job = wire.completed({"name": "OpenVINO/model-int8-ov", "hub": "openvino"}, f"ready/{wire.form}")
    folder = wire.below(f"ready/{wire.form}/openvino/OpenVINO_model-int8-ov")
    assert job["operation_type"] == "download"
    assert job["path"] == str(folder)
    assert files_below(folder) >= set(READY_MADE)


@case(22)
def test_a_model_that_is_not_ready_made_is_not_silently_completed(wire: Wire) -> None:
    job = wire.failed({"name": "org/model", "hub": "openvino"})
    assert "is_ovms" in job["hint"]
