"""Submissions: what is taken, what is refused, and that a refusal stores nothing."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.compat.submission import read_submission
from common.vocabulary import Pool
from tests.web import Web, web

A_MODEL: dict[str, Any] = {"name": "org/model", "hub": "huggingface"}
A_CONVERSION: dict[str, Any] = {"name": "org/model", "hub": "openvino", "type": "llm", "is_ovms": True}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as running:
        yield running


def faults(answer: httpx.Response) -> list[tuple[str, list[Any]]]:
    """The (type, loc) pairs of a 422, whose items must have the three documented keys and no other."""
    assert answer.status_code == 422, answer.text
    found = answer.json()["detail"]
    assert all(set(fault) == {"type", "loc", "msg"} for fault in found)
    return [(fault["type"], fault["loc"]) for fault in found]


def in_model(*path: str) -> list[Any]:
    return ["body", "models", 0, *path]


def nothing_stored(service: Web) -> bool:
    return service.get("/jobs").content == b'{"jobs":[]}'


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_case_5_no_models_is_no_fault(service: Web, prefix: str) -> None:
    answer = service.post(f"{prefix}/models/download?download_path=x", json={"models": []})
    assert answer.status_code == 200
    assert answer.content == b'{"message":"Started processing 0 model(s)","job_ids":[],"status":"processing"}'


def test_case_6_the_download_path_is_required(service: Web) -> None:
    answer = service.post("/models/download", json={"models": [A_MODEL]})
    assert faults(answer) == [("missing", ["query", "download_path"])]
    assert answer.json()["detail"][0]["msg"] == "Field required"
    assert nothing_stored(service)


def test_case_7_an_empty_download_path_is_the_models_directory(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL, download_path="")
    assert service.job(job_id)["output_dir"] == str(service.models_dir)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"name": "", "hub": "huggingface"}, ("string_too_short", in_model("name"))),
        ({"hub": "huggingface"}, ("missing", in_model("name"))),
        ({"name": 1, "hub": "huggingface"}, ("string_type", in_model("name"))),
        ({"name": "a"}, ("missing", in_model("hub"))),
        ({"name": "a", "hub": "nope"}, ("enum", in_model("hub"))),
        ({"name": "a", "hub": None}, ("enum", in_model("hub"))),
        ({**A_MODEL, "type": "LLM"}, ("enum", in_model("type"))),
        ({**A_MODEL, "is_ovms": "perhaps"}, ("bool_parsing", in_model("is_ovms"))),
        ({**A_MODEL, "is_ovms": None}, ("bool_type", in_model("is_ovms"))),
        ({**A_MODEL, "config": "x"}, ("model_attributes_type", in_model("config"))),
        ({**A_MODEL, "target": "toaster"}, ("enum", in_model("target"))),
        ("x", ("model_attributes_type", in_model())),
    ],
)
def test_case_8_a_model_without_the_documented_shape(service: Web, model: object, fault: tuple[str, list[Any]]) -> None:
    answer = service.post("/models/download?download_path=x", json={"models": [model]})
    assert faults(answer) == [fault]
    assert nothing_stored(service)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"not json", ("json_invalid", ["body", 0])),
        (b'{"models": [1,]}', ("json_invalid", ["body", 14])),
        (b"[" * 100_000, ("json_invalid", ["body", 0])),
        (b'{"models": [], "x": "\\ud800"}', ("json_invalid", ["body", 0])),
        (b'{"models": [], "x": NaN}', ("json_invalid", ["body", 0])),
        (b"", ("missing", ["body"])),
        (b"null", ("missing", ["body"])),
        (b"[]", ("model_attributes_type", ["body"])),
        (b"{}", ("missing", ["body", "models"])),
        (b'{"models": {}}', ("list_type", ["body", "models"])),
        (b'{"models": [], "x": 1e999}', ("value_error", ["body"])),
        (b'{"models": [], "x": 99999999999999999999}', ("value_error", ["body"])),
    ],
)
def test_case_8_a_body_without_the_documented_shape(service: Web, body: bytes, fault: tuple[str, list[Any]]) -> None:
    answer = service.post(
        "/models/download?download_path=x", content=body, headers={"Content-Type": "application/json"}
    )
    assert faults(answer) == [fault]


def test_all_faults_of_query_and_body_are_told_at_once(service: Web) -> None:
    answer = service.post("/models/download", json={"models": [{"name": ""}, A_MODEL, {"hub": "nope"}]})
    assert faults(answer) == [
        ("missing", ["query", "download_path"]),
        ("string_too_short", ["body", "models", 0, "name"]),
        ("missing", ["body", "models", 0, "hub"]),
        ("missing", ["body", "models", 2, "name"]),
        ("enum", ["body", "models", 2, "hub"]),
    ]


def test_a_body_in_no_encoding_is_refused(service: Web) -> None:
    answer = service.post("/models/download?download_path=x", content=b'{"models": "\xff"}')
    assert (answer.status_code, answer.json()) == (400, {"detail": "There was an error parsing the body"})
    assert answer.headers["x-error-code"] == "unreadable_body"


def test_a_form_of_another_page_is_not_taken_for_json(service: Web) -> None:
    body = b'{"models": [{"name": "org/model", "hub": "huggingface"}]}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = service.post("/models/download?download_path=x", content=body, headers={"Content-Type": kind})
        assert faults(answer) == [("model_attributes_type", ["body"])]
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        answer = service.post("/models/download?download_path=x", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 200
    assert service.client.post("/models/download?download_path=x", content=body).status_code == 200


def test_a_huge_body_is_refused(service: Web) -> None:
    answer = service.post("/models/download?download_path=x", content=b" " * 1_200_000)
    assert answer.status_code == 413
    assert set(answer.json()) == {"detail"}


@pytest.mark.parametrize("hub", ["HuggingFace", "HUGGINGFACE", "huggingface"])
def test_case_9_hub_names_are_taken_in_any_case(service: Web, hub: str) -> None:
    (job_id,) = service.submitted({"name": "org/model", "hub": hub})
    assert service.job(job_id)["hub"] == "huggingface"


@pytest.mark.parametrize("hub", ["GETI", "Pipeline-Zoo-Models", "ollama", "hls", "remote-url", "omz", "Ultralytics"])
def test_case_9_every_hub_of_the_contract_passes_the_schema(tmp_path: Path, hub: str) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        answer = service.submit({"name": "model", "hub": hub})
    assert answer.status_code == 400
    assert f"Plugin '{hub.lower()}' is not available" in answer.json()["detail"]


def test_case_9_an_installed_hub_beside_those_of_the_contract_passes_too() -> None:
    body = b'{"models": [{"name": "model", "hub": "Acme"}]}'
    submission = read_submission([("download_path", "x")], body, "application/json", ["acme"])
    assert [wish.hub for wish in submission.wishes] == ["acme"]


def test_case_10_a_revision_is_a_string(service: Web) -> None:
    assert faults(service.submit({**A_MODEL, "revision": 3})) == [("string_type", in_model("revision"))]
    (job_id,) = service.submitted({**A_MODEL, "revision": "main"})
    assert service.job(job_id)["revision"] == "main"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"precision": "bf16"}, ("enum", in_model("config", "precision"))),
        ({"precision": "INT8"}, ("enum", in_model("config", "precision"))),
        ({"weight-format": "bf16"}, ("enum", in_model("config", "weight-format"))),
        ({"device": "TPU"}, ("value_error", in_model("config", "device"))),
        ({"target_device": "TPU"}, ("value_error", in_model("config", "target_device"))),
        ({"device": 5}, ("string_type", in_model("config", "device"))),
        ({"cache_size": 0}, ("greater_than", in_model("config", "cache_size"))),
        ({"cache_size": "-1"}, ("greater_than", in_model("config", "cache_size"))),
        ({"cache_size": ""}, ("int_parsing", in_model("config", "cache_size"))),
        ({"cache_size": 1.5}, ("int_from_float", in_model("config", "cache_size"))),
        (
            {"openvino_config": {"num_streams": 0}},
            ("greater_than", in_model("config", "openvino_config", "num_streams")),
        ),
    ],
)
def test_case_11_config_is_checked(service: Web, config: dict[str, Any], fault: tuple[str, list[Any]]) -> None:
    assert faults(service.submit({**A_CONVERSION, "config": config})) == [fault]
    assert nothing_stored(service)


def test_case_11_a_string_of_digits_is_a_cache_size(service: Web) -> None:
    (job_id,) = service.submitted({**A_CONVERSION, "config": {"cache_size": "10"}})
    assert service.job(job_id)["config"] == {"cache_size": 10}


@pytest.mark.parametrize(
    ("device", "stored", "slug"),
    [
        (" hetero:gpu,cpu ", "HETERO:GPU,CPU", "hetero_gpu_cpu"),
        ("HETERO:NPU,GPU.1,CPU", "HETERO:NPU,GPU.1,CPU", "hetero_npu_gpu.1_cpu"),
        ("HETERO:CPU", "HETERO:CPU", "hetero_cpu"),
        ("cpu", "CPU", "cpu"),
        ("\tgpu\n", "GPU", "gpu"),
    ],
)
def test_case_12_devices_are_normalised(service: Web, device: str, stored: str, slug: str) -> None:
    (job_id,) = service.submitted({**A_CONVERSION, "config": {"device": device}})
    job = service.job(job_id)
    assert job["config"] == {"device": stored}
    assert job["output_dir"] == str(service.models_dir / "x" / "openvino_models" / slug / "int8")


@pytest.mark.parametrize(
    "device",
    ["HETERO", "HETERO:", "HETERO:GPU,FPGA", "HETERO:GPU,,CPU", "GPU.1", "CPU\n;x", "HETERO:" + "CPU," * 90 + "CPU"],
)
def test_case_12_other_devices_are_refused(service: Web, device: str) -> None:
    answer = service.submit({**A_CONVERSION, "config": {"device": device}})
    assert faults(answer) == [("value_error", in_model("config", "device"))]
    message = answer.json()["detail"][0]["msg"]
    assert f"Invalid device '{device[:80]}'. Use CPU, GPU, NPU, or HETERO:<dev>[,<dev>...]" in message


def test_case_14_unknown_fields_of_a_model_are_ignored(service: Web) -> None:
    service.submitted({**A_MODEL, "colour": "blue", "parallel": {"deep": [1]}})


def test_case_14_unknown_config_fields_reach_the_plugin(service: Web) -> None:
    (job_id,) = service.submitted({**A_MODEL, "config": {"colour": "blue", "device": None}})
    assert service.job(job_id)["config"] == {"colour": "blue"}
    options = service.claim(Pool.DOWNLOAD).work["options"]
    assert isinstance(options, dict)
    assert options["extra"] == {"colour": "blue"}


def test_case_15_a_refusal_never_repeats_a_credential(service: Web) -> None:
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
    hidden = base64.b64encode(token.encode()).decode()
    bodies: list[Any] = [
        {**A_MODEL, "override_credentials": {"HF_TOKEN": hidden}, "type": "x"},
        {**A_MODEL, "override_credentials": {"MY_TOKEN": hidden}},
        {**A_MODEL, "override_credentials": {"HF_TOKEN": token}},
        {**A_MODEL, "override_credentials": hidden},
        {**A_MODEL, "override_credentials": [hidden]},
        {**A_MODEL, "override_credentials": {"HF_TOKEN": [hidden]}},
        {**A_MODEL, "override_credentials": {"HF_TOKEN": {"x": hidden}}, "validate_credentials": token},
        {**A_MODEL, "hub": token, "type": token, "is_ovms": token, "target": token, "revision": [token]},
        {**A_MODEL, "config": {"precision": token, "cache_size": token, "url": [token], "model_only": token}},
    ]
    for body in bodies:
        answer = service.submit(body)
        assert answer.status_code in {400, 422}
        assert token not in answer.text
        assert hidden not in answer.text
    assert nothing_stored(service)


def test_what_asks_for_nothing_more_is_taken(service: Web) -> None:
    model = {**A_MODEL, "override_credentials": {}, "validate_credentials": False, "target": None, "config": None}
    answer = service.post(
        "/models/download?download_path=x", json={"models": [model], "parallel_downloads": True, "more": 1}
    )
    assert answer.status_code == 200
    answer = service.post("/models/download?download_path=x", json={"models": [model], "parallel_downloads": None})
    assert answer.status_code == 200


def test_the_older_name_of_rerank_is_taken(service: Web) -> None:
    (job_id,) = service.submitted({**A_MODEL, "type": "reranker"})
    assert service.job(job_id)["model_type"] == "rerank"


def test_case_17_ids_come_in_request_order(service: Web) -> None:
    names = [f"org/model-{number}" for number in range(20)]
    ids = service.submitted(*({**A_MODEL, "name": name} for name in names))
    assert len(set(ids)) == len(names)
    assert [service.job(job_id)["model_name"] for job_id in ids] == names


def test_case_17_the_answer_holds_nothing_that_looks_like_a_failure(service: Web) -> None:
    answer = service.submit(A_MODEL, A_CONVERSION)
    assert list(answer.json()) == ["message", "job_ids", "status"]
    assert answer.json()["message"] == "Started processing 2 model(s)"
    assert "error" not in answer.text


def test_case_18_a_hub_that_is_not_enabled(tmp_path: Path) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        answer = service.submit(A_MODEL, {"name": "org/model", "hub": "openvino"})
        assert answer.status_code == 400
        assert answer.json()["detail"] == (
            "Plugin 'openvino' is not available: Hub 'openvino' was not activated during container startup. "
            "Active hubs: huggingface."
        )
        assert nothing_stored(service)


@pytest.mark.parametrize("hub", ["huggingface", "openvino"])
def test_case_20_no_conversion_without_its_converter(tmp_path: Path, hub: str) -> None:
    with web(tmp_path, enabled_plugins="huggingface") as service:
        answer = service.submit(A_MODEL, {**A_CONVERSION, "hub": hub})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("OpenVINO conversion requested but plugin is not available: ")
        assert nothing_stored(service)


def test_case_21_other_hubs_can_be_converted_from_too(service: Web) -> None:
    (job_id,) = service.submitted({**A_CONVERSION, "hub": "huggingface"})
    job = service.job(job_id)
    assert (job["operation_type"], job["hub"], job["plugin_name"]) == ("convert", "huggingface", "openvino")


def test_case_22_a_ready_made_model_is_a_download(service: Web) -> None:
    (job_id,) = service.submitted({"name": "OpenVINO/model-int4-ov", "hub": "openvino"})
    job = service.job(job_id)
    assert (job["operation_type"], job["hub"]) == ("download", "openvino")


@pytest.mark.parametrize("kind", ["3d-pose", "rppg", "ai-ecg"])
def test_a_conversion_needs_a_type_that_can_be_converted(service: Web, kind: str) -> None:
    answer = service.submit(A_MODEL, {**A_CONVERSION, "type": kind})
    assert answer.status_code == 400
    assert "type" in answer.json()["detail"]
    assert nothing_stored(service)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b/c", "x;touch pwned", "a\x00b", "org/..", "--help/x", "a b"]
)
def test_a_name_that_is_no_name_is_refused(service: Web, name: str) -> None:
    answer = service.submit({**A_MODEL, "name": name})
    assert answer.status_code == 400
    assert "Invalid model name" in answer.json()["detail"]
    assert nothing_stored(service)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "..", "/", ".modelferry/x"])
@pytest.mark.parametrize("models", [[A_MODEL], [A_CONVERSION], []])
def test_case_23_a_destination_outside_is_refused(
    service: Web, path: str, models: list[dict[str, Any]], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    answer = service.submit(*models, download_path=path)
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Requested model destination must remain under MODELS_DIR."}
    assert answer.headers["x-error-code"] == "destination_outside"
    assert sorted(tmp_path.iterdir()) == before
    assert nothing_stored(service)


def test_case_23_a_link_that_leads_outside_is_refused(service: Web, tmp_path: Path) -> None:
    (service.models_dir / "way-out").symlink_to(tmp_path)
    assert service.submit(A_MODEL, download_path="way-out/x").status_code == 400


def test_case_24_a_destination_is_normalised(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL, download_path="nested/../x")
    assert service.job(job_id)["output_dir"] == str(service.models_dir / "x")


def test_case_24_an_absolute_path_inside_is_taken(service: Web) -> None:
    (job_id,) = service.submitted(A_MODEL, download_path=str(service.models_dir / "here"))
    assert service.job(job_id)["output_dir"] == str(service.models_dir / "here")


@pytest.mark.parametrize("query", ["x%00", "%0a", "a/%00/b"])
def test_case_26_a_control_character_in_the_path_is_refused(service: Web, query: str) -> None:
    answer = service.post(f"/models/download?download_path={query}", json={"models": [A_MODEL]})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Requested model destination is not a valid path under MODELS_DIR."}
    assert answer.headers["x-error-code"] == "destination_invalid"


def test_case_27_the_case_of_the_path_is_kept(service: Web) -> None:
    (job_id,) = service.submitted({**A_CONVERSION, "name": "Org/Model"}, download_path="MixedCase")
    assert service.job(job_id)["output_dir"] == str(service.models_dir / "MixedCase" / "openvino_models/cpu/int8")


def test_a_submission_creates_no_folder(service: Web) -> None:
    service.submitted(A_MODEL, A_CONVERSION, download_path="new/place")
    assert not (service.models_dir / "new").exists()


def test_of_a_parameter_that_comes_twice_the_last_counts(service: Web) -> None:
    answer = service.post("/models/download?download_path=a&download_path=b", json={"models": [A_MODEL]})
    assert service.job(answer.json()["job_ids"][0])["output_dir"] == str(service.models_dir / "b")
