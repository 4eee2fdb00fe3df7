"""Ultralytics' weights on their whole way: fetched, exported by their own library in a confined process, published."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import psutil
import pytest

from common.artefacts.manifest import check_published
from common.catalog.ultralytics import EXPORT, ExportOptions
from common.errors import (
    ConversionFailed,
    IntegrityMismatch,
    JobCancelled,
    OutputIncomplete,
    PickleRefused,
    PluginNotInstalled,
    SourceUnsafe,
    VerificationFailed,
)
from common.plugins import Access, Order
from common.spec import Evidence, Target
from common.vocabulary import Format, Phase, Precision
from scripts import dump_ultralytics
from scripts.setup import ROOT, prepare_profile, profile_folder
from tests.conversions import RecordingAttempt
from tests.e2e.service import Service
from tests.fakes.ultralytics_assets import PICTURES, FakeUltralyticsAssets
from tests.fakes.ultralytics_models import SIDE
from worker.converters.ultralytics.kinds import kind_of
from worker.converters.ultralytics.pictures import unpack_pictures
from worker.converters.ultralytics.proof import prove

PROFILE = "ultralytics"
NAMES = ("yolov8n", "yolov8n-cls", "yolov8n-pose", "yolov8n-seg", "yolo26n")
MAKE = ROOT / "tests" / "fakes" / "ultralytics_models.py"
MB = 1024 * 1024

CONVERT = """
import pathlib, sys
from tests.integration.test_ultralytics_export import convert
convert(*map(pathlib.Path, sys.argv[1:4]))
"""


class Exploit:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture(scope="module")
def profile() -> Path:
    try:
        prepare_profile(PROFILE)
    except SystemExit as failed:
        pytest.skip(f"Profile {PROFILE} is not installed, and cannot be: {failed}")
    return profile_folder(PROFILE)


@pytest.fixture(scope="module")
def checkpoints(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(profile), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", str(MAKE), str(folder), *NAMES]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def attempt(tmp_path: Path) -> RecordingAttempt:
    (tmp_path / "files").mkdir()
    return RecordingAttempt(tmp_path / "files")


@pytest.fixture(autouse=True)
def _remember_others() -> None:
    """Fork servers of other tests may live in this process."""
    _OTHERS.clear()
    _OTHERS.update(psutil.Process().children())


_OTHERS: set[psutil.Process] = set()


def left_behind() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in _OTHERS]


def pictures(count: int = 4, name: str = "coco8") -> bytes:
    """An archive as coco8.zip is laid out: pictures in two splits, labels, and what systems leave behind."""
    from PIL import Image

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}/README.md", "about")
        archive.writestr(f"__MACOSX/{name}/images/train/._0.jpg", "no picture")
        for number in range(count):
            split = "train" if number % 2 else "val"
            shade = np.random.default_rng(number).integers(0, 255, (96, 128, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(shade).save(picture, "JPEG")
            archive.writestr(f"{name}/images/{split}/{number:012d}.jpg", picture.getvalue())
            archive.writestr(f"{name}/labels/{split}/{number:012d}.txt", "0 0.5 0.5 0.2 0.2\n")
        archive.writestr(f"{name}/labels/train.cache", pickle.dumps(Exploit()))
    return packed.getvalue()


def a_source(folder: Path, checkpoints: Path, *names: str, archive: bytes | None = None) -> Path:
    """What a fetch leaves: the weights of one model, or of several in folders of their own."""
    for name in names:
        into = folder if len(names) == 1 else folder / name
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{name}.pt").write_bytes((checkpoints / f"{name}.pt").read_bytes())
    if archive is not None:
        (folder / "calibration").mkdir(parents=True, exist_ok=True)
        (folder / "calibration" / "coco8.zip").write_bytes(archive)
    return folder


def convert(
    source: Path, workspace: Path, profile: Path, attempt: RecordingAttempt | None = None, quantize: str | None = None
) -> Evidence:
    access = Access(settings={"MODELFERRY_PROFILES": json.dumps({PROFILE: str(profile)})})
    order = Order(
        target=Target(format=Format.OPENVINO, model_type=None, precision=Precision.FP32, device="CPU"),
        options=ExportOptions(quantize=quantize),
        folder=workspace / "output",
    )
    evidence = EXPORT.load(access).convert(source, [order], attempt or RecordingAttempt(workspace))[0]
    assert evidence is not None
    return evidence


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def forms(name: str, *precisions: str) -> set[str]:
    return {
        f"{precision}/{file}" for precision in precisions for file in (f"{name}.xml", f"{name}.bin", "metadata.yaml")
    }


def told(model: Path, key: str) -> str:
    return str(ov.Core().read_model(model).get_rt_info(["model_info", key]).value)


class TestWithoutTheLibrary:
    def test_a_worker_without_the_profile_says_so(self, attempt: RecordingAttempt, tmp_path: Path) -> None:
        for named in (None, {}, {PROFILE: str(tmp_path / "nowhere")}):
            settings = {} if named is None else {"MODELFERRY_PROFILES": json.dumps(named)}
            exporter = EXPORT.load(Access(settings=settings))
            order = Order(
                target=Target(format=Format.OPENVINO, model_type=None, precision=Precision.FP32, device="CPU"),
                options=ExportOptions(),
                folder=attempt.workspace / "output",
            )
            with pytest.raises(PluginNotInstalled) as refused:
                exporter.convert(tmp_path, [order], attempt)
            assert "--profile ultralytics" in refused.value.advice

    def test_the_workers_own_environment_has_none_of_it(self) -> None:
        for module in ("ultralytics", "torchvision", "cv2"):
            done = subprocess.run([sys.executable, "-c", f"import {module}"], stderr=subprocess.PIPE, check=False)
            assert b"ModuleNotFoundError" in done.stderr

    def test_a_folder_that_is_not_the_profile_is_not_used(self, attempt: RecordingAttempt, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "yolov8n.pt").write_bytes(b"never looked at")
        empty = tmp_path / "profile"
        empty.mkdir()
        with pytest.raises(PluginNotInstalled, match=r"it takes matplotlib 3\.\S+, and there is nothing"):
            convert(tmp_path / "source", attempt.workspace, empty, attempt)
        assert not left_behind()

    def test_weights_of_nobody_knows_what_are_refused(self, attempt: RecordingAttempt, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        for name in (None, "best.pt"):
            if name:
                (tmp_path / "source" / name).write_bytes(b"x")
            with pytest.raises(OutputIncomplete):
                convert(tmp_path / "source", attempt.workspace, tmp_path, attempt)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("yolov5nu", "yolo_v8"),
            ("yolov8l", "yolo_v8"),
            ("yolov8n-obb", "yolo_v8_obb"),
            ("yolov9c-seg", "yolo_v8_seg"),
            ("yolov10x", "yolo_v10"),
            ("yolo11n-pose", "yolo_v11_pose"),
            ("yolo12n", "yolo_v8"),
            ("yolo26n-seg", "yolo_v26_seg"),
            ("yolov8n-cls", "label"),
        ],
    )
    def test_models_are_called_what_dl_streamer_calls_them(self, name: str, kind: str) -> None:
        from common.catalog.ultralytics import official_models

        assert kind_of(official_models()[name]) == kind


class TestPictures:
    def test_only_pictures_come_out_under_names_of_ours(self, tmp_path: Path) -> None:
        archive = tmp_path / "coco8.zip"
        archive.write_bytes(pictures(5))
        assert unpack_pictures(archive, tmp_path / "out", None, lambda: None) == 5
        assert files_below(tmp_path / "out") == {f"{number:06d}.jpg" for number in range(5)}

    def test_an_archive_without_pictures_or_no_archive_is_refused(self, tmp_path: Path) -> None:
        archive = tmp_path / "coco8.zip"
        archive.write_bytes(pictures(0))
        with pytest.raises(OutputIncomplete, match="no pictures"):
            unpack_pictures(archive, tmp_path / "out", None, lambda: None)
        archive.write_bytes(b"<html>not found</html>")
        with pytest.raises(IntegrityMismatch):
            unpack_pictures(archive, tmp_path / "out", None, lambda: None)

    def test_a_hostile_archive_is_refused_whole(self, tmp_path: Path) -> None:
        archive = tmp_path / "coco8.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("a.jpg", b"x")
            packed.writestr("../../b.jpg", b"x")
        with pytest.raises(SourceUnsafe):
            unpack_pictures(archive, tmp_path / "out", None, lambda: None)
        assert not files_below(tmp_path / "out")


class TestProof:
    def test_int8_that_holds_no_integers_is_none(self, tmp_path: Path) -> None:
        a_graph(tmp_path / "INT8", halves=False)
        with pytest.raises(VerificationFailed, match="is not quantized: 0% of its weights"):
            prove(tmp_path, "m", "INT8")

    def test_halves_are_where_they_belong(self, tmp_path: Path) -> None:
        for form, halves in (("FP32", False), ("FP16", True)):
            a_graph(tmp_path / form, halves=halves)
            assert "runs on CPU" in prove(tmp_path, "m", form)
            a_graph(tmp_path / form, halves=not halves)
            with pytest.raises(VerificationFailed, match="are halves"):
                prove(tmp_path, "m", form)

    def test_what_is_missing_broken_or_not_finite_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(OutputIncomplete):
            prove(tmp_path, "m", "FP32")
        a_graph(tmp_path / "FP32", halves=False, weight=float("nan"))
        with pytest.raises(VerificationFailed, match="not finite"):
            prove(tmp_path, "m", "FP32")
        a_graph(tmp_path / "FP32", halves=False, labels="")
        with pytest.raises(VerificationFailed, match="lost its labels"):
            prove(tmp_path, "m", "FP32")
        (tmp_path / "FP32" / "m.xml").write_text("<net")
        with pytest.raises(VerificationFailed, match="does not run"):
            prove(tmp_path, "m", "FP32")


def a_graph(folder: Path, *, halves: bool, weight: float = 0.5, labels: str = "cat dog") -> None:
    from openvino import opset13

    picture = opset13.parameter([1, 3, 8, 8], np.float32)
    weights = opset13.constant(np.full((4, 3, 3, 3), weight, np.float32))
    graph = ov.Model([opset13.convolution(picture, weights, [1, 1], [0, 0], [0, 0], [1, 1])], [picture])
    graph.set_rt_info(labels, ["model_info", "labels"])
    folder.mkdir(exist_ok=True)
    ov.save_model(graph, folder / "m.xml", compress_to_fp16=halves)
    (folder / "metadata.yaml").write_text("task: detect\n")


@pytest.mark.slow
class TestExports:
    def test_the_list_of_models_is_what_the_library_says(self, profile: Path) -> None:
        assert profile.is_dir()
        written = dump_ultralytics.FILE.read_text()
        assert written == dump_ultralytics.as_text(dump_ultralytics.models_in(dump_ultralytics.ask()))

    def test_a_detector_has_three_forms_and_all_are_proven(
        self, checkpoints: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        source = a_source(tmp_path / "source", checkpoints, "yolov8n", archive=pictures())
        evidence = convert(source, attempt.workspace, profile, attempt, "coco8")
        output = attempt.workspace / "output"
        assert files_below(attempt.workspace) == {f"output/{file}" for file in forms("yolov8n", "FP32", "FP16", "INT8")}
        boxes = f"1x84x{sum((SIDE // stride) ** 2 for stride in (8, 16, 32))}"
        assert [check.split(":")[0] for check in evidence.checks] == ["yolov8n FP32", "yolov8n FP16", "yolov8n INT8"]
        assert all(f"outputs {boxes}" in check for check in evidence.checks)
        assert "4 pictures of coco8" in evidence.checks[2]
        assert evidence.profile == PROFILE
        assert evidence.peak_memory_bytes > 100 * MB
        assert evidence.seconds.keys() == {"export", "check", "pictures", "quantize"}
        assert attempt.phases == [Phase.CONVERTING, Phase.CHECKING]
        sizes = [(output / form / "yolov8n.bin").stat().st_size for form in ("FP32", "FP16", "INT8")]
        assert sizes[0] > 1.8 * sizes[1] > 3 * sizes[2]
        for form in ("FP32", "FP16", "INT8"):
            assert told(output / form / "yolov8n.xml", "model_type") == "yolo_v8"
            assert len(told(output / form / "yolov8n.xml", "labels").split()) == 80
            metadata = (output / form / "metadata.yaml").read_text()
            assert "license: AGPL-3.0" in metadata
            assert str(tmp_path) not in metadata
            assert str(tmp_path) not in (output / form / "yolov8n.xml").read_text()
        assert not left_behind()

    @pytest.mark.parametrize(
        ("name", "kind", "outputs"),
        [
            ("yolov8n-cls", "label", ["1x1000"]),
            ("yolov8n-pose", "yolo_v8_pose", ["1x56x525"]),
            ("yolov8n-seg", "yolo_v8_seg", ["1x116x525", "1x32x40x40"]),
            # Its own head chooses the boxes: no suppression is left to the application.
            ("yolo26n", "yolo_v26", ["1x300x6"]),
        ],
    )
    def test_every_task_is_exported_and_quantized(
        self,
        checkpoints: Path,
        profile: Path,
        attempt: RecordingAttempt,
        tmp_path: Path,
        name: str,
        kind: str,
        outputs: list[str],
    ) -> None:
        source = a_source(tmp_path / "source", checkpoints, name, archive=pictures())
        evidence = convert(source, attempt.workspace, profile, attempt, "coco8")
        output = attempt.workspace / "output"
        assert files_below(output) == forms(name, "FP32", "FP16", "INT8")
        assert all(f"outputs {', '.join(outputs)}" in check for check in evidence.checks)
        assert told(output / "INT8" / f"{name}.xml", "model_type") == kind
        if name.endswith("-seg"):
            ports = ov.Core().read_model(output / "FP16" / f"{name}.xml").outputs
            assert [port.get_any_name() for port in ports] == ["boxes", "masks"]

    def test_several_models_have_folders_of_their_own(
        self, checkpoints: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        source = a_source(tmp_path / "source", checkpoints, "yolov8n", "yolov8n-cls")
        evidence = convert(source, attempt.workspace, profile, attempt)
        wanted = {f"{name}/{file}" for name in ("yolov8n", "yolov8n-cls") for file in forms(name, "FP32", "FP16")}
        assert files_below(attempt.workspace / "output") == wanted
        assert len(evidence.checks) == 4

    def test_weights_that_are_a_program_are_refused(
        self, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        import torch

        source = tmp_path / "source"
        source.mkdir()
        torch.save({"model": Exploit()}, source / "yolov8n.pt")
        with pytest.raises(PickleRefused):
            convert(source, attempt.workspace, profile, attempt)
        assert not list(tmp_path.rglob("pwned"))
        assert not (ROOT / "pwned").exists()

    @pytest.mark.parametrize("content", [b"", b"<html>moved</html>", b"PK\x03\x04" + bytes(100)])
    def test_what_is_no_checkpoint_is_refused_and_nothing_is_installed_or_fetched(
        self, profile: Path, attempt: RecordingAttempt, tmp_path: Path, content: bytes
    ) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "yolov8n.pt").write_bytes(content)
        with pytest.raises((ConversionFailed, PickleRefused)) as refused:
            convert(source, attempt.workspace, profile, attempt)
        assert str(tmp_path) not in str(refused.value)

    def test_weights_of_another_task_are_refused(
        self, checkpoints: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "yolov8n-obb.pt").write_bytes((checkpoints / "yolov8n.pt").read_bytes())
        with pytest.raises(ConversionFailed, match="is a model to detect, and not to obb"):
            convert(source, attempt.workspace, profile, attempt)

    def test_int8_that_fails_says_so_in_the_words_that_clients_know(
        self, checkpoints: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        source = a_source(tmp_path / "source", checkpoints, "yolov8n", archive=b"no archive")
        with pytest.raises(IntegrityMismatch) as refused:
            convert(source, attempt.workspace, profile, attempt, "coco8")
        begins = "INT8 download attempt failed for Ultralytics model 'yolov8n' using dataset 'coco8'"
        assert str(refused.value).startswith(begins)

    def test_a_cancelled_export_leaves_no_process(
        self, checkpoints: Path, profile: Path, attempt: RecordingAttempt, tmp_path: Path
    ) -> None:
        attempt.cancelled_in = Phase.CONVERTING
        started = time.monotonic()
        with pytest.raises(JobCancelled):
            convert(a_source(tmp_path / "source", checkpoints, "yolov8n"), attempt.workspace, profile, attempt)
        assert time.monotonic() - started < 3
        assert not left_behind()

    @pytest.mark.parametrize("whom", ["group", "parent"])
    def test_a_kill_takes_the_export_along(self, whom: str, checkpoints: Path, profile: Path, tmp_path: Path) -> None:
        source = a_source(tmp_path / "source", checkpoints, "yolov8n")
        (tmp_path / "work").mkdir()
        command = [sys.executable, "-c", CONVERT, str(source), str(tmp_path / "work"), str(profile)]
        parent = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            child = _child_of(parent.pid)
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

    def test_the_librarys_own_downloader_takes_what_the_fake_serves(self, profile: Path, tmp_path: Path) -> None:
        content = os.urandom(300_000)
        with FakeUltralyticsAssets() as fake:
            fake.add({"yolov8n.pt": content})
            code = "import sys; from ultralytics.utils.downloads import safe_download as d; d(sys.argv[1], dir='.')"
            environment = {**os.environ, "PYTHONPATH": str(profile), "YOLO_CONFIG_DIR": str(tmp_path / "config")}
            subprocess.run(
                [sys.executable, "-c", code, f"{fake.assets_url}/v8.4.0/yolov8n.pt"],
                cwd=tmp_path,
                env={**environment, "YOLO_AUTOINSTALL": "false"},
                check=True,
            )
        assert (tmp_path / "yolov8n.pt").read_bytes() == content


@pytest.fixture(scope="module")
def shore(checkpoints: Path, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """Releases with weights and pictures, and all processes of a service that offers them."""
    with FakeUltralyticsAssets() as fake:
        fake.add({f"{name}.pt": checkpoints / f"{name}.pt" for name in NAMES})
        fake.add({"coco8.zip": pictures()}, tag=PICTURES)
        with Service(
            tmp_path_factory.mktemp("service"),
            ENABLED_PLUGINS="all,ultralytics",
            MODELFERRY_PROFILES=f"{PROFILE}={profile}",
            **fake.settings,
        ) as service:
            yield fake, service


@pytest.mark.slow
class TestService:
    """Through the API, in the order in which these stand."""

    def test_a_detector_is_where_clients_look(self, shore: tuple) -> None:
        _, service = shore
        wish = {"name": "yolov8n", "hub": "ultralytics", "config": {"quantize": "coco8"}}
        job = service.wait(*service.submit(wish, download_path="object-detection"), timeout_s=100)
        assert job["status"] == "completed", job
        folder = service.models_dir / "object-detection/ultralytics/public/yolov8n"
        assert check_published(folder, rehash=True) == []
        assert files_below(folder) - {".modelferry.json"} == forms("yolov8n", "FP32", "FP16", "INT8")
        result = job["result"]
        assert (result["success"], result["int8_requested"], result["licence"]) == (True, True, "AGPL-3.0")
        assert json.loads((folder / ".modelferry.json").read_text())["licence"] == "AGPL-3.0"
        assert result["versions"]["ultralytics"] == "8.4.190"

    def test_a_failed_int8_leaves_the_earlier_publication_alone(self, shore: tuple) -> None:
        fake, service = shore
        folder = service.models_dir / "object-detection/ultralytics/public/yolov8n"
        before = {path: (folder / path).stat().st_mtime_ns for path in files_below(folder)}
        fake.add({"coco8.zip": pictures(0)}, tag=PICTURES)
        wish = {"name": "yolov8n", "hub": "ultralytics", "config": {"quantize": "coco8"}}
        job = service.wait(*service.submit(wish, download_path="object-detection"), timeout_s=100)
        assert job["status"] == "failed"
        assert job["error"].startswith(
            "INT8 download attempt failed for Ultralytics model 'yolov8n' using dataset 'coco8'"
        )
        assert {path: (folder / path).stat().st_mtime_ns for path in files_below(folder)} == before
        assert check_published(folder, rehash=True) == []

    def test_several_models_are_shown_each_in_its_folder(self, shore: tuple) -> None:
        _, service = shore
        wish = {"name": "yolov8n-cls,yolo26n.pt", "hub": "ultralytics"}
        job = service.wait(*service.submit(wish, download_path="object-detection"), timeout_s=100)
        assert job["status"] == "completed", job
        public = service.models_dir / "object-detection/ultralytics/public"
        assert {path.name for path in public.iterdir()} == {"yolov8n", "yolov8n-cls", "yolo26n"}
        for name in ("yolov8n-cls", "yolo26n"):
            assert check_published(public / name, rehash=True) == []
            assert files_below(public / name) - {".modelferry.json"} == forms(name, "FP32", "FP16")
        assert job["result"]["int8_requested"] is False

    def test_lists_with_int8_are_refused_in_the_words_that_clients_know(self, shore: tuple) -> None:
        _, service = shore
        wish = {"name": "all", "hub": "ultralytics", "config": {"quantize": "coco128"}}
        job = service.wait(*service.submit(wish))
        assert job["status"] == "failed"
        assert job["error"].startswith("INT8 requires a single model. Received 'all' with quantize='coco128'.")


def _child_of(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            # By then it has passed its own start, and imports the library or works with it.
            if child.cpu_times().user > 1:
                return child
        time.sleep(0.1)
    raise AssertionError("The export has not begun")
