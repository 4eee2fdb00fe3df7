"""Uploads: what a client sends is published whole, or not at all."""

import asyncio
import io
import os
import random
import sqlite3
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from litestar.datastructures import Headers

from api.compat.leaving import ClientGone
from api.compat.upload import UploadLimits, read_upload
from api.uploads import Upload, Uploads
from common.artefacts.durable import locked
from common.artefacts.layout import Volume
from common.artefacts.locks import lock_of
from common.artefacts.manifest import check_published, read_published
from common.errors import ServiceUnavailable
from common.store.database import Database
from common.store.jobs import JobStore
from tests.integration.test_api_socket import process
from tests.web import Web, web

PLACE = "custom_uploaded_models/geti/openvino/My_Model/FP16"
IR = {"model.xml": b"<net/>", "model.bin": b"weights"}
MIB = 1024 * 1024


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def upload(service: Web, body: bytes, prefix: str = "", **fields: str) -> httpx.Response:
    named = {"model_name": "My Model", **fields}
    return service.post(f"{prefix}/models/upload", files={"file": ("model.zip", body)}, data=named)


def detail(answer: httpx.Response) -> str:
    said: str = answer.json()["detail"]
    return said


def public(service: Web) -> list[str]:
    """Everything that others can see."""
    return sorted(path.name for path in service.models_dir.iterdir() if not path.name.startswith("."))


def unfinished(service: Web) -> list[str]:
    work = service.models_dir / ".modelferry" / "work"
    return sorted(path.name for path in work.iterdir()) if work.exists() else []


def nothing_left(service: Web) -> bool:
    blobs = service.models_dir / ".modelferry" / "blobs" / "sha256"
    return not public(service) and not unfinished(service) and not list(blobs.glob("*/*"))


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_an_upload_is_published_as_it_is_and_is_a_completed_job(service: Web, prefix: str) -> None:
    answer = upload(service, zipped({**IR, "sub/note.txt": b"keep me"}), prefix)
    assert answer.status_code == 200
    said = answer.json()
    folder = service.models_dir / PLACE
    assert list(said) == ["status", "message", "job_id", "model_name", "model_path"]
    assert said == {
        "status": "success",
        "message": "Model 'My_Model' uploaded successfully.",
        "job_id": said["job_id"],
        "model_name": "My_Model",
        "model_path": str(folder),
    }
    assert (folder / "sub/note.txt").read_bytes() == b"keep me"
    assert check_published(folder, rehash=True) == []
    manifest = read_published(folder)
    assert manifest is not None
    assert (manifest.hub, manifest.name, manifest.source.hub) == ("user-uploaded", "My_Model", "user-uploaded")
    assert manifest.recipe == {"provider": "geti", "framework": "openvino", "precision": "FP16"}
    job = service.job(said["job_id"])
    wanted = {
        "operation_type": "upload",
        "hub": "user-uploaded",
        "plugin_name": None,
        "status": "completed",
        "model_name": "My_Model",
        "output_dir": str(folder),
        "path": str(folder),
        "model_type": None,
    }
    assert {name: job[name] for name in wanted} == wanted
    assert job["progress"]["percent"] == 100
    assert job["progress"]["bytes_done"] == manifest.total_bytes
    assert service.get("/jobs").json()["jobs"] == [job]
    assert service.get("/models/jobs?model_name=My_Model").json()["jobs"] == [job]
    (line,) = service.get("/models/results").json()["results"]
    assert "is_ovms" not in line
    assert (line["operation_type"], line["model_path"], line["status"]) == ("upload", str(folder), "success")
    assert unfinished(service) == []


def test_the_job_of_an_upload_is_treated_as_any_other(service: Web) -> None:
    job_id = upload(service, zipped(IR)).json()["job_id"]
    assert service.post(f"/jobs/{job_id}/cancel").status_code == 409
    assert service.post(f"/jobs/{job_id}/retry").status_code == 409
    assert service.get(f"/jobs/{job_id}/attempts").json() == {"attempts": []}
    assert service.get(f"/jobs/{job_id}/provenance").json()["subject"][0]["name"] == "model.bin"
    assert service.delete(f"/jobs/{job_id}").status_code == 204
    assert service.get("/jobs").json() == {"jobs": []}
    assert (service.models_dir / PLACE / "model.xml").exists()


def test_names_make_the_folder_and_empty_ones_are_defaults(quick: Web) -> None:
    names = {"model_name": "a.B-c_ d", "provider": "Me", "framework": "ov_2", "precision": "INT8-x"}
    assert upload(quick, zipped(IR), **names).json()["model_path"].endswith("/Me/ov_2/a.B-c__d/INT8-x")
    assert upload(quick, zipped(IR), provider="", framework="", precision="").status_code == 200
    assert (quick.models_dir / PLACE).is_dir()


def test_what_is_there_is_never_replaced(quick: Web) -> None:
    upload(quick, zipped(IR))
    again = upload(quick, zipped({**IR, "model.bin": b"other"}))
    assert again.status_code == 409
    assert detail(again).startswith("Model 'My_Model' already exists")
    assert str(quick.models_dir) not in detail(again)
    assert (quick.models_dir / PLACE / "model.bin").read_bytes() == b"weights"
    assert upload(quick, zipped(IR), precision="INT8").status_code == 200
    assert len(quick.get("/jobs").json()["jobs"]) == 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Uploaded file is not a valid ZIP archive."),
        (b"no zip at all", "Uploaded file is not a valid ZIP archive."),
        (b"PK\x03\x04" + b"x" * 100, "Uploaded file is not a valid ZIP archive."),
        (b"MZ" + zipped(IR), "Uploaded file is not a valid ZIP archive."),
        (zipped({"model.xml": b""}), "ZIP must contain at least one .xml and one .bin file (OpenVINO IR format)."),
        (zipped({"a.bin": b"", "a.xml/": b""}), "ZIP must contain at least one .xml and one .bin file (OpenVINO IR"),
        (
            zipped({**IR, "../../e.xml": b""}),
            "Invalid ZIP archive: '../../e.xml' resolves outside target directory.",
        ),
        (zipped({**IR, "/etc/e.xml": b""}), "Invalid ZIP archive: '/etc/e.xml' resolves outside target directory."),
        (zipped({**IR, "c:\\e.xml": b""}), "Invalid ZIP archive: 'c:\\e.xml' resolves outside target directory."),
        (zipped({**IR, "a/../../e": b""}), "Invalid ZIP archive: 'a/../../e' resolves outside target directory."),
        (zipped({**IR, "a/../e": b""}), "Invalid ZIP archive: 'a/../e' is no name that can be published"),
        (zipped({**IR, ".modelferry.json": b"{}"}), "Invalid ZIP archive: '.modelferry.json' is no name"),
        (zipped({**IR, "MODEL.xml": b""}), "Invalid ZIP archive: it holds two files of one name"),
        (zipped({**IR, "model.bin": b"\0" * 100 * MIB}), "Invalid ZIP archive: More than 200 bytes"),
    ],
)
def test_what_is_no_model_is_refused(quick: Web, body: bytes, text: str) -> None:
    answer = upload(quick, body)
    assert (answer.status_code, detail(answer)[: len(text)]) == (400, text)
    assert nothing_left(quick)
    assert quick.get("/jobs").json() == {"jobs": []}


def with_entry(change: Callable[[zipfile.ZipInfo], None], content: bytes = b"target") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in IR.items():
            archive.writestr(name, data)
        entry = zipfile.ZipInfo("odd")
        change(entry)
        archive.writestr(entry, content)
    return made.getvalue()


def link(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = 0o120777 << 16


def torn(body: bytes) -> bytes:
    """A content that is not what its checksum says."""
    at = body.index(b"weights")
    return body[:at] + b"WEIGHTS" + body[at + 7 :]


@pytest.mark.parametrize("body", [with_entry(link), torn(zipped(IR, zipfile.ZIP_STORED))])
def test_links_and_torn_archives_are_refused(quick: Web, body: bytes) -> None:
    answer = upload(quick, body)
    assert (answer.status_code, detail(answer).startswith("Invalid ZIP archive: ")) == (400, True)
    assert nothing_left(quick)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", "../x"),
        ("model_name", ".hidden"),
        ("model_name", "x."),
        ("model_name", "a..b"),
        ("model_name", "näme"),
        ("model_name", "a\nb"),
        ("provider", "a.b"),
        ("framework", "-a"),
        ("precision", "a b"),
        ("precision", "/"),
        ("model_name", "x" * 300),
    ],
)
def test_names_that_cannot_be_used_are_refused(quick: Web, field: str, value: str) -> None:
    answer = upload(quick, zipped(IR), **{field: value})
    assert answer.status_code == 400
    assert nothing_left(quick)


def test_the_archive_is_judged_before_the_names(quick: Web) -> None:
    assert detail(upload(quick, b"no zip", model_name="../x")) == "Uploaded file is not a valid ZIP archive."


@pytest.mark.parametrize(
    ("request_parts", "missing"),
    [
        ({"data": {"model_name": "x"}, "files": {"other": ("a.zip", b"x")}}, ["file"]),
        ({"files": {"file": ("a.zip", zipped(IR))}}, ["model_name"]),
        ({"files": {"file": ("a.zip", zipped(IR))}, "data": {"model_name": ""}}, ["model_name"]),
        ({"files": {"file": (None, "text"), "model_name": (None, "x")}}, ["file"]),
        ({"json": {"model_name": "x"}}, ["file", "model_name"]),
        ({}, ["file", "model_name"]),
    ],
)
def test_what_is_missing_is_named(quick: Web, request_parts: dict[str, Any], missing: list[str]) -> None:
    answer = quick.post("/models/upload", **request_parts)
    assert answer.status_code == 422
    faults = answer.json()["detail"]
    assert [(fault["type"], fault["loc"]) for fault in faults] == [("missing", ["body", name]) for name in missing]
    assert nothing_left(quick)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"--b\r\nbroken", 400), (b"", 400), (b"--other--", 400), (b"--b--\r\n", 422)],
)
def test_a_form_that_cannot_be_read_is_refused(quick: Web, body: bytes, status: int) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert quick.post("/models/upload", content=body, headers=headers).status_code == status
    assert (
        quick.post("/models/upload", content=body, headers={"content-type": "multipart/form-data"}).status_code == 400
    )
    assert nothing_left(quick)


def test_fields_that_come_twice_or_never_end_are_refused(quick: Web) -> None:
    file = ("file", ("a.zip", zipped(IR)))
    named = ("model_name", (None, "x"))
    assert quick.post("/models/upload", files=[file, file, named]).status_code == 422
    assert quick.post("/models/upload", files=[file, named, named]).status_code == 422
    assert quick.post("/models/upload", files=[file, ("model_name", (None, "x" * 5000))]).status_code == 422
    assert nothing_left(quick)


def test_the_limit_is_that_of_the_file(tmp_path: Path) -> None:
    with web(tmp_path, max_upload_size_mb=1) as service:
        noise = random.Random(1).randbytes(MIB)
        fits = zipped({"m.xml": b"", "m.bin": noise[: MIB - 1000]}, zipfile.ZIP_STORED)
        too_large = zipped({"m.xml": b"", "m.bin": noise}, zipfile.ZIP_STORED)
        assert MIB - 1000 < len(fits) <= MIB < len(too_large)
        refused = upload(service, too_large)
        assert (refused.status_code, detail(refused)) == (413, "File size exceeds the 1MB upload limit.")
        declared = upload(service, too_large * 2)
        assert declared.status_code == 413
        size = declared.request.headers["content-length"]
        assert detail(declared) == f"File size {size} bytes exceeds the 1MB upload limit."
        assert nothing_left(service)
        assert upload(service, fits).status_code == 200


def test_what_is_too_much_when_unpacked_is_refused(tmp_path: Path) -> None:
    with web(tmp_path, max_unpacked_mb=1) as service:
        answer = upload(service, zipped({**IR, "big.txt": b"0123456789abcdef" * 70_000}))
        assert answer.status_code == 413
        many = upload(service, zipped({**IR, **{f"{number}": b"" for number in range(10_001)}}))
        assert many.status_code == 413
        assert nothing_left(service)


def test_a_table_of_contents_without_end_is_refused(quick: Web) -> None:
    body = zipped({**IR, **{"x" * 2000 + str(number): b"" for number in range(2500)}})
    assert upload(quick, body).status_code == 413
    assert nothing_left(quick)


def test_without_room_nothing_is_taken(tmp_path: Path) -> None:
    with web(tmp_path, spare_mb=2**40) as service:
        answer = upload(service, zipped(IR))
        assert (answer.status_code, "no room" in detail(answer)) == (507, True)
        assert nothing_left(service)


def test_without_a_job_table_nothing_is_taken(quick: Web) -> None:
    with closing(sqlite3.connect(quick.models_dir / ".modelferry/state/modelferry.db")) as database:
        database.execute("ALTER TABLE jobs RENAME TO away")
    assert upload(quick, zipped(IR)).status_code == 503
    assert nothing_left(quick)


def test_a_model_whose_job_cannot_be_noted_stays_and_is_listed(quick: Web, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(zipped(IR))
    store = JobStore(Database(f"sqlite:///{quick.models_dir / '.modelferry/state/modelferry.db'}"))
    volume = Volume(quick.models_dir)
    uploads = Uploads(store=store, volume=volume, most_unpacked_bytes=MIB, spare_bytes=0)
    names = {"model_name": "x", "provider": "p", "framework": "f", "precision": "p"}

    def lose_the_table() -> None:
        with closing(sqlite3.connect(quick.models_dir / ".modelferry/state/modelferry.db")) as database:
            database.execute("DROP TABLE IF EXISTS jobs")

    uploads.prepare(0)
    with pytest.raises(ServiceUnavailable, match="Model 'x' is published, but no job"):
        uploads.publish(Upload(file=file, sha256="0" * 64, **names), "", lose_the_table)
    assert [model["name"] for model in quick.get("/models").json()["models"]] == ["x"]


def test_who_sends_nothing_more_is_sent_away(tmp_path: Path) -> None:
    async def receive() -> Any:
        await asyncio.sleep(60)

    async def read() -> None:
        limits = UploadLimits(most_mb=1, block_bytes=1024, idle_s=0.05)
        headers = Headers({"content-type": "multipart/form-data; boundary=b"})
        with ThreadPoolExecutor(1) as threads:
            await read_upload(receive, headers, tmp_path / "a.zip", limits, threads)

    with pytest.raises(ClientGone, match="Nothing more"):
        asyncio.run(read())


def test_a_place_outside_is_refused(quick: Web, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (quick.models_dir / "custom_uploaded_models").symlink_to(outside)
    answer = upload(quick, zipped(IR))
    assert (answer.status_code, list(outside.iterdir())) == (400, [])


def test_of_many_uploads_of_one_name_one_wins(service: Web) -> None:
    bodies = [zipped({**IR, "model.bin": b"%d" % number}) for number in range(3)]
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda body: upload(service, body), bodies))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    winner = next(number for number, answer in enumerate(answers) if answer.status_code == 200)
    assert (service.models_dir / PLACE / "model.bin").read_bytes() == b"%d" % winner
    assert check_published(service.models_dir / PLACE, rehash=True) == []
    assert len(service.get("/jobs").json()["jobs"]) == 1


def test_only_so_many_come_in_at_once(quick: Web) -> None:
    """Four have come in and wait for the lock of one place; the fifth is sent away."""
    volume = Volume(quick.models_dir)
    volume.prepare()
    with ThreadPoolExecutor(4) as threads:
        with locked(lock_of(volume, volume.root / PLACE)):
            waiting = [threads.submit(upload, quick, zipped(IR)) for _ in range(4)]
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and len(unfinished(quick)) < 8:
                time.sleep(0.01)
            fifth = upload(quick, zipped(IR), model_name="fifth")
            assert (fifth.status_code, fifth.headers["retry-after"]) == (503, "5")
            assert quick.get("/models").status_code == 200
        assert sorted(one.result().status_code for one in waiting) == [200, 409, 409, 409]
    assert upload(quick, zipped(IR), model_name="sixth").status_code == 200


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    models_dir = tmp_path_factory.mktemp("models")
    with process(models_dir) as running:
        yield running, models_dir


def a_large_archive(path: Path, size: int) -> None:
    block = os.urandom(MIB)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.xml", b"<net/>")
        with archive.open("model.bin", "w", force_zip64=True) as weights:
            for _ in range(size // MIB):
                weights.write(block)


def web_process(url: str) -> psutil.Process:
    port = int(url.rpartition(":")[2])
    (found,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in child.net_connections("tcp"))
    ]
    return found


def test_a_large_upload_takes_little_memory(address: tuple[str, Path], tmp_path: Path) -> None:
    url, models_dir = address
    archive = tmp_path / "large.zip"
    a_large_archive(archive, 300 * MIB)
    server = web_process(url)
    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        small = client.post("/models/upload", files={"file": ("a.zip", zipped(IR))}, data={"model_name": "small"})
        assert small.status_code == 200
        before = server.memory_info().rss
        peak = [before]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                peak.append(server.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            with archive.open("rb") as content:
                answer = client.post(
                    "/models/upload", files={"file": ("large.zip", content)}, data={"model_name": "large"}
                )
        finally:
            done.set()
            watching.join()
        assert answer.status_code == 200
        grown = max(peak) - before
        assert grown < 32 * MIB, f"{grown / MIB:.1f} MiB"
        print(f"grown by {grown / MIB:.1f} MiB")
        path = Path(answer.json()["model_path"])
        assert (path / "model.bin").stat().st_size == 300 * MIB
        assert client.get("/models?name=large").json()["total"] == 1
        assert list((models_dir / ".modelferry/work").iterdir()) == []


def test_who_leaves_in_the_middle_leaves_nothing(address: tuple[str, Path]) -> None:
    url, models_dir = address
    work = models_dir / ".modelferry/work"
    seen = threading.Event()

    def half() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        for _ in range(4):
            yield b"x" * MIB
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not list(work.iterdir()):
            time.sleep(0.01)
        assert list(work.iterdir())
        seen.set()
        raise ConnectionAbortedError

    with httpx.Client(base_url=url, trust_env=False) as client, pytest.raises(ConnectionAbortedError):
        client.post("/models/upload", content=half(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert seen.is_set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and list(work.iterdir()):
        time.sleep(0.01)
    assert list(work.iterdir()) == []
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/health").status_code == 200
        again = client.post("/models/upload", files={"file": ("a.zip", zipped(IR))}, data={"model_name": "later"})
        assert again.status_code == 200


def test_who_leaves_before_the_model_is_shown_leaves_nothing(address: tuple[str, Path]) -> None:
    url, models_dir = address
    volume = Volume(models_dir)
    place = volume.root / "custom_uploaded_models/geti/openvino/gone/FP16"
    with httpx.Client(base_url=url, trust_env=False, timeout=1.0) as client:
        with locked(lock_of(volume, place)), pytest.raises(httpx.ReadTimeout):
            client.post("/models/upload", files={"file": ("a.zip", zipped(IR))}, data={"model_name": "gone"})
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and list(volume.work.iterdir()):
            time.sleep(0.01)
        assert list(volume.work.iterdir()) == []
        assert not place.exists()
        assert client.get("/models?name=gone").json()["total"] == 0
        assert client.get("/models/jobs?model_name=gone").status_code == 404


def test_an_upload_of_any_size_is_cut_off_at_the_limit(address: tuple[str, Path]) -> None:
    url, models_dir = address

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
        for _ in range(501):
            yield b"\0" * MIB

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        answer = client.post("/models/upload", content=endless(), headers=headers)
        assert answer.status_code == 413
    assert list((models_dir / ".modelferry/work").iterdir()) == []
