"""The main job, end to end on the real processes: POST a model, poll it, find it on disk."""

import base64
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.artefacts.manifest import check_published
from tests.fakes.faults import Fault, Status
from tests.fakes.traffic import Match

MIB = 1024 * 1024


def wishes(world: SimpleNamespace, model: dict[str, Any], download_path: str = ".") -> dict[str, Any]:
    """Submit one model and wait for its end."""
    (job_id,) = world.service.submit(model, download_path=download_path)
    job: dict[str, Any] = world.service.wait(job_id)
    return job


def completed(world: SimpleNamespace, model: dict[str, Any], download_path: str = ".") -> dict[str, Any]:
    job = wishes(world, model, download_path)
    assert job["status"] == "completed", job
    return job


def failed(world: SimpleNamespace, model: dict[str, Any]) -> dict[str, Any]:
    job = wishes(world, model)
    assert job["status"] == "failed", job
    assert job["error"]
    assert job["hint"]
    assert job["completion_time"]
    return job


def test_case_45_a_download_lies_where_clients_look_for_it(world: SimpleNamespace) -> None:
    sha = world.hub.commit("Tiny-Org/Llama-Tiny", {"notes.txt": b"second"}, branch="v2")
    job = completed(
        world, {"name": "Tiny-Org/Llama-Tiny", "hub": "huggingface", "revision": "v2"}, download_path="Some/Place"
    )
    folder = world.service.models_dir / "Some/Place/huggingface/Tiny-Org_Llama-Tiny"
    assert (folder / "notes.txt").read_bytes() == b"second"
    assert check_published(folder, rehash=True) == []
    assert job["output_dir"] == str(world.service.models_dir / "Some/Place")
    assert job["path"] == str(folder)
    assert job["result"]["download_path"].endswith("Some/Place/huggingface")
    assert job["result"]["revision"] == sha
    assert json.loads((folder / ".modelferry.json").read_text())["revision"] == sha
    progress = job["progress"]
    assert progress["percent"] == 100
    assert progress["bytes_done"] == progress["bytes_total"] > 0
    assert progress["files_done"] == progress["files_total"]


def test_paths_of_results_are_those_of_the_host_when_the_volume_is_mounted_there(world: SimpleNamespace) -> None:
    job = completed(world, {"name": "tiny/bert", "hub": "huggingface"})
    assert job["result"]["download_path"] == str(world.service.models_dir / "huggingface"), "only /opt/models is"


def test_case_56_a_conversion_has_int8_on_cpu_as_default(world: SimpleNamespace) -> None:
    job = completed(world, {"name": "tiny/bert", "hub": "openvino", "type": "embeddings", "is_ovms": True})
    assert job["operation_type"] == "convert"
    assert job["result"]["config"] == {"precision": "int8", "device": "CPU"}
    place = world.service.models_dir / "openvino_models/cpu/int8"
    assert Path(job["result"]["conversion_path"]) == place
    assert Path(job["output_dir"]) == place
    folder = place / "tiny/bert"
    assert check_published(folder, rehash=True) == []
    assert {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "graph.pbtxt"} <= names(folder)
    assert entries(place) == {"tiny/bert": "tiny/bert"}
    manifest = json.loads((folder / ".modelferry.json").read_text())
    assert manifest["versions"]["openvino"]
    assert manifest["target"]["precision"] == "int8"


def test_case_55_an_llm_for_gpu_is_served_as_asked(world: SimpleNamespace) -> None:
    wish = {
        "name": "Tiny-Org/Llama-Tiny", "hub": "openvino", "type": "llm", "is_ovms": True,
        "config": {"precision": "int4", "device": "GPU", "cache_size": 4},
    }  # fmt: skip
    job = completed(world, wish, download_path="MixedCase")
    place = world.service.models_dir / "MixedCase/openvino_models/gpu/int4"
    assert Path(job["output_dir"]) == place, "case 27: the path keeps its case"
    graph = (place / "Tiny-Org/Llama-Tiny/graph.pbtxt").read_text()
    assert re.search(r"^\s*cache_size:\s*4\b", graph, re.MULTILINE)
    assert re.search(r'device:\s*"GPU"', graph)
    assert entries(place) == {"Tiny-Org/Llama-Tiny": "Tiny-Org/Llama-Tiny"}
    assert "openvino_detokenizer.xml" in names(place / "Tiny-Org/Llama-Tiny")

    before = len(world.service.lines("convert"))
    wish["config"] = {"precision": "int4", "device": "GPU", "cache_size": 7}
    again = completed(world, wish, download_path="MixedCase")
    assert re.search(r"cache_size:\s*7\b", (place / "Tiny-Org/Llama-Tiny/graph.pbtxt").read_text())
    assert again["result"]["artefact"] == job["result"]["artefact"], "other serving options, the same conversion"
    assert len(world.service.lines("convert")) > before


def test_case_57_npu_is_always_int4(world: SimpleNamespace) -> None:
    wish = {
        "name": "Tiny-Org/Llama-Tiny", "hub": "openvino", "type": "llm", "is_ovms": True,
        "config": {"precision": "int8", "device": "NPU"},
    }  # fmt: skip
    job = completed(world, wish)
    assert job["output_dir"].endswith("openvino_models/npu/int4")
    assert job["result"]["config"]["precision"] == "int4"
    wish |= {"name": "tiny/bert", "type": "embeddings"}
    answer = world.service.post("/models/download", {"models": [wish]}, download_path=".")
    assert answer.status_code == 400
    assert "NPU target device is only supported for 'llm' and 'vlm' model types." in answer.json()["detail"]


def test_case_59_options_of_embeddings_reach_the_graph(world: SimpleNamespace) -> None:
    wish = {
        "name": "tiny/bert", "hub": "openvino", "type": "embeddings", "is_ovms": True,
        "config": {"cache_size": "10", "normalize": False, "pooling": "MEAN"},
    }  # fmt: skip
    completed(world, wish, download_path="emb")
    graph = (world.service.models_dir / "emb/openvino_models/cpu/int8/tiny/bert/graph.pbtxt").read_text()
    assert "cache_size" not in graph
    assert re.search(r"normalize_embeddings:\s*false", graph)
    assert re.search(r"pooling:\s*MEAN", graph)
    wish["config"] = {"normalize": True}
    completed(world, wish, download_path="emb")
    graph = (world.service.models_dir / "emb/openvino_models/cpu/int8/tiny/bert/graph.pbtxt").read_text()
    assert re.search(r"normalize_embeddings:\s*true", graph)


def test_a_reranker_is_converted(world: SimpleNamespace) -> None:
    job = completed(
        world,
        {
            "name": "tiny/reranker",
            "hub": "OpenVINO",
            "type": "reranker",
            "is_ovms": True,
            "config": {"precision": "fp16"},
        },
    )
    assert job["model_type"] == "rerank"
    assert "RerankCalculatorOV" in (Path(job["path"]) / "graph.pbtxt").read_text()


def test_case_21_a_huggingface_model_is_fetched_and_converted_in_one_job(world: SimpleNamespace) -> None:
    job = completed(
        world,
        {
            "name": "tiny/bert",
            "hub": "huggingface",
            "type": "embeddings",
            "is_ovms": True,
            "config": {"precision": "fp32"},
        },
    )
    assert (job["hub"], job["operation_type"]) == ("huggingface", "convert")
    assert job["path"].endswith("openvino_models/cpu/fp32/tiny/bert")


def test_case_22_a_repository_that_is_not_converted_is_not_silently_completed(world: SimpleNamespace) -> None:
    job = failed(world, {"name": "tiny/bert", "hub": "openvino"})
    assert job["error_code"] == "not_openvino"
    assert "is_ovms" in job["hint"]


def test_case_22_a_repository_that_is_converted_is_downloaded_as_it_is(world: SimpleNamespace) -> None:
    world.hub.add_repo(
        "OpenVINO/tiny-int8-ov",
        {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"\0" * 2000, "config.json": b"{}", "README.md": b"#"},
    )
    job = completed(world, {"name": "OpenVINO/tiny-int8-ov", "hub": "openvino"})
    assert job["operation_type"] == "download"
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} <= names(Path(job["path"]))


def test_a_model_that_was_converted_elsewhere_is_checked_and_served_as_it_is(world: SimpleNamespace) -> None:
    wish = {"name": "tiny/bert", "hub": "openvino", "type": "embeddings", "is_ovms": True}
    made = Path(completed(world, wish, download_path="elsewhere-made")["path"])
    files = {path.name: path.read_bytes() for path in made.iterdir() if path.is_file() and path.suffix != ".pbtxt"}
    files.pop(".modelferry.json")
    world.hub.add_repo("OpenVINO/tiny-bert-int8-ov", files)
    wish |= {"name": "OpenVINO/tiny-bert-int8-ov"}
    job = completed(world, wish)
    folder = Path(job["path"])
    assert (folder / "openvino_model.bin").samefile(made / "openvino_model.bin"), "the same content, stored once"
    assert "EmbeddingsCalculatorOV" in (folder / "graph.pbtxt").read_text()
    refused = failed(world, wish | {"config": {"precision": "int4"}})
    assert refused["error_code"] == "invalid_parameters"
    assert "int8" in refused["hint"]


def test_case_17_ids_come_in_order_and_case_30_states_are_of_the_known_words(world: SimpleNamespace) -> None:
    ids = world.service.submit(
        {"name": "tiny/bert", "hub": "huggingface"},
        {
            "name": "tiny/bert",
            "hub": "openvino",
            "type": "embeddings",
            "is_ovms": True,
            "config": {"precision": "int4"},
        },
        {"name": "tiny/reranker", "hub": "huggingface"},
        download_path="three",
    )
    seen: dict[str, list[str]] = {job_id: [] for job_id in ids}
    until = time.monotonic() + 90
    while time.monotonic() < until:
        for job_id in ids:
            seen[job_id].append(world.service.job(job_id)["status"])
        if all(states[-1] == "completed" for states in seen.values()):
            break
    names_in_order = [world.service.job(job_id)["model_name"] for job_id in ids]
    assert names_in_order == ["tiny/bert", "tiny/bert", "tiny/reranker"]
    for job_id, states in seen.items():
        assert states[-1] == "completed"
        assert set(states) <= {"queued", "downloading", "converting", "completed"}
        if world.service.job(job_id)["operation_type"] == "download":
            assert "converting" not in states


def test_case_34_results_list_what_is_completed(world: SimpleNamespace) -> None:
    completed(world, {"name": "tiny/reranker", "hub": "huggingface"})
    failed(world, {"name": "tiny/nowhere", "hub": "huggingface"})
    results = world.service.get("/models/results").json()["results"]
    assert {line["status"] for line in results} == {"success"}
    assert "tiny/nowhere" not in {line["model_name"] for line in results}
    assert {line["is_ovms"] for line in results if line["operation_type"] == "download"} == {False}


def test_a_second_wish_is_a_cache_hit(world: SimpleNamespace) -> None:
    world.hub.add_repo("tiny/cached", {"model.safetensors": b"\7" * (3 * MIB), "config.json": b"{}"})
    first = completed(world, {"name": "tiny/cached", "hub": "huggingface"})
    assert not first["result"]["reused"]
    served = world.hub.requests.bytes_served(origin="cdn")
    second = completed(world, {"name": "tiny/cached", "hub": "huggingface"})
    assert second["result"]["reused"]
    assert world.hub.requests.bytes_served(origin="cdn") == served
    elsewhere = completed(world, {"name": "tiny/cached", "hub": "huggingface"}, download_path="elsewhere")
    assert world.hub.requests.bytes_served(origin="cdn") == served
    weights = [Path(job["path"]) / "model.safetensors" for job in (first, elsewhere)]
    assert weights[0].samefile(weights[1]), "content is stored once"


def test_equal_wishes_at_once_share_one_transfer(world: SimpleNamespace) -> None:
    world.hub.add_repo("tiny/shared", {"model.safetensors": b"\5" * (20 * MIB), "config.json": b"{}"})
    before = world.hub.requests.bytes_served(origin="cdn")
    ids = [
        job_id
        for place in ("a", "b", "c")
        for job_id in world.service.submit({"name": "tiny/shared", "hub": "huggingface"}, download_path=place)
    ]
    assert {world.service.wait(job_id)["status"] for job_id in ids} == {"completed"}
    assert world.hub.requests.bytes_served(origin="cdn") - before < 1.2 * 20 * MIB


@pytest.mark.parametrize(
    ("name", "facts", "code", "words"),
    [
        ("tiny/gated", {"gated": "auto"}, "source_gated", ["gated", "HF_TOKEN"]),
        ("tiny/private", {"private": True}, "source_private_or_missing", ["tiny/private"]),
        ("tiny/disabled", {"disabled": True}, "source_disabled", ["tiny/disabled"]),
    ],
)
def test_case_46_a_refusal_of_the_hub_has_its_own_code(
    world: SimpleNamespace, name: str, facts: dict[str, Any], code: str, words: list[str]
) -> None:
    world.hub.add_repo(name, {"config.json": b"{}", "model.safetensors": b"x" * 10}, **facts)
    job = failed(world, {"name": name, "hub": "huggingface"})
    assert job["error_code"] == code
    assert all(word in job["error"] + job["hint"] for word in words), job


def test_a_missing_model_and_a_missing_revision_are_told_apart(world: SimpleNamespace) -> None:
    missing = failed(world, {"name": "tiny/nothing-there", "hub": "huggingface"})
    assert missing["error_code"] in {"source_not_found", "source_private_or_missing"}
    revision = failed(world, {"name": "tiny/bert", "hub": "huggingface", "revision": "no-such-branch"})
    assert revision["error_code"] == "revision_not_found"


def test_a_rate_limit_that_does_not_end_has_its_own_code(world: SimpleNamespace) -> None:
    world.hub.add_repo("tiny/busy", {"config.json": b"{}", "model.safetensors": b"x" * 10})
    armed = world.hub.add_fault(Fault(kind=Status(429), match=Match("*/tiny/busy*")))
    try:
        job = failed(world, {"name": "tiny/busy", "hub": "huggingface"})
    finally:
        world.hub.remove_fault(armed)
    assert job["error_code"] == "rate_limited"
    assert job["attempt"] == 5


def test_an_architecture_that_cannot_be_converted_is_told_apart(world: SimpleNamespace, tiny: SimpleNamespace) -> None:
    files = {path.name: path.read_bytes() for path in tiny.bert.iterdir() if path.is_file()}
    config = json.loads(files["config.json"]) | {"model_type": "never_heard_of", "architectures": ["NeverHeardOf"]}
    world.hub.add_repo("tiny/strange", files | {"config.json": json.dumps(config).encode()})
    job = failed(world, {"name": "tiny/strange", "hub": "openvino", "type": "embeddings", "is_ovms": True})
    assert job["error_code"] == "unsupported_architecture"


def test_bad_parameters_are_refused_before_any_job_exists(world: SimpleNamespace) -> None:
    before = len(world.service.get("/jobs").json()["jobs"])
    wish = {
        "name": "tiny/bert", "hub": "openvino", "type": "embeddings", "is_ovms": True,
        "config": {"precision": "int8", "extra_quantization_params": "--ratio 0.5; touch pwned"},
    }  # fmt: skip
    answer = world.service.post(
        "/models/download", {"models": [{"name": "tiny/bert", "hub": "huggingface"}, wish]}, download_path="."
    )
    assert answer.status_code == 400
    assert len(world.service.get("/jobs").json()["jobs"]) == before


def test_hostile_listings_are_refused(world: SimpleNamespace) -> None:
    world.hub.add_repo("tiny/hostile", {"config.json": b"{}", "../../escape.txt": b"x", "model.safetensors": b"x"})
    job = failed(world, {"name": "tiny/hostile", "hub": "huggingface"})
    assert job["error_code"] == "source_unsafe"
    assert not list(world.service.folder.rglob("escape.txt"))


def test_nothing_is_left_in_the_work_area(world: SimpleNamespace) -> None:
    completed(world, {"name": "tiny/bert", "hub": "huggingface"})
    world.service.wait_until(
        lambda: not list((world.service.models_dir / ".modelferry/work").iterdir()), 5, "an empty work area"
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def entries(folder: Path) -> dict[str, str]:
    index = json.loads((folder / "config_all.json").read_text())
    return {entry["config"]["name"]: entry["config"]["base_path"] for entry in index["model_config_list"]}


def test_case_46_a_token_opens_a_gated_model_and_is_in_no_log_row_or_file(
    tmp_path: Path, world: SimpleNamespace
) -> None:
    token = "hf_planted" + base64.b16encode(b"secret").decode().lower()
    world.hub.tokens = {token: {"tiny/locked"}}
    world.hub.add_repo("tiny/locked", {"config.json": b"{}", "model.safetensors": b"y" * 2000}, gated="manual")
    from tests.e2e.service import Service

    with Service(
        tmp_path, run=("redis", "api", "download", "reconcile"), HF_ENDPOINT=world.hub.endpoint, HF_TOKEN=token,
        ENABLED_PLUGINS="huggingface", MODELFERRY_LOG_LEVEL="debug",
    ) as service:  # fmt: skip
        service.wait_until(lambda: "worker.ready" in service.log.read_text(), 30, "download worker ready")
        (job_id,) = service.submit({"name": "tiny/locked", "hub": "huggingface"})
        job = service.wait(job_id)
        assert job["status"] == "completed", job
        assert token not in json.dumps(service.get("/jobs").json())
        command_lines = [
            path.read_bytes()
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.parent.name != "self" and path.exists()
        ]
        assert not [line for line in command_lines if token.encode() in line]
    cdn = [request for request in world.hub.requests if request.origin == "cdn" and "locked" in request.path]
    assert cdn
    assert not [request for request in cdn if request.had_authorization]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
