"""Clients of the service that ours replaces, as programs of their own that ask as these do."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.acceptance.cases import case
from tests.acceptance.wire import FORMS, Wire, files_below, served
from tests.conversions import in_child
from tests.e2e.service import Service
from tests.fakes.huggingface import FakeHuggingFace
from tests.fakes.tiny_models import tiny_llava

CLIENTS = Path(__file__).parent / "clients"
CONTAINER = "/opt/models"
POLL_S = "0.2"
with_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl, by which the scripts ask, is not installed")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: SimpleNamespace) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("clients")
    with FakeHuggingFace() as hub:
        hub.add_directory("Tiny-Org/Llama-Tiny", tiny.llama)
        hub.add_directory("tiny/bert", tiny.bert)
        hub.add_directory("tiny/reranker", tiny.reranker)
        hub.add_directory("tiny/llava", in_child(tiny_llava, folder / "llava"))
        with Service(folder, HF_ENDPOINT=hub.endpoint) as service:
            # As in a container: the volume has one name there, and another for clients on the host.
            service.start("api-mounted", MODELS_DIR=CONTAINER, MODEL_PATH=str(service.models_dir))
            service.await_health("api-mounted")
            yield service


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One of the clients, to its end."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "POLL_S": POLL_S, "NO_PROXY": "*", **variables}
    interpreter = sys.executable if name.endswith(".py") else "/bin/sh"
    command = [interpreter, str(CLIENTS / name), *arguments]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=100, check=False)


def port(service: Service, name: str = "api") -> str:
    return service.url(name).rpartition(":")[2]


@case(75)
@with_curl
def test_the_script_for_one_model_ends_as_its_job_does(service: Service) -> None:
    options = ("--internal", "--hub", "openvino", "--type", "llm", "--is-ovms", "--precision", "int4")
    environment = {"MODEL_DOWNLOAD_PORT": port(service)}
    place = ("--download-path", "scripted models")
    more = ("--device", "HETERO:GPU,CPU", "--cache-size", "3", "--config-json", '{"max_num_seqs": 8}')
    done = run("get_model.sh", *options, "--model-name", "Tiny-Org/Llama-Tiny", *place, *more, **environment)
    assert done.returncode == 0, done.stderr
    folder = service.models_dir / "scripted models/openvino_models/hetero_gpu_cpu/int4"
    assert done.stdout.split(maxsplit=1) == ["convert", f"{folder}\n"]
    graph = (folder / "Tiny-Org/Llama-Tiny/graph.pbtxt").read_text()
    assert re.search(r"cache_size:\s*3\b", graph)
    assert re.search(r"max_num_seqs:\s*8\b", graph)
    failed = run("get_model.sh", *options, "--model-name", "tiny/nowhere", **environment)
    assert failed.returncode == 1
    assert failed.stderr.startswith("failed: ")


@case(75)
@with_curl
def test_the_script_downloads_what_needs_no_conversion(service: Service) -> None:
    done = run(
        "get_model.sh", "--internal", "--model-name", "tiny/bert", "--hub", "huggingface", "--type", "vision",
        "--config-json", "no json", MODEL_DOWNLOAD_PORT=port(service),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"download {service.models_dir}\n"), done.stderr
    assert (service.models_dir / "huggingface/tiny_bert/config.json").is_file()


@case(76)
@with_curl
def test_the_set_up_of_video_search_gets_its_model_and_edits_the_graph(service: Service) -> None:
    config = {"precision": "int8", "device": "CPU", "cache_size": 2, "pipeline_type": "VLM_CB"}
    model = {"name": "tiny/llava", "hub": "openvino", "type": "vlm", "is_ovms": True, "config": config}
    body = json.dumps({"models": [model], "parallel_downloads": False})
    folder = service.models_dir / "ovms/openvino_models/cpu/int8/tiny/llava"
    done = run("video_search.sh", body, "ovms", str(folder), "16", MODEL_DOWNLOAD_URL=service.url())
    assert done.returncode == 0, done.stderr
    graph = (folder / "graph.pbtxt").read_text()
    assert re.search(r"cache_size:\s*16\b", graph)
    assert re.search(r"pipeline_type:\s*VLM_CB\b", graph)
    assert folder.stat().st_mode & stat.S_IWGRP
    # Asked again, it is all there: whatever was edited, the client finds a line to edit.
    assert run("video_search.sh", body, "ovms", str(folder), "4", MODEL_DOWNLOAD_URL=service.url()).returncode == 0


@case(76)
@with_curl
def test_the_set_up_of_video_search_hears_of_a_failure(service: Service) -> None:
    body = json.dumps({"models": [{"name": "tiny/nowhere", "hub": "huggingface"}]})
    failed = run("video_search.sh", body, "ovms", "/nowhere", "1", MODEL_DOWNLOAD_URL=service.url())
    assert (failed.returncode, failed.stderr.startswith("failed: ")) == (1, True)
    body = json.dumps({"models": [{"name": "a", "hub": "nowhere"}]})
    refused = run("video_search.sh", body, "ovms", "/nowhere", "1", MODEL_DOWNLOAD_URL=service.url())
    assert refused.returncode == 1
    assert "answered with 422" in refused.stderr


@case(76)
@with_curl
def test_the_set_up_of_chat_question_copies_its_models(service: Service, tmp_path: Path) -> None:
    environment = {"MODEL_DOWNLOAD_HOST": "127.0.0.1", "MODEL_DOWNLOAD_PORT": port(service, "api-mounted")}
    target = tmp_path / "copied"
    for name, kind in (("tiny/bert", "embeddings"), ("tiny/reranker", "rerank"), ("Tiny-Org/Llama-Tiny", "llm")):
        done = run("chat_question.sh", name, kind, str(target), **environment)
        assert done.returncode == 0, done.stderr
        assert {f"{name}/graph.pbtxt", f"{name}/openvino_model.xml"} <= files_below(target)
    assert served(target).keys() == {"tiny/bert", "tiny/reranker", "Tiny-Org/Llama-Tiny"}
    failed = run("chat_question.sh", "tiny/nowhere", "llm", str(target), **environment)
    assert failed.returncode == 1


@case(77)
@pytest.mark.parametrize("form", FORMS)
def test_a_generated_client_understands_all_that_it_reads(service: Service, form: str) -> None:
    place = service.models_dir / f"from/{form}"
    url = f"{service.url()}{FORMS[form]}"
    done = run("generated_sdk.py", url, "tiny/reranker", "openvino", "reranker", str(place))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    job = Wire(service, form).job(seen["submitted"])
    assert job["id"] == seen["submitted"] == seen["job"]["id"]
    assert (seen["job"]["status"], seen["job"]["operation"]) == ("completed", "convert")
    assert seen["job"]["created_at"] == str(job["creation_time"]).replace("T", " ")
    assert Path(seen["job"]["output_dir"]).is_dir()
    assert seen["health"] == "ok"
    for listed in ("listed", "of_model", "results"):
        assert seen["submitted"] in seen[listed]
    assert {"huggingface", "openvino"} <= set(seen["plugins"])
