"""What is found out before anything large is moved: plans, refusals, ready-made models, and the type of a model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.artefacts.manifest import check_published
from tests.e2e.service import Service
from tests.fakes.hf_repository import Repository
from tests.fakes.huggingface import FakeHuggingFace

COMMIT_OF_NOBODY = "0" * 40


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """A service of its own, because what is published and known decides what a plan says."""
    with FakeHuggingFace() as hub:
        hub.add_directory("tiny-org/llama", tiny.llama)
        hub.add_directory("tiny-org/bert", tiny.bert)
        hub.add_directory("tiny-org/reranker", tiny.reranker)
        with Service(tmp_path_factory.mktemp("plans"), HF_ENDPOINT=hub.endpoint) as service:
            yield SimpleNamespace(hub=hub, service=service)


def planned(plans: SimpleNamespace, *models: dict[str, Any], download_path: str = ".") -> list[dict[str, Any]]:
    answer = plans.service.post("/models/plan", {"models": list(models)}, download_path=download_path)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["plans"]
    return found


def ended(plans: SimpleNamespace, model: dict[str, Any], download_path: str = ".") -> dict[str, Any]:
    (job_id,) = plans.service.submit(model, download_path=download_path)
    job: dict[str, Any] = plans.service.wait(job_id)
    return job


def conversion(name: str, **config: object) -> dict[str, Any]:
    return {"name": name, "hub": "openvino", "is_ovms": True, "config": config}


def edited(hub: FakeHuggingFace, name: str, source: Path, folder: Path, **changes: object) -> Repository:
    """A repository like the source, with another config.json."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return hub.add_directory(name, folder)


def weights_served(hub: FakeHuggingFace, name: str) -> int:
    return hub.requests.bytes_served(f"*{name}*safetensors*") + hub.requests.bytes_served(f"/repos/{name}/*")


# Plans


def test_a_plan_tells_everything_and_moves_no_weights(plans: SimpleNamespace) -> None:
    (plan,) = planned(plans, conversion("tiny-org/llama", precision="int4"), download_path="somewhere")
    assert plan["status"] == "planned", plan
    assert (plan["mode"], plan["type"], plan["precision"], plan["device"]) == ("convert", "llm", "int4", "CPU")
    assert plan["revision"] == plans.hub.repo("tiny-org/llama").sha
    assert 0 < plan["bytes_to_fetch"] <= plan["bytes_total"]
    assert plan["memory_peak_bytes"] > plan["output_bytes"] > 0
    assert plan["options"]["group_size"] == 128
    assert plan["facts"]["architecture"] == "llama"
    assert plan["path"].endswith("somewhere/openvino_models/cpu/int4/tiny-org/llama")
    assert plan["published"] is False
    assert weights_served(plans.hub, "tiny-org/llama") == 0
    assert not (plans.service.models_dir / "somewhere").exists()
    assert plans.service.get("/jobs").json()["jobs"] == []


def test_a_plan_of_a_download_and_one_that_is_refused_stand_side_by_side(plans: SimpleNamespace) -> None:
    wishes = ({"name": "tiny-org/bert", "hub": "huggingface"}, conversion("tiny-org/not-there"))
    download, refused = planned(plans, *wishes)
    assert (download["status"], download["mode"]) == ("planned", "download")
    assert "memory_peak_bytes" not in download
    assert (refused["status"], refused["error_code"]) == ("refused", "source_private_or_missing")
    assert refused["hint"]


def test_what_no_job_could_ask_for_no_plan_can(plans: SimpleNamespace) -> None:
    body = {"models": [conversion("tiny-org/bert", made_up_option=1)]}
    assert plans.service.post("/models/plan", body, download_path=".").status_code == 400
    assert plans.service.post("/models/plan", {"models": 1}, download_path=".").status_code == 422


# Refusals before a download


def test_an_architecture_that_nobody_can_convert_is_refused_before_its_weights_move(
    plans: SimpleNamespace, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    edited(
        plans.hub, "odd/new", tiny.llama, tmp_path / "new", model_type="llama_17", architectures=["Llama17ForCausalLM"]
    )
    job = ended(plans, conversion("odd/new"))
    assert (job["status"], job["error_code"]) == ("failed", "unsupported_architecture")
    assert "llama_17" in job["error"]
    assert weights_served(plans.hub, "odd/new") == 0


def test_pickles_are_refused_before_they_move(plans: SimpleNamespace, tiny: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny.bert, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    plans.hub.add_directory("odd/pickled", folder)
    job = ended(plans, conversion("odd/pickled"))
    assert (job["status"], job["error_code"]) == ("failed", "pickle_refused"), job
    assert weights_served(plans.hub, "odd/pickled") == 0
    assert ended(plans, {"name": "odd/pickled", "hub": "huggingface"})["status"] == "completed", "to have is not to run"


def test_code_of_the_repository_is_refused_and_the_hint_names_repository_and_commit(
    plans: SimpleNamespace, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    changes = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "code.Own"}, "architectures": ["Own"]}
    made = edited(plans.hub, "odd/own-code", tiny.llama, tmp_path / "own", **changes)
    job = ended(plans, {**conversion("odd/own-code"), "type": "llm"})
    assert (job["status"], job["error_code"]) == ("failed", "remote_code_refused"), job
    assert f"odd/own-code@{made.sha}" in job["hint"]
    assert weights_served(plans.hub, "odd/own-code") == 0


# The type of a model


@pytest.mark.parametrize(("name", "kind"), [("llama", "llm"), ("bert", "embeddings"), ("reranker", "rerank")])
def test_a_type_that_is_left_out_is_found(plans: SimpleNamespace, name: str, kind: str) -> None:
    job = ended(plans, conversion(f"tiny-org/{name}"), download_path="found")
    assert job["status"] == "completed", job
    assert job["result"]["type"] == kind
    folder = Path(job["path"])
    calculator = {"llm": "HttpLLMCalculator", "embeddings": "EmbeddingsCalculatorOV", "rerank": "RerankCalculatorOV"}
    assert calculator[kind] in (folder / "graph.pbtxt").read_text()
    assert json.loads((folder / ".modelferry.json").read_text())["model_type"] == kind


def test_a_type_that_the_model_is_not_is_refused_early(plans: SimpleNamespace) -> None:
    job = ended(plans, {**conversion("tiny-org/reranker", precision="fp32"), "type": "llm"})
    assert (job["status"], job["error_code"]) == ("failed", "unsupported_architecture")


# Several precisions


def test_three_precisions_posted_together_are_one_fetch_and_one_trace(
    plans: SimpleNamespace, tiny: SimpleNamespace
) -> None:
    plans.hub.add_directory("trio/llama", tiny.llama)
    plans.hub.commit("trio/llama", {"notes.md": b"other content, so that nothing is in the store"})
    wishes = [{**conversion("trio/llama", precision=one), "type": "llm"} for one in ("fp16", "int8", "int4")]
    jobs = [plans.service.wait(job) for job in plans.service.submit(*wishes, download_path="trio")]
    assert [job["status"] for job in jobs] == ["completed"] * 3, jobs
    assert [job["result"]["config"]["precision"] for job in jobs] == ["fp16", "int8", "int4"]
    evidence = [job["result"]["evidence"] for job in jobs]
    assert [(one["engine"], one["forms"]) for one in evidence] == [("fast", 3)] * 3
    for job in jobs:
        assert check_published(Path(job["path"]), rehash=True) == []


# Models that the hub holds ready-made


@pytest.fixture(scope="module")
def converted(plans: SimpleNamespace) -> Path:
    job = ended(plans, {**conversion("tiny-org/llama"), "type": "llm"}, download_path="for-the-hub")
    return Path(job["path"])


def offered(hub: FakeHuggingFace, name: str, converted: Path, made_of: str | None, *, bits: int | None = 8) -> None:
    """What Intel's organisation at the hub would hold."""
    files: dict[str, bytes | Path] = {
        path.relative_to(converted).as_posix(): path.read_bytes()
        for path in converted.rglob("*")
        if path.is_file() and path.name not in {".modelferry.json", "graph.pbtxt", "README.md"}
    }
    # As most of them say it; where nothing is said, nothing is pulled.
    told = json.loads(bytes(files["openvino_config.json"])) if "openvino_config.json" in files else None
    if told is not None and bits is not None:
        told["quantization_config"]["default_config"]["bits"] = bits
        files["openvino_config.json"] = json.dumps(told).encode()
    base = "" if made_of is None else f"base_model:\n- {made_of}\n"
    files["README.md"] = f"---\nlicense: apache-2.0\n{base}---\n".encode()
    hub.add_repo(name, files)


def test_case_62_the_very_model_in_the_very_precision_is_pulled(
    plans: SimpleNamespace, tiny: SimpleNamespace, converted: Path
) -> None:
    plans.hub.add_directory("intel/ready", tiny.llama)
    offered(plans.hub, "OpenVINO/ready-instruct-int8-ov", converted, "intel/ready-instruct")
    offered(plans.hub, "OpenVINO/ready-int8-cw-ov", converted, "intel/ready")
    offered(plans.hub, "OpenVINO/ready-int8-ov", converted, "intel/ready")
    (plan,) = planned(plans, conversion("intel/ready"), download_path="pulled")
    assert (plan["mode"], plan["pulled_from"]) == ("pull", "OpenVINO/ready-int8-ov"), plan
    job = ended(plans, conversion("intel/ready", cache_size=3), download_path="pulled")
    assert job["status"] == "completed", job
    assert (job["result"]["mode"], job["result"]["pulled_from"]) == ("pull", "OpenVINO/ready-int8-ov")
    assert job["result"]["evidence"]["engine"] == "adopted"
    folder = Path(job["path"])
    assert folder == plans.service.models_dir / "pulled/openvino_models/cpu/int8/intel/ready"
    assert "cache_size: 3" in (folder / "graph.pbtxt").read_text()
    listed = json.loads((folder.parent.parent / "config_all.json").read_text())["model_config_list"]
    assert [entry["config"]["name"] for entry in listed] == ["intel/ready"]
    assert check_published(folder, rehash=True) == []
    assert weights_served(plans.hub, "intel/ready") == 0


@pytest.mark.parametrize(
    ("name", "made_of", "config", "more"),
    [
        ("other-base", "somebody/else", {}, {}),
        ("no-base", None, {}, {}),
        ("with-options", "intel/with-options", {"sym": True}, {}),
        ("with-revision", "intel/with-revision", {}, {"revision": "main"}),
        ("other-precision", "intel/other-precision", {"precision": "fp16"}, {}),
        ("untold", "intel/untold", {}, {}),
    ],
)
def test_what_is_not_exactly_the_same_is_converted(
    plans: SimpleNamespace,
    tiny: SimpleNamespace,
    converted: Path,
    name: str,
    made_of: str | None,
    config: dict[str, object],
    more: dict[str, object],
) -> None:
    plans.hub.add_directory(f"intel/{name}", tiny.llama)
    for precision in ("int8", "fp16"):
        # What is called fp16 here holds int8: its own openvino_config.json says so.
        bits = None if name == "untold" else 8
        offered(plans.hub, f"OpenVINO/{name}-{precision}-ov", converted, made_of, bits=bits)
    (plan,) = planned(plans, {**conversion(f"intel/{name}", **config), **more})
    assert (plan["status"], plan["mode"]) == ("planned", "convert"), plan
    assert "pulled_from" not in plan


# How a model came to be


def test_a_conversion_can_prove_where_it_comes_from(plans: SimpleNamespace, converted: Path) -> None:
    job = next(one for one in plans.service.get("/jobs").json()["jobs"] if one.get("path") == str(converted))
    statement = plans.service.get(f"/jobs/{job['id']}/provenance").json()
    manifest = json.loads((converted / ".modelferry.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert digests["openvino_model.bin"] == next(
        file["sha256"] for file in manifest["files"] if file["path"] == "openvino_model.bin"
    )
    built = statement["predicate"]["buildDefinition"]
    assert built["resolvedDependencies"][0]["digest"] == {"gitCommit": manifest["revision"]}
    assert built["internalParameters"]["versions"]["openvino"]
    (seen,) = statement["predicate"]["runDetails"]["byproducts"]
    assert seen["annotations"]["peak_memory_bytes"] > 0


def test_what_has_made_nothing_proves_nothing(plans: SimpleNamespace) -> None:
    job = ended(plans, conversion("tiny-org/not-there"))
    assert plans.service.get(f"/jobs/{job['id']}/provenance").status_code == 409
    assert plans.service.get("/jobs/none/provenance").status_code == 404
