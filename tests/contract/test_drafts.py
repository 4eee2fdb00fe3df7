"""Draft models: converted for real beside the model that they guess ahead for, and used by OpenVINO GenAI."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from common.artefacts.blobs import sha256_of
from common.vocabulary import ModelType
from tests.conversions import Conversion, Wanted, convert, in_child
from tests.fakes import tiny_models

DRAFT = "org/small"
PLACE = "org-small"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_llama, tmp_path_factory.mktemp("models") / "llama")))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_llama_deep, tmp_path_factory.mktemp("models") / "deep")))


@pytest.fixture(scope="module")
def eagle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_eagle3, tmp_path_factory.mktemp("models") / "eagle")))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another language model, whose tokenizer knows other tokens."""
    return Path(str(in_child(_stranger, tmp_path_factory.mktemp("models") / "stranger")))


def _stranger(path: Path) -> Path:
    tiny_models.tiny_llama(path, seed=1)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[: len(merges) // 2]
    assert len(vocabulary) > len(tokenizer["model"]["merges"])
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def with_draft(model: Path, draft: Path, workspace: Path, **config: object) -> Wanted:
    """A source as the download worker leaves it: the model, and its draft in a folder."""
    source = workspace / "source"
    shutil.copytree(model, source)
    shutil.copytree(draft, source / "draft_model")
    config = {"draft_source_model": DRAFT, **config}
    return Wanted(model=source, workspace=workspace / "work", model_type=ModelType.LLM, config=config)


def converted(wanted: Wanted) -> Conversion:
    ended = in_child(convert, wanted)
    assert isinstance(ended, Conversion)
    return ended


def written(folder: Path, draft: Path | None) -> str:
    """What OpenVINO GenAI writes by continuous batches, and with a draft if there is one."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    more = {} if draft is None else {"draft_model": openvino_genai.draft_model(str(draft), "CPU")}
    pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", scheduler_config=scheduler, **more)
    config = openvino_genai.GenerationConfig(max_new_tokens=12, do_sample=False, apply_chat_template=False)
    if draft is not None:
        config.num_assistant_tokens = 3
    return str(pipeline.generate(["A ferry carries"], config).texts[0])


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_a_draft_is_converted_beside_its_model_and_guesses_ahead(llama: Path, tmp_path: Path, precision: str) -> None:
    wanted = dataclasses.replace(with_draft(llama, llama, tmp_path), precision=precision)
    ended = converted(wanted)
    assert ended.error is None, ended.text
    assert {"openvino_model.bin", f"{PLACE}/openvino_model.bin", f"{PLACE}/openvino_tokenizer.xml"} <= {*ended.files}
    assert not [name for name in ended.files if name.startswith("draft_model")]
    (evidence,) = ended.evidence
    assert evidence is not None
    assert "the draft reads texts as the same tokens" in evidence.checks
    assert [check for check in evidence.checks if check.startswith("draft: openvino_model has")]
    plain = in_child(written, wanted.output, None)
    assert plain
    assert in_child(written, wanted.output, wanted.output / PLACE) == plain


def test_the_model_is_the_same_with_a_draft_and_without(llama: Path, tmp_path: Path) -> None:
    wanted = with_draft(llama, llama, tmp_path)
    alone = Wanted(model=llama, workspace=tmp_path / "alone", model_type=ModelType.LLM)
    assert [converted(one).error for one in (wanted, alone)] == [None, None]
    for file in sorted(alone.output.iterdir()):
        assert sha256_of(wanted.output / file.name) == sha256_of(file), file.name
        assert sha256_of(wanted.output / PLACE / file.name) == sha256_of(file), file.name


def test_a_draft_has_the_usual_recipe_whatever_the_model_has(llama: Path, tmp_path: Path) -> None:
    wanted = with_draft(llama, llama, tmp_path, precision="int4", sym=True, group_size=32)
    ended = converted(wanted)
    assert ended.error is None, ended.text
    (evidence,) = ended.evidence
    assert evidence is not None
    modes = [check.split(" weights")[0] for check in evidence.checks if "openvino_model has" in check]
    assert modes == ["openvino_model has int4_sym", "draft: openvino_model has int4_asym"]


def test_a_draft_in_openvinos_form_stays_as_it_is(llama: Path, tmp_path: Path) -> None:
    ready = Wanted(model=llama, workspace=tmp_path / "ready", model_type=ModelType.LLM, precision="int8")
    assert converted(ready).error is None
    wanted = with_draft(llama, ready.output, tmp_path, precision="int4")
    ended = converted(wanted)
    assert ended.error is None, ended.text
    assert sha256_of(wanted.output / PLACE / "openvino_model.bin") == sha256_of(ready.output / "openvino_model.bin")


def test_a_model_in_openvinos_form_gets_a_draft_too(llama: Path, tmp_path: Path) -> None:
    ready = Wanted(model=llama, workspace=tmp_path / "ready", model_type=ModelType.LLM, precision="int8")
    assert converted(ready).error is None
    wanted = with_draft(ready.output, llama, tmp_path, draft_model_name="ahead/small")
    ended = converted(wanted)
    assert (ended.error, ended.engine) == (None, "adopted"), ended.text
    assert (wanted.output / "ahead-small" / "openvino_model.xml").is_file()
    assert not (wanted.output / "draft_model").exists()


def test_a_draft_with_another_tokenizer_is_refused(llama: Path, stranger: Path, tmp_path: Path) -> None:
    ended = converted(with_draft(llama, stranger, tmp_path))
    assert ended.error == "VerificationFailed"
    assert "'org/small' has another tokenizer" in ended.text


def test_a_folder_that_is_there_is_not_overwritten(llama: Path, tmp_path: Path) -> None:
    ended = converted(with_draft(llama, llama, tmp_path, draft_model_name="config.json"))
    assert ended.error == "InvalidParameters"
    assert "holds 'config.json' already" in ended.text


def test_a_draft_that_is_not_there_is_told(llama: Path, tmp_path: Path) -> None:
    wanted = with_draft(llama, llama, tmp_path)
    shutil.rmtree(wanted.model / "draft_model")
    ended = converted(wanted)
    assert ended.error == "OutputIncomplete"
    assert "'org/small' was not fetched" in ended.text


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_a_draft_of_eagle_looks_into_its_model(deep: Path, eagle: Path, tmp_path: Path, precision: str) -> None:
    wanted = dataclasses.replace(with_draft(deep, eagle, tmp_path, draft_eagle3_mode=True), precision=precision)
    ended = converted(wanted)
    assert ended.error is None, ended.text
    assert f"{PLACE}/openvino_model.bin" in ended.files
    assert f"{PLACE}/openvino_tokenizer.xml" not in ended.files
    plain = in_child(written, wanted.output, None)
    assert plain
    assert in_child(written, wanted.output, wanted.output / PLACE) == plain


def test_code_beside_a_draft_of_eagle_is_never_run(deep: Path, eagle: Path, tmp_path: Path) -> None:
    wanted = with_draft(deep, eagle, tmp_path, draft_eagle3_mode=True)
    trap, marker = wanted.model / "draft_model" / "own.py", tmp_path / "run"
    trap.write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((trap.parent / "config.json").read_text())
    own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "own.Own")
    (trap.parent / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    allowed = dataclasses.replace(wanted, settings={"MODELFERRY_TRUST_REMOTE_CODE": "*"})
    assert converted(allowed).error is None
    assert (allowed.output / PLACE / "openvino_model.xml").is_file()
    assert not marker.exists()
    assert not list(allowed.output.rglob("*.py"))
