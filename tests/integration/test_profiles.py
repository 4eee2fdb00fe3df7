"""Conversions in another environment: an older transformers, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import psutil
import pytest

from common.catalog.openvino.detection import PAPERS
from common.catalog.openvino.examine import examine
from common.catalog.openvino.fields import OpenVINOOptions
from common.errors import InvalidParameters, JobCancelled, PluginNotInstalled, UnsupportedModel
from common.plugins import Access, Dossier, Order, Policy
from common.spec import Source, Target
from common.vocabulary import Format, ModelType, Phase, Precision
from scripts.dump_capabilities import FOLDER, as_text, ask
from scripts.setup import ROOT, prepare_profile, profile_folder
from tests.conversions import RecordingAttempt
from worker.converters.openvino.profiles import SETTING, convert_elsewhere

OLDER = "transformers-4.57"
TARGET = Target(format=Format.OPENVINO, model_type=None, precision=Precision.INT8, device="CPU")

MAKE = """
import pathlib, sys
from tests.fakes.tiny_models import tiny_qwen2_vl
tiny_qwen2_vl(pathlib.Path(sys.argv[1]))
"""

ANSWER = """
import sys
import numpy, openvino, openvino_genai
pipeline = openvino_genai.VLMPipeline(sys.argv[1], "CPU")
wish = openvino_genai.GenerationConfig()
wish.max_new_tokens, wish.ignore_eos = 4, True
for seed in (0, 1):
    picture = numpy.random.default_rng(seed).integers(0, 255, (1, 84, 84, 3), dtype=numpy.uint8)
    said = pipeline.generate("What is this?", images=[openvino.Tensor(picture)], generation_config=wish)
    print(said.perf_metrics.get_num_generated_tokens())
"""

CONVERT = """
import sys, pathlib, msgspec
from tests.integration.test_profiles import an_order, an_access, OLDER
from tests.conversions import RecordingAttempt
from worker.converters.openvino.profiles import convert_elsewhere
model, workspace = map(pathlib.Path, sys.argv[1:3])
convert_elsewhere(model, an_order(workspace), RecordingAttempt(workspace), an_access(sys.argv[3]))
"""


def an_access(folder: Path) -> Access:
    return Access(settings={SETTING: json.dumps({OLDER: str(folder)})})


def an_order(workspace: Path, model_type: ModelType = ModelType.VLM, **options: object) -> Order[OpenVINOOptions]:
    usual = {"task": "image-text-to-text", "library": "transformers", "profile": OLDER, "sym": False}
    return Order(
        target=msgspec.structs.replace(TARGET, model_type=model_type),
        options=msgspec.convert({**usual, **options}, OpenVINOOptions),
        folder=workspace / "output",
    )


def a_dossier(model: Path) -> Dossier:
    papers = [path for path in model.iterdir() if any(fnmatchcase(path.name, pattern) for pattern in PAPERS)]
    return Dossier(
        source=Source(hub="huggingface", name="org/model"),
        revision="c0ffee",
        sizes={path.name: path.stat().st_size for path in model.iterdir()},
        documents={path.name: json.loads(path.read_bytes()) for path in papers},
    )


@pytest.fixture
def attempt(tmp_path: Path) -> RecordingAttempt:
    (tmp_path / "files").mkdir()
    return RecordingAttempt(tmp_path / "files")


@pytest.fixture(scope="module")
def profile() -> Path:
    try:
        prepare_profile(OLDER)
    except SystemExit as failed:
        pytest.skip(f"Profile {OLDER} is not installed, and cannot be: {failed}")
    return profile_folder(OLDER)


@pytest.fixture(scope="module")
def qwen2_vl(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "qwen2-vl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(profile), str(ROOT)])}
    subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE, str(folder)], env=environment, check=True)
    return folder


def test_a_worker_without_the_profile_says_so(attempt: RecordingAttempt, tmp_path: Path) -> None:
    for access in (Access(), Access(settings={SETTING: "{}"}), an_access(tmp_path / "nowhere")):
        with pytest.raises(PluginNotInstalled, match=OLDER):
            convert_elsewhere(tmp_path, an_order(attempt.workspace), attempt, access)


def test_a_profile_that_is_not_what_it_was_is_not_used(attempt: RecordingAttempt, tmp_path: Path) -> None:
    # An empty folder changes nothing: the process finds the worker's own packages.
    empty = tmp_path / "profile"
    empty.mkdir()
    with pytest.raises(PluginNotInstalled, match=r"it takes diffusers 0\.36\.0, and there is 0\.39\.0") as refused:
        convert_elsewhere(tmp_path, an_order(attempt.workspace), attempt, an_access(empty))
    assert f"--profile {OLDER}" in refused.value.advice
    assert not left_behind()


def test_a_cancelled_conversion_leaves_no_process(attempt: RecordingAttempt, tmp_path: Path) -> None:
    empty = tmp_path / "profile"
    empty.mkdir()
    attempt.phases.append(Phase.CONVERTING)
    attempt.cancelled_in = Phase.CONVERTING
    with pytest.raises(JobCancelled):
        convert_elsewhere(tmp_path, an_order(attempt.workspace), attempt, an_access(empty))
    assert not left_behind()


@pytest.mark.slow
def test_the_table_is_what_the_profile_says(profile: Path) -> None:
    assert profile.is_dir()
    assert (FOLDER / f"{OLDER}.json").read_text() == as_text(ask(OLDER)) + "\n", "run: make capabilities"


@pytest.mark.slow
def test_a_model_that_only_an_older_transformers_converts_is_converted_by_it_and_runs(
    qwen2_vl: Path, profile: Path, attempt: RecordingAttempt
) -> None:
    dossier = a_dossier(qwen2_vl)
    with pytest.raises(UnsupportedModel, match=r"at most 5\.0; installed is 5\.") as refused:
        examine(dossier, TARGET, {}, Policy())
    assert OLDER in refused.value.advice
    found = examine(dossier, TARGET, {}, Policy(profiles=(OLDER,)))
    assert (found.model_type, found.options["profile"]) == (ModelType.VLM, OLDER)

    order = an_order(attempt.workspace, **found.options)
    evidence = convert_elsewhere(qwen2_vl, order, attempt, an_access(profile))
    assert evidence.profile == OLDER
    assert evidence.engine == "strict"
    assert evidence.checks
    assert attempt.phases == [Phase.CONVERTING, Phase.CHECKING]
    assert not left_behind()

    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(order.folder)], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.split() == ["4", "4"]


@pytest.mark.slow
def test_an_error_over_there_is_the_same_error_here(
    qwen2_vl: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
) -> None:
    with pytest.raises(InvalidParameters, match="fast engine") as refused:
        convert_elsewhere(qwen2_vl, an_order(attempt.workspace, engine="fast"), attempt, an_access(profile))
    assert "'strict'" in refused.value.advice

    incomplete = tmp_path / "incomplete"
    maim = [sys.executable, "-c", MAIM, str(qwen2_vl), str(incomplete)]
    subprocess.run(maim, check=True)
    with pytest.raises(UnsupportedModel, match="1 weights of Qwen2VLForConditionalGeneration are missing"):
        convert_elsewhere(incomplete, an_order(attempt.workspace), attempt, an_access(profile))


MAIM = """
import pathlib, shutil, sys
from safetensors.torch import load_file, save_file
source, copy = map(pathlib.Path, sys.argv[1:])
shutil.copytree(source, copy)
weights = load_file(copy / "model.safetensors")
del weights[next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))]
save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "parent"])
def test_a_kill_takes_the_conversion_along(whom: str, qwen2_vl: Path, profile: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", CONVERT, str(qwen2_vl), str(tmp_path / "work"), str(profile)],
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        child = _child_at_work(parent.pid)
        if whom == "group":
            os.killpg(parent.pid, signal.SIGKILL)
        else:
            parent.kill()
        parent.wait()
        psutil.wait_procs([child], timeout=5)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        parent.kill()
        parent.wait()


_OTHERS: set[psutil.Process] = set()


@pytest.fixture(autouse=True)
def _remember_others() -> None:
    """Fork servers of other tests may live in this process."""
    _OTHERS.clear()
    _OTHERS.update(psutil.Process().children())


def left_behind() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in _OTHERS]


def _child_at_work(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            # By then it has passed its own start, and imports the tools or works with them.
            if child.cpu_times().user > 1:
                return child
        time.sleep(0.1)
    raise AssertionError("The conversion has not begun")
