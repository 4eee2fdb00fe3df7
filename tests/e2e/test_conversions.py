"""Models of every type on the whole way: found out, fetched, converted in a confined process, proven and published."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.artefacts.manifest import check_published
from tests.conversions import in_child
from tests.e2e.service import Service
from tests.fakes import tiny_models
from tests.fakes.huggingface import FakeHuggingFace

MAKERS: dict[str, Callable[..., Path]] = {
    "vlm": tiny_models.tiny_llava,
    "image_generation": tiny_models.tiny_stable_diffusion,
    "text2speech": tiny_models.tiny_speecht5,
    "speech2text": tiny_models.tiny_whisper,
    "vision": tiny_models.tiny_vit,
}
CALCULATORS = {
    "vlm": "HttpLLMCalculator",
    "image_generation": "ImageGenCalculator",
    "text2speech": "T2sCalculator",
    "speech2text": "S2tCalculator",
}


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """A hub with a model of each type that the other tests do not have, and a service beside it."""
    root = tmp_path_factory.mktemp("sources")
    with FakeHuggingFace() as hub:
        for kind, make in MAKERS.items():
            in_child(make, root / kind)
            if kind == "text2speech":
                # As at the hub: what makes sound of spectrograms is a repository of its own.
                shutil.move(root / kind / tiny_models.VOCODER, root / "vocoder")
                hub.add_directory("microsoft/speecht5_hifigan", root / "vocoder")
            hub.add_directory(f"every/{kind}", root / kind)
        hub.add_directory("every/llm", tiny.llama)
        in_child(tiny_models.tiny_llama_sharded, root / "smaller")
        hub.add_directory("every/smaller", root / "smaller")
        hub.add_directory("every/embeddings", tiny.bert)
        with Service(tmp_path_factory.mktemp("shore"), HF_ENDPOINT=hub.endpoint) as service:
            yield SimpleNamespace(hub=hub, service=service)


def ended(shore: SimpleNamespace, name: str, download_path: str = ".", **config: object) -> dict[str, Any]:
    wish = {"name": f"every/{name}", "hub": "openvino", "is_ovms": True, "config": config}
    (job_id,) = shore.service.submit(wish, download_path=download_path)
    job: dict[str, Any] = shore.service.wait(job_id, timeout_s=100)
    return job


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_model_of_each_type_is_found_out_converted_and_served(shore: SimpleNamespace, kind: str) -> None:
    job = ended(shore, kind)
    assert job["status"] == "completed", job
    folder = Path(job["path"])
    assert job["result"]["type"] == kind
    assert check_published(folder, rehash=True) == []
    entry = json.loads((folder.parent.parent / "config_all.json").read_text())["model_config_list"]
    served = {one["config"]["name"]: one["config"]["base_path"] for one in entry}
    if kind in CALCULATORS:
        assert CALCULATORS[kind] in (folder / "graph.pbtxt").read_text()
        assert served[f"every/{kind}"] == f"every/{kind}"
    else:
        assert (folder / "model/1/model.xml").samefile(folder / "openvino_model.xml")
        assert served[f"every/{kind}"] == f"every/{kind}/model"
    evidence = job["result"]["evidence"]
    assert evidence["checks"]
    assert evidence["seconds"]
    assert evidence["peak_memory_bytes"] > 0


def test_a_spectrogram_maker_brings_its_vocoder_along(shore: SimpleNamespace) -> None:
    body = {"models": [{"name": "every/text2speech", "hub": "openvino", "is_ovms": True}]}
    (plan,) = shore.service.post("/models/plan", body, download_path=".").json()["plans"]
    assert plan["status"] == "planned", plan
    assert plan["companions"] == {"vocoder": "microsoft/speecht5_hifigan"}


def test_a_draft_comes_along_and_the_graph_names_it(shore: SimpleNamespace) -> None:
    config = {"precision": "int8", "draft_source_model": "every/smaller"}
    body = {"models": [{"name": "every/llm", "hub": "openvino", "is_ovms": True, "config": config}]}
    (plan,) = shore.service.post("/models/plan", body, download_path="drafted").json()["plans"]
    assert plan["companions"] == {"draft_model": "every/smaller"}, plan
    assert plan["facts"]["draft"] == "llama"
    job = ended(shore, "llm", "drafted", **config)
    assert job["status"] == "completed", job
    folder = Path(job["path"])
    assert check_published(folder, rehash=True) == []
    assert (folder / "every-smaller" / "openvino_model.bin").stat().st_size > 100_000
    assert not (folder / "draft_model").exists()
    graph = (folder / "graph.pbtxt").read_text()
    assert 'draft_models_path: "./every-smaller",' in graph
    assert 'draft_device: "CPU",' in graph
    assert "the draft reads texts as the same tokens" in job["result"]["evidence"]["checks"]
    told = json.loads((folder / ".modelferry.json").read_text())
    commit = told["companions"]["draft_model"].removeprefix("every/smaller@")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    made_of = shore.service.get(f"/jobs/{job['id']}/provenance").json()["predicate"]["buildDefinition"]
    named = [one["uri"] for one in made_of["resolvedDependencies"] if "uri" in one]
    assert named == [f"pkg:huggingface/every/llm@{told['revision']}", f"pkg:huggingface/every/smaller@{commit}"]
    plain = ended(shore, "llm", "undrafted", precision="int8")
    assert plain["result"]["artefact"] != job["result"]["artefact"]
    assert "draft" not in (Path(plain["path"]) / "graph.pbtxt").read_text()


@pytest.mark.parametrize(
    ("draft", "code"),
    [("every/nowhere", "source_private_or_missing"), ("every/embeddings", "unsupported_architecture")],
)
def test_a_draft_that_will_not_do_fails_before_anything_is_fetched(
    shore: SimpleNamespace, draft: str, code: str
) -> None:
    job = ended(shore, "llm", "misled", draft_source_model=draft)
    assert (job["status"], job["error_code"]) == ("failed", code), job
    assert not (shore.service.models_dir / "misled").exists()


def test_a_conversion_can_be_held_against_its_source(shore: SimpleNamespace) -> None:
    good = ended(shore, "llm", "verified", precision="fp16", verify={"max_divergence": 0.01, "samples": 2})
    assert good["status"] == "completed", good
    similarity = good["result"]["evidence"]["similarity"]
    assert similarity["measure"] == "kl"
    assert similarity["value"] > 0.99
    told = json.loads((Path(good["path"]) / ".modelferry.json").read_text())
    assert told["evidence"]["similarity"] == similarity


def test_one_that_differs_too_much_is_never_published(shore: SimpleNamespace) -> None:
    job = ended(shore, "llm", "unlike", precision="int4", verify={"max_divergence": 0.000001, "samples": 2})
    assert (job["status"], job["error_code"]) == ("failed", "verification_failed"), job
    assert not (shore.service.models_dir / "unlike/openvino_models/cpu/int4/every/llm").exists()


def test_texts_of_the_operator_calibrate_and_count(shore: SimpleNamespace) -> None:
    texts = shore.service.models_dir / "calibration" / "texts.txt"
    texts.parent.mkdir()
    texts.write_text("a ferry carries people\nover the water\n")
    asked = {"precision": "int8", "quant_mode": "int8", "dataset": "path:calibration/texts.txt", "num_samples": 2}
    first = ended(shore, "embeddings", "calibrated", **asked)
    assert first["status"] == "completed", first
    again = ended(shore, "embeddings", "calibrated-again", **asked)
    assert again["result"]["artefact"] == first["result"]["artefact"]
    texts.write_text("other words entirely\nfor the same model\n")
    other = ended(shore, "embeddings", "calibrated", **asked)
    assert other["result"]["artefact"] != first["result"]["artefact"], "other content is another conversion"


def test_a_data_set_with_a_name_is_the_operators_folder_of_that_name(shore: SimpleNamespace) -> None:
    asked = {"precision": "int4", "extra_quantization_params": "--awq --scale-estimation --dataset wikitext2"}
    missing = ended(shore, "llm", "without", **asked)
    assert (missing["status"], missing["error_code"]) == ("failed", "invalid_parameters"), missing
    assert "'datasets/wikitext2'" in missing["error"]
    assert "datasets/NAME" in missing["hint"]
    folder = shore.service.models_dir / "datasets" / "wikitext2"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"text": "a ferry carries people"}\n{"text": "over the water"}\n' * 8)
    job = ended(shore, "llm", "with", **asked)
    assert job["status"] == "completed", job


def test_data_that_is_not_there_is_told_before_anything_moves(shore: SimpleNamespace) -> None:
    job = ended(shore, "llm", "nowhere", quant_mode="int8", dataset="path:no/such/file.txt")
    assert (job["status"], job["error_code"]) == ("failed", "invalid_parameters"), job
    assert "no/such/file.txt" in job["error"]
    assert [one["stage"] for one in shore.service.get(f"/jobs/{job['id']}/attempts").json()["attempts"]] == ["plan"]


@pytest.mark.parametrize("dataset", ["path:../x", "path:/etc/passwd", "wikitext", "/etc/passwd"])
def test_data_from_elsewhere_is_refused_at_once(shore: SimpleNamespace, dataset: str) -> None:
    wish = {"name": "every/llm", "hub": "openvino", "is_ovms": True, "type": "llm",
            "config": {"precision": "int4", "scale_estimation": True, "dataset": dataset}}  # fmt: skip
    answer = shore.service.post("/models/download", {"models": [wish]}, download_path=".")
    assert answer.status_code == 400
    assert "dataset" in answer.json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llm", "embeddings"])
def test_what_is_kept_in_fp16_makes_later_precisions_without_the_source(
    shore: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    with Service(tmp_path, HF_ENDPOINT=shore.hub.endpoint, MODELFERRY_KEEP_FP16="on") as service:
        keeping = SimpleNamespace(hub=shore.hub, service=service)
        jobs = [ended(keeping, name, precision=precision) for precision in ("int4", "int8", "fp16", "int4")]
        assert [job["status"] for job in jobs] == ["completed"] * 4, jobs
        engines = [job["result"]["evidence"]["engine"] for job in jobs]
        # The first one leaves the base, which is also what a wish for FP16 gets.
        assert engines == ["fast", "derived", "fast", "fast"]
        assert [job["result"]["reused"] for job in jobs] == [False, False, False, True]
        for job in jobs:
            assert check_published(Path(job["path"]), rehash=True) == []
        made_of = service.get(f"/jobs/{jobs[1]['id']}/provenance").json()
        assert "derived" in json.dumps(made_of)
