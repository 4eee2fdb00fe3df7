"""What the core relies on when it lets the OpenVINO converter work, and what the converter relies on in its tools."""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from common.artefacts.layout import Volume
from common.catalog.openvino import OPENVINO, TOOLS, OpenVINOOptions
from common.plugins import Access
from common.spec import Target
from common.vocabulary import Format, ModelType, Phase, Pool, Precision
from tests.conversions import Conversion, Wanted, convert, in_child, run
from tests.fakes import tiny_models
from worker.forkserver import ForkServer
from worker.machine import threads_per_slot
from worker.service import _environment

_GRAPH_BYTES = 300_000
"""More than the graph of a tiny language model, less than its weights."""


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_llama, tmp_path_factory.mktemp("models") / "llama")))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_bert, tmp_path_factory.mktemp("models") / "bert")))


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(in_child(tiny_models.tiny_reranker, tmp_path_factory.mktemp("models") / "reranker")))


def llm(model: Path, workspace: Path, **more) -> Wanted:
    return Wanted(model=model, workspace=workspace, model_type=ModelType.LLM, **more)


def embeddings(model: Path, workspace: Path, **more) -> Wanted:
    return Wanted(model=model, workspace=workspace, model_type=ModelType.EMBEDDINGS, **more)


def edited(model: Path, to: Path, **changes: object) -> Path:
    """A copy of a repository with another config.json."""
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return to


# The process that conversions are forked from


def test_the_fork_server_only_imports_and_stays_on_one_thread():
    threads, home, reports = in_child(_look_at_the_server)
    assert threads == 1
    assert home == []
    assert not reports


def test_a_conversion_imports_next_to_nothing_more(bert, tmp_path):
    imported = in_child(_imports, embeddings(bert, tmp_path))
    assert not [name for name in imported if name.split(".")[0] in {"nncf", "openvino", "optimum", "torch"}]
    assert len(imported) < 20


def _look_at_the_server() -> tuple[int, list[str], bool]:
    threads = list(Path(f"/proc/{os.getppid()}/task").iterdir())
    at_home = [path.name for path in Path.home().iterdir()]
    return len(threads), at_home, sys.modules["openvino_telemetry"] is not None


def _imports(wanted: Wanted) -> list[str]:
    before = set(sys.modules)
    assert convert(wanted).error is None
    return sorted(set(sys.modules) - before)


# What a conversion leaves


def test_a_conversion_reports_its_phases_and_cleans_up(bert, tmp_path):
    (tmp_path / "output" / "old").mkdir(parents=True)
    (tmp_path / "output" / "old" / "openvino_model.xml").write_text("of an earlier attempt")

    ended = in_child(convert, embeddings(bert, tmp_path))

    assert ended.error is None, ended.text
    assert ended.phases == (Phase.CONVERTING, Phase.CHECKING)
    assert "old/openvino_model.xml" not in ended.files
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_equal_conversions_give_equal_bytes_wherever_they_run(llama, tmp_path):
    elsewhere = shutil.copytree(llama, tmp_path / "elsewhere" / "source")
    first = in_child(_digests, llm(llama, tmp_path / "one", precision=Precision.INT4))
    second = in_child(_digests, llm(elsewhere, tmp_path / "two", precision=Precision.INT4))
    assert first == second
    assert not [name for name, (_, leaks) in first.items() if leaks]


def _digests(wanted: Wanted) -> dict[str, tuple[str, bool]]:
    ended = convert(wanted)
    assert ended.error is None, ended.text
    output = wanted.workspace / "output"
    contents = {name: (output / name).read_bytes() for name in ended.files}
    here = str(wanted.model).encode()
    return {name: (hashlib.sha256(data).hexdigest(), here in data) for name, data in contents.items()}


def test_a_conversion_needs_no_network_and_no_other_folder(llama, tmp_path):
    ended, connections, left_behind = in_child(_watched, llm(llama, tmp_path / "work"), tmp_path / "empty")
    assert ended.error is None, ended.text
    assert connections == []
    assert left_behind == []


def _watched(wanted: Wanted, empty: Path) -> tuple[Conversion, list[str], list[str]]:
    connections: list[str] = []

    def listen(event: str, args: tuple[object, ...]) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"}:
            connections.append(f"{event} {args}")

    empty.mkdir()
    os.chdir(empty)
    os.environ.update(HOME=str(empty), TMPDIR=str(empty), HF_HUB_OFFLINE="0")
    sys.addaudithook(listen)
    with socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert len(connections) == 1
    connections.clear()
    return convert(wanted), connections, [str(path) for path in empty.rglob("*")]


def test_a_repository_with_pooling_keeps_what_it_says(bert, tmp_path):
    source = shutil.copytree(bert, tmp_path / "source")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (source / "LICENSE.txt").write_text("do as you like")
    (source / "pytorch_training.log").write_text("noise")

    ended = in_child(convert, embeddings(source, tmp_path / "work"))

    assert {"1_Pooling/config.json", "LICENSE.txt", "README.md"} <= set(ended.files)
    assert not [name for name in ended.files if name.endswith((".safetensors", ".log"))]
    output = tmp_path / "work" / "output"
    in_child(_serve, output, ModelType.EMBEDDINGS, "CPU", {})
    assert "pooling: MEAN" in (output / "graph.pbtxt").read_text()
    in_child(_serve, output, ModelType.EMBEDDINGS, "CPU", {"pooling": "LAST", "cache_size": None})
    assert "pooling: LAST" in (output / "graph.pbtxt").read_text()


def test_a_published_model_is_served_and_registered(tmp_path):
    model = tmp_path / "Org" / "Model"
    model.mkdir(parents=True)
    for _ in range(2):
        in_child(_serve, model, ModelType.LLM, "GPU", {"cache_size": 4})
    assert "cache_size: 4," in (model / "graph.pbtxt").read_text()
    listed = json.loads((tmp_path / "config_all.json").read_text())
    assert listed == {"model_config_list": [{"config": {"name": "Org/Model", "base_path": "Org/Model"}}]}


def _serve(folder: Path, model_type: ModelType, device: str, serving: dict[str, object]) -> None:
    converter = OPENVINO.load(Access())
    target = Target(format=Format.OPENVINO, model_type=model_type, precision=Precision.INT8, device=device)
    converter.serve(folder, "Org/Model", target, serving)
    converter.register(folder.parent.parent, "Org/Model")


def test_a_rerankers_tokenizer_takes_long_documents(reranker, tmp_path):
    wanted = Wanted(model=reranker, workspace=tmp_path, model_type=ModelType.RERANK, config={"max_doc_length": 4000})
    assert in_child(convert, wanted).error is None
    settings = json.loads((tmp_path / "output" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 4000


@pytest.mark.parametrize(
    ("config", "device"),
    [
        ({}, "NPU"),
        ({"extra_quantization_params": "--ratio 0.5 --group-size 64 --awq --dataset auto --num-samples 4"}, "CPU"),
    ],
)
def test_the_recipes_of_four_bits_work(llama, tmp_path, config, device):
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.INT4, device=device, config=config))
    assert (ended.error, ended.text) == (None, "")


def test_the_versions_that_decide_the_bytes_are_known():
    versions = in_child(_versions)
    assert versions.keys() == set(TOOLS)
    assert all(version[0].isdigit() for version in versions.values())


def _versions() -> dict[str, str]:
    return OPENVINO.load(Access()).versions(OpenVINOOptions())


# What goes wrong, each in its own words


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model_type": "frobnicate"}, "UnsupportedModel", "does not know models of type 'frobnicate'"),
        ({"model_type": None}, "UnsupportedModel", "names no model_type"),
        ({"model_type": "modernbert", "architectures": None}, "UnsupportedModel", "cannot convert models of type"),
        (
            {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]},
            "UnsupportedModel",
            "takes transformers of at least .* and at most 5.0",
        ),
        ({"architectures": ["LlamaModel"]}, "UnsupportedModel", "does not generate text"),
        ({"num_hidden_layers": 3}, "UnsupportedModel", "missing or have another shape, such as model.layers.2"),
        ({"intermediate_size": 128}, "UnsupportedModel", "missing or have another shape"),
        (
            {"model_type": "frobnicate", "auto_map": {"AutoConfig": "own.Config"}},
            "RemoteCodeRefused",
            "own Python code",
        ),
        (
            {"architectures": ["FrobLlamaForCausalLM"], "auto_map": {"AutoModelForCausalLM": "own.Model"}},
            "RemoteCodeRefused",
            "own Python code",
        ),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused(llama, tmp_path, changes, error, text):
    model = edited(llama, tmp_path / "source", **changes)
    ended = in_child(convert, llm(model, tmp_path / "work"))
    assert ended.error == error
    assert re.search(text, ended.text)
    assert ended.hint


@pytest.mark.parametrize(
    ("source", "model_type", "text"),
    [
        ("bert", ModelType.LLM, "does not generate text"),
        ("bert", ModelType.RERANK, "does not score texts"),
        ("reranker", ModelType.EMBEDDINGS, "use type 'rerank'"),
        ("llama", ModelType.VLM, "use type 'llm'"),
    ],
)
def test_a_model_of_another_type_is_refused(request, tmp_path, source, model_type, text):
    model = request.getfixturevalue(source)
    ended = in_child(convert, Wanted(model=model, workspace=tmp_path, model_type=model_type))
    assert (ended.error, ended.files) == ("UnsupportedModel", ())
    assert text in ended.text


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_repository_is_refused(bert, tmp_path, missing):
    model = shutil.copytree(bert, tmp_path / "source")
    (model / missing).unlink()
    assert in_child(convert, embeddings(model, tmp_path / "work")).error == "UnsupportedModel"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_repositorys_own_code_runs_only_where_it_is_trusted(llama, tmp_path, trusted):
    """transformers knows this model, so that the code is not needed; it is there all the same."""
    model = edited(llama, tmp_path / "source", auto_map={"AutoModelForCausalLM": "own.Own"})
    (model / "own.py").write_text(
        "import pathlib\nfrom transformers import LlamaForCausalLM\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n\nclass Own(LlamaForCausalLM):\n    pass\n"
    )
    settings = {"MODELFERRY_TRUST_REMOTE_CODE": "*"} if trusted else {"MODELFERRY_TRUST_REMOTE_CODE": "org/other"}
    ended = in_child(convert, llm(model, tmp_path / "work", settings=settings))
    assert ended.error is None, ended.text
    assert (tmp_path / "ran").exists() is trusted


def test_a_tokenizers_own_code_is_refused(llama, tmp_path):
    model = shutil.copytree(llama, tmp_path / "source")
    settings = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert in_child(convert, llm(model, tmp_path / "work")).error == "RemoteCodeRefused"


def test_options_that_do_not_fit_the_model_are_named(llama, tmp_path):
    config = {"group_size": 96, "group_size_fallback": "error"}
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.INT4, config=config))
    assert ended.error == "InvalidParameters"
    assert "96" in ended.text


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_no_tokenizer_means_no_result(request, tmp_path, kind):
    model = shutil.copytree(request.getfixturevalue(kind), tmp_path / "source")
    (model / "tokenizer.json").unlink()
    make = llm if kind == "llama" else embeddings
    assert in_child(convert, make(model, tmp_path / "work")).error == "OutputIncomplete"


def test_numbers_that_are_not_finite_are_found(bert, tmp_path):
    model = shutil.copytree(bert, tmp_path / "source")
    in_child(_spoil, model / "model.safetensors")
    ended = in_child(convert, embeddings(model, tmp_path / "work", precision=Precision.FP32))
    assert ended.error == "VerificationFailed"
    assert "not finite" in ended.text


def _spoil(weights: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    name = next(key for key in tensors if key.endswith("encoder.layer.0.output.dense.weight"))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.mark.parametrize("spare_mb", [0, 60])
def test_want_of_memory_is_told_apart(llama, tmp_path, spare_mb):
    ended = in_child(_convert_in, llm(llama, tmp_path), spare_mb)
    assert ended.error == "MemoryLimitExceeded", ended.text
    assert "MODELFERRY_CONVERT_MEMORY_MB" in ended.hint


def _convert_in(wanted: Wanted, spare_mb: int) -> Conversion:
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    limit = now * 1024 + spare_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return convert(wanted)


def test_one_core_is_enough(llama, tmp_path):
    ended = in_child(_convert_on_one_core, llm(llama, tmp_path, precision=Precision.FP16))
    assert ended.error is None, ended.text


def _convert_on_one_core(wanted: Wanted) -> Conversion:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return convert(wanted)


def test_a_conversion_in_a_pool_of_two_slots_takes_half_of_the_cores(llama, tmp_path):
    expected = threads_per_slot(2)
    environment = _environment(Pool.CONVERT, 2, Volume(tmp_path / "volume"))
    log = tmp_path / "child.log"
    with (
        ForkServer(OPENVINO.preload, environment, logging.getLogger("test.threads")) as server,
        server.spawn(
            "tests.threads:observe", str(llama).encode(), log=log, environment={"TMPDIR": str(tmp_path)}
        ) as child,
    ):
        told = child.channel.receive(msgspec.json.Decoder(), timeout_s=60)
    assert told == {"error": None, "torch": expected, "openvino": [expected]}, log.read_text()


def test_a_cancelled_conversion_ends_as_cancelled(bert, tmp_path):
    ended = in_child(convert, embeddings(bert, tmp_path, cancelled_in=Phase.CHECKING))
    assert ended.error == "JobCancelled"
    assert ended.phases == (Phase.CONVERTING, Phase.CHECKING)


# Tools that misbehave: the converter with another tool in place of optimum's


def test_a_tool_that_writes_nothing_is_found(bert, tmp_path):
    ended = in_child(_with_tool, embeddings(bert, tmp_path), _write_nothing)
    assert ended.error == "OutputIncomplete"
    assert "config.json" in ended.text


def test_a_tool_that_writes_an_empty_model_is_found(bert, tmp_path):
    ended = in_child(_with_tool, embeddings(bert, tmp_path), _write_empty_weights)
    assert (ended.error, ended.text) == ("OutputIncomplete", "The conversion left an empty openvino_model.bin")


def test_a_tool_that_writes_half_a_model_is_found(bert, tmp_path):
    assert in_child(_with_tool, embeddings(bert, tmp_path), _write_half).error == "VerificationFailed"


def test_a_tool_that_writes_another_precision_is_found(bert, tmp_path):
    ended = in_child(_with_tool, embeddings(bert, tmp_path), _write_fp16)
    assert ended.error == "VerificationFailed"
    assert "was to have int8_asym weights, but has uncompressed" in ended.text


def test_a_tool_that_talks_much_is_quoted_at_the_end(bert, tmp_path):
    ended = in_child(_with_tool, embeddings(bert, tmp_path), _talk_and_fail)
    assert ended.error == "ConversionFailed"
    lines = ended.text.splitlines()
    assert lines[0] == "RuntimeError: the last straw"
    assert "loading 49999: done" in lines
    assert len(lines) > 10
    assert len(ended.text) < 8000


@pytest.mark.parametrize(
    ("tool", "error"),
    [
        ("_no_memory", "OutOfMemory"),
        ("_no_native_memory", "OutOfMemory"),
        ("_no_torch_memory", "OutOfMemory"),
        ("_no_memory_underneath", "OutOfMemory"),
        ("_no_memory_map", "OutOfMemory"),
        ("_no_space", "DiskFull"),
        ("_no_library", "UnsupportedModel"),
        ("_no_idea", "ConversionFailed"),
    ],
)
def test_each_fault_has_its_name(bert, tmp_path, tool, error):
    ended = in_child(_with_tool, embeddings(bert, tmp_path), globals()[tool])
    assert ended.error == error


def test_a_disk_that_fills_up_while_weights_are_written_beside_the_work_is_named(llama, tmp_path):
    ended = in_child(_in_little_space, llm(llama, tmp_path, config={"precision": "int8"}))
    assert ended.error == "DiskFull"


def _in_little_space(wanted: Wanted) -> Conversion:
    """Room for every file but the weights."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_GRAPH_BYTES, resource.RLIM_INFINITY))
    try:
        return convert(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _with_tool(wanted: Wanted, tool: Callable[..., None]) -> Conversion:
    from worker.converters.openvino.converter import Made, OpenVINOConverter
    from worker.converters.openvino.saving import Saver

    class Converter(OpenVINOConverter):
        def make(self, site, orders, attempt, _saver):
            order = orders[0]

            def proper(**changes):
                changed = msgspec.structs.replace(order.target, **changes)
                changed_order = dataclasses.replace(order, target=changed)
                # Nothing is loaded early of what is changed behind the engine's back: the mapping would break.
                with Saver(lambda *_: None) as quiet:
                    return OpenVINOConverter.make(self, site, [changed_order], attempt, quiet)

            tool(order.folder, proper)
            return [Made(order, "tool")]

    return run(Converter(Access()), wanted)


def _write_nothing(_output, _proper):
    pass


def _write_empty_weights(output, proper):
    proper()
    (output / "openvino_model.bin").write_bytes(b"")


def _write_half(output, proper):
    proper()
    weights = output / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _write_fp16(_output, proper):
    proper(precision=Precision.FP16)


def _talk_and_fail(_output, _proper):
    for number in range(50_000):
        sys.stderr.write(f"\x1b[31mloading {number}: 1%\rloading {number}: done\x1b[0m\n" + "." * 60 + "\r\n")
    raise RuntimeError("the last straw")


def _no_memory(_output, _proper):
    raise MemoryError


def _no_native_memory(_output, _proper):
    raise RuntimeError("Exception from src/core/model.cpp:12: std::bad_alloc")


def _no_torch_memory(_output, _proper):
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


def _no_memory_underneath(_output, _proper):
    raise ValueError("could not load") from MemoryError()


def _no_memory_map(_output, _proper):
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def _no_space(_output, _proper):
    raise OSError(errno.ENOSPC, "No space left on device")


def _no_library(_output, _proper):
    import a_library_for_strange_models  # noqa: F401


def _no_idea(_output, _proper):
    raise KeyError("what now")
