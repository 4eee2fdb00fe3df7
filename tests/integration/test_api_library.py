"""The models on the volume, as clients list, verify and remove them."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.library import Models
from common.artefacts.durable import locked
from common.artefacts.layout import Volume
from common.artefacts.library import Library
from common.artefacts.locks import lock_of
from common.artefacts.manifest import ArtefactStore, check_published
from common.artefacts.publish import Description, Index, PublicationPlan, publish
from common.artefacts.removal import remove
from common.errors import ModelBusy, NoSuchModel, ServiceUnavailable
from common.spec import Destination, Target
from common.store.database import Database
from common.store.jobs import JobStore
from common.vocabulary import Format, ModelType, Precision
from tests.integration.test_api_socket import process
from tests.integration.test_api_upload import IR, upload, zipped
from tests.stored_models import FOLDER, a_plan, a_store, a_stored_artefact, content_of
from tests.web import Web, web

MIB = 1024 * 1024
SHELF = "openvino_models/cpu/int8"


def show(service: Web, folder: str = FOLDER, version: int = 1) -> Path:
    store = a_store(service.models_dir)
    plan = a_plan(a_stored_artefact(store, content_of(version), revision=f"c{version}"), folder)
    return publish(store, plan, fence=lambda: None).path


def show_converted(service: Web, name: str = "org/model") -> Path:
    """A conversion, with its entry in config_all.json."""
    store = a_store(service.models_dir)

    def enter(at: Path) -> None:
        entry = {"config": {"name": name, "base_path": name}}
        (at / "config_all.json").write_text(json.dumps({"model_config_list": [entry]}))

    target = Target(format=Format.OPENVINO, model_type=ModelType.LLM, precision=Precision.INT8, device="CPU")
    plan = PublicationPlan(
        artefact=a_stored_artefact(store, content_of(1), revision="c1"),
        destination=Destination(root="", folder=f"{SHELF}/{name}"),
        description=Description(name=name, hub="openvino", model_type=ModelType.LLM, target=target),
        index=Index(folder=SHELF, update=enter),
    )
    return publish(store, plan, fence=lambda: None).path


def models(service: Web, query: str = "") -> list[dict[str, Any]]:
    answer = service.get(f"/models{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["models"]
    return found


def only(service: Web) -> dict[str, Any]:
    (model,) = models(service)
    return model


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_volume_is_listed_as_it_is(quick: Web, prefix: str) -> None:
    folder = show_converted(quick)
    page = quick.get(f"{prefix}/models").json()
    (model,) = page["models"]
    assert (page["total"], page["limit"], page["offset"]) == (1, 100, 0)
    assert model == {
        **model,
        "name": "org/model",
        "managed": True,
        "hub": "openvino",
        "revision": "c1",
        "precision": "int8",
        "device": "CPU",
        "model_type": "llm",
        "format": "transformers",
        "licence": "apache-2.0",
        "files": 5,
        "bytes": sum(map(len, content_of(1).values())),
        "path": str(folder),
        "host_path": str(folder),
        "state": "unchecked",
        "verified_at": None,
    }
    assert quick.get(f"{prefix}/models/{model['id']}").json()["id"] == model["id"]
    shutil.rmtree(folder)
    assert quick.get(f"{prefix}/models").json() == {"models": [], "total": 0, "limit": 100, "offset": 0}
    assert quick.get(f"{prefix}/models/{model['id']}").status_code == 404


def test_one_model_tells_everything(quick: Web) -> None:
    show(quick)
    show(quick, "twin")
    whole = quick.get(f"/models/{models(quick)[0]['id']}").json()
    assert [file["path"] for file in whole["file_list"]] == sorted(content_of(1))
    assert all(len(file["sha256"]) == 64 for file in whole["file_list"])
    assert whole["artefact"].startswith("source-")
    assert (whole["recipe"], whole["versions"], whole["problems"], whole["edited"]) == ({}, {}, [], [])
    assert whole["elsewhere"] == [{"id": models(quick)[1]["id"], "path": str(quick.models_dir / "twin")}]


def test_what_was_dropped_in_by_hand_is_listed_and_left_alone(quick: Web) -> None:
    mine = quick.models_dir / "mine"
    mine.mkdir()
    (mine / "weights.gguf").write_bytes(b"12345")
    model = only(quick)
    assert (model["name"], model["managed"], model["hub"], model["bytes"]) == ("mine", False, None, 5)
    whole = quick.get(f"/models/{model['id']}").json()
    assert not {"file_list", "artefact"} & set(whole)
    for answer in (quick.delete(f"/models/{model['id']}"), quick.post(f"/models/{model['id']}/verify")):
        assert (answer.status_code, "by hand" in answer.json()["detail"]) == (409, True)
    assert (mine / "weights.gguf").exists()


def test_filters_and_pages(quick: Web) -> None:
    show(quick, "a")
    show(quick, "b")
    upload(quick, zipped(IR), model_name="Yolo")
    show_converted(quick, "org/Other")
    assert [model["path"].rpartition("/")[2] for model in models(quick)] == ["a", "b", "FP16", "Other"]
    assert [model["name"] for model in models(quick, "?hub=User-Uploaded")] == ["Yolo"]
    assert [model["name"] for model in models(quick, "?name=OTHER")] == ["org/Other"]
    assert [model["name"] for model in models(quick, "?precision=fp16")] == ["Yolo"]
    assert models(quick, "?hub=huggingface&name=nope") == []
    page = quick.get("/models?hub=huggingface&limit=1&offset=1").json()
    assert (page["total"], page["models"][0]["path"].rpartition("/")[2]) == (2, "b")
    assert quick.get("/models?offset=9").json()["models"] == []
    for query in ("limit=0", "limit=1001", "offset=-1", "limit=x"):
        assert quick.get(f"/models?{query}").status_code == 422


def test_the_routes_of_the_contract_are_no_ids(quick: Web) -> None:
    assert quick.get("/models/results").json() == {"results": []}
    assert quick.get("/models/jobs").status_code == 422
    for wrong in ("x", "m-0000000000000000", "..%2f..%2fetc", "%00", "m-" + "a" * 5000):
        for answer in (quick.get(f"/models/{wrong}"), quick.delete(f"/models/{wrong}")):
            assert answer.status_code == 404, wrong
    assert quick.post("/models/x/verify").status_code == 404
    assert quick.delete("/models/jobs").status_code in {404, 405}


def test_the_path_of_the_host_is_told(tmp_path: Path) -> None:
    with web(tmp_path, model_path="/home/me/models") as service:
        show(service)
        assert only(service)["host_path"] == str(service.models_dir / FOLDER)


class TestVerification:
    def test_a_good_model(self, quick: Web) -> None:
        show(quick)
        model_id = only(quick)["id"]
        answer = quick.post(f"/api/v1/models/{model_id}/verify")
        assert answer.status_code == 200
        said = answer.json()
        assert (said["state"], said["checked_files"], said["problems"]) == ("good", 5, [])
        assert said["bytes"] == sum(map(len, content_of(1).values()))
        assert (only(quick)["state"], only(quick)["verified_at"]) == ("good", said["verified_at"])
        show(quick, version=2)
        assert (only(quick)["state"], only(quick)["verified_at"]) == ("unchecked", None)

    def test_a_spoilt_model_is_told_and_its_content_fetched_anew(self, quick: Web) -> None:
        folder = show(quick)
        weights = folder / "model.bin"
        status = weights.stat()
        weights.chmod(0o644)
        weights.write_bytes(b"X" * status.st_size)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        model_id = only(quick)["id"]
        assert only(quick)["state"] == "unchecked"
        said = quick.post(f"/models/{model_id}/verify").json()
        assert (said["state"], said["content_removed"]) == ("spoilt", 1)
        whole = quick.get(f"/models/{model_id}").json()
        assert (whole["state"], whole["problems"]) == ("spoilt", said["problems"])
        store = ArtefactStore(Volume(quick.models_dir))
        assert store.load(whole["artefact"]) is None
        show(quick)
        assert quick.post(f"/models/{model_id}/verify").json()["state"] == "good"
        assert list((quick.models_dir / ".modelferry/spoilt").iterdir()) == []

    def test_a_missing_file_is_seen_without_reading(self, quick: Web) -> None:
        (show(quick) / "model.bin").unlink()
        assert only(quick)["state"] == "spoilt"
        whole = quick.get(f"/models/{only(quick)['id']}").json()
        assert whole["problems"] == ["model.bin is missing, or not a plain file"]


class TestRemoval:
    @pytest.mark.parametrize("prefix", ["", "/api/v1"])
    def test_a_model_goes_with_its_entry_and_its_folders(self, service: Web, prefix: str) -> None:
        folder = show_converted(service)
        model_id = only(service)["id"]
        service.post(f"/models/{model_id}/verify")
        answer = service.delete(f"{prefix}/models/{model_id}")
        assert answer.status_code == 200
        assert answer.json() == {
            "id": model_id,
            "name": "org/model",
            "path": str(folder),
            "bytes": sum(map(len, content_of(1).values())),
            "kept_path": None,
            "kept_files": [],
        }
        assert [path.name for path in service.models_dir.iterdir() if not path.name.startswith(".")] == []
        assert list((service.models_dir / ".modelferry/verified").iterdir()) == []
        assert service.delete(f"{prefix}/models/{model_id}").status_code == 404

    def test_what_was_edited_is_kept(self, quick: Web) -> None:
        folder = show(quick)
        (folder / "graph.pbtxt").write_text("cache_size: 10")
        said = quick.delete(f"/models/{only(quick)['id']}").json()
        assert said["kept_files"] == ["graph.pbtxt"]
        assert (Path(said["kept_path"]) / "graph.pbtxt").read_text() == "cache_size: 10"

    @pytest.mark.parametrize("root", ["", "deep/er"])
    def test_not_while_a_job_publishes_there(self, service: Web, root: str) -> None:
        (job_id,) = service.submitted({"name": "org/model", "hub": "huggingface"}, download_path=root)
        other = service.submitted({"name": "org/other", "hub": "huggingface"}, download_path=root)
        assert len(other) == 1
        folder = show(service, f"{root}/huggingface/org_model".removeprefix("/"))
        model_id = only(service)["id"]
        refused = service.delete(f"/models/{model_id}")
        assert (refused.status_code, job_id in refused.json()["detail"]) == (409, True)
        assert check_published(folder, rehash=True) == []
        service.post(f"/jobs/{job_id}/cancel")
        assert service.delete(f"/models/{model_id}").status_code == 200

    def test_not_while_a_job_of_several_models_publishes_there(self, service: Web) -> None:
        (job_id,) = service.submitted({"name": "a,b", "hub": "pipeline-zoo-models"}, download_path="zoo")
        for folder in ("zoo/pipeline-zoo-models/a", "zoo/a"):
            show(service, folder)
        beside, meant = models(service)
        assert service.delete(f"/models/{beside['id']}").status_code == 200
        refused = service.delete(f"/models/{meant['id']}")
        assert (refused.status_code, job_id in refused.json()["detail"]) == (409, True)

    def test_not_while_it_is_being_published(self, quick: Web) -> None:
        folder = show(quick)
        with locked(lock_of(Volume(quick.models_dir), folder)):
            assert quick.delete(f"/models/{only(quick)['id']}").status_code == 409
        assert only(quick)["state"] == "unchecked"

    def test_an_upload_can_be_sent_again_after_it(self, service: Web) -> None:
        assert upload(service, zipped(IR)).status_code == 200
        service.delete(f"/models/{only(service)['id']}")
        assert upload(service, zipped(IR)).status_code == 200


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    models_dir = tmp_path / "models"
    models_dir.mkdir()
    with process(models_dir) as one, process(models_dir) as other:
        yield one, other, models_dir


def test_two_processes_upload_and_remove_at_once(addresses: tuple[str, str, Path]) -> None:
    """Whoever looks sees a whole model, or none."""
    one, other, models_dir = addresses
    place = models_dir / "custom_uploaded_models/geti/openvino/busy/FP16"
    until = time.monotonic() + 6
    sent: list[int] = []
    removed: list[int] = []

    def send(number: int) -> None:
        with httpx.Client(base_url=one, trust_env=False, timeout=30) as client:
            while time.monotonic() < until:
                weights = f"{number}.{len(sent)}".encode() * 20_000
                files = {"file": ("a.zip", zipped({**IR, "model.bin": weights}))}
                sent.append(client.post("/models/upload", files=files, data={"model_name": "busy"}).status_code)

    def take_away() -> None:
        with httpx.Client(base_url=other, trust_env=False, timeout=30) as client:
            while time.monotonic() < until:
                for model in client.get("/models").json()["models"]:
                    assert model["managed"]
                    removed.append(client.delete(f"/models/{model['id']}").status_code)

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(send, number) for number in range(2)]
        working += [threads.submit(take_away) for _ in range(2)]
        for one_of_them in working:
            one_of_them.result()
    assert (set(sent), sent.count(200) > 3) == ({200, 409}, True), sent
    assert set(removed) <= {200, 404, 409}
    assert removed.count(200) > 3
    assert sent.count(200) - removed.count(200) == int(place.exists())
    with httpx.Client(base_url=one, trust_env=False) as client:
        assert len(client.get("/jobs").json()["jobs"]) == sent.count(200)
    if place.exists():
        assert check_published(place, rehash=True) == []
    assert list((models_dir / ".modelferry/replaced").iterdir()) == []
    assert list((models_dir / ".modelferry/work").iterdir()) == []


def test_who_publishes_and_who_removes_never_meet_half_way(tmp_path: Path) -> None:
    """The folders above a model come and go all the time; neither side ever fails because of the other."""
    store = a_store(tmp_path / "models")
    plans = [a_plan(a_stored_artefact(store, content_of(version)), "deep/er/model") for version in (1, 2)]
    at = store.volume.root / "deep/er/model"
    done = threading.Event()
    gone: list[str] = []

    def take_away() -> None:
        while not done.is_set():
            try:
                gone.append(remove(store.volume, "deep/er/model", fence=lambda: None).folder)
            except (NoSuchModel, ModelBusy):
                time.sleep(0.001)

    def look() -> None:
        while not done.is_set():
            with whole_or_gone(at):
                names = {path.relative_to(at).as_posix() for path in at.rglob("*") if path.is_file()}
                assert not names or at.exists() is False or names >= {"model.bin", "model.xml"}

    with ThreadPoolExecutor(3) as threads:
        working = [threads.submit(take_away), threads.submit(take_away), threads.submit(look)]
        until = time.monotonic() + 5
        count = 0
        while time.monotonic() < until:
            publish(store, plans[count % 2], fence=lambda: None)
            count += 1
        done.set()
        for one in working:
            one.result()
    assert len(gone) > 3
    assert list(store.volume.work.glob("publish.*")) == []
    assert list(store.volume.replaced.iterdir()) == []


@contextmanager
def whole_or_gone(at: Path) -> Iterator[None]:
    """A directory that goes while it is read is gone, which is no half state."""
    before = identity(at)
    try:
        yield
    except (FileNotFoundError, AssertionError):
        if identity(at) == before is not None:
            raise


def identity(at: Path) -> tuple[int, ...] | None:
    try:
        status = at.stat()
    except FileNotFoundError:
        return None
    # The number alone may be that of the next one already.
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def test_who_leaves_ends_the_verification(tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    store = a_store(models_dir)
    plan = a_plan(a_stored_artefact(store, {"model.bin": os.urandom(MIB) * 400}), "big")
    publish(store, plan, fence=lambda: None)
    with process(models_dir) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        model_id = client.get("/models").json()["models"][0]["id"]
        with httpx.Client(base_url=url, trust_env=False, timeout=0.05) as hasty, pytest.raises(httpx.ReadTimeout):
            hasty.post(f"/models/{model_id}/verify")
        time.sleep(0.5)
        assert client.get(f"/models/{model_id}").json()["state"] == "unchecked"
        assert client.post(f"/models/{model_id}/verify").json()["state"] == "good"
        assert client.get(f"/models/{model_id}").json()["state"] == "good"


def test_only_two_models_are_read_at_once(quick: Web) -> None:
    show(quick)
    library = Library(Volume(quick.models_dir))
    (model,) = library.models()
    use_cases = Models(library=library, store=JobStore(Database("sqlite://")))
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        begun.release()
        assert go_on.wait(20)

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(use_cases.verify, model.id, wait) for _ in range(2)]
        assert all(begun.acquire(timeout=20) for _ in range(2))
        with pytest.raises(ServiceUnavailable):
            use_cases.verify(model.id, wait)
        go_on.set()
        assert [one.result().state for one in reading] == ["good", "good"]
    assert use_cases.verify(model.id, wait).state == "good"


def test_ten_thousand_models_are_listed_in_time(tmp_path: Path, shelf: Callable[[Path, int], None]) -> None:
    with web(tmp_path) as service:
        shelf(service.models_dir, 10_000)
        begun = time.monotonic()
        assert service.get("/models?limit=10").json()["total"] == 10_000
        cold = time.monotonic() - begun
        begun = time.monotonic()
        assert service.get("/models?limit=10&name=model-77").json()["total"] == 111
        print(f"cold {cold:.2f} s, then {time.monotonic() - begun:.2f} s")
        assert cold < 30


@pytest.fixture
def shelf() -> Callable[[Path, int], None]:
    def fill(models_dir: Path, count: int) -> None:
        service = Web(client=None, models_dir=models_dir, stages=None)  # type: ignore[arg-type]
        manifest = (show(service) / ".modelferry.json").read_bytes()
        shutil.rmtree(models_dir / FOLDER.partition("/")[0])
        for number in range(count):
            folder = models_dir / f"shelf/{number % 100}/model-{number}"
            folder.mkdir(parents=True)
            text = manifest.replace(b'"name": "org/model"', f'"name": "model-{number}"'.encode(), 1)
            (folder / ".modelferry.json").write_bytes(text)

    return fill
