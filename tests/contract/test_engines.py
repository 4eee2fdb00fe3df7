"""The engines of the OpenVINO converter, held against the real optimum-cli and against each other."""

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.vocabulary import ModelType, Precision
from tests.conversions import Conversion, Wanted, convert, in_child
from tests.fakes import tiny_models
from tests.fakes.gguf import Q8_0, tiny_gguf

TEXTS = (
    "A ferry carries people and goods over the water.",
    "The quick brown fox jumps over the lazy dog.",
    "Models move from the hub to the shore.",
)
OWN_TEXTS = {"dataset": "path:texts.txt", "num_samples": 2}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def llama(root: Path) -> Path:
    return Path(str(in_child(tiny_models.tiny_llama, root / "llama")))


@pytest.fixture(scope="session")
def models_dir(root: Path) -> Path:
    folder = root / "models"
    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    (folder / "empty").mkdir()
    (root / "secret.txt").write_text("not for the model")
    (folder / "out").symlink_to(root)
    return folder


# The very bytes of optimum-cli


@dataclass(frozen=True)
class Like:
    """A conversion by optimum-cli, and the order that is to give the same."""

    config: Mapping[str, object]
    flags: tuple[str, ...]


FOUR_BITS = ("--weight-format", "int4", "--group-size-fallback", "adjust", "--backup-precision", "int8_asym")
LIKE = {
    "fp16": Like({"precision": "fp16"}, ("--weight-format", "fp16")),
    "int8": Like({"precision": "int8"}, ("--weight-format", "int8")),
    "int4": Like({"precision": "int4", "group_size": 64}, (*FOUR_BITS, "--group-size", "64")),
    "int4-sym": Like(
        {"precision": "int4", "sym": True, "group_size": 96, "ratio": 0.6},
        (*FOUR_BITS, "--sym", "--group-size", "96", "--ratio", "0.6"),
    ),
}
MAKERS = {
    "llama": (tiny_models.tiny_llama, "text-generation-with-past", ("fp16", "int8", "int4", "int4-sym")),
    "bert": (tiny_models.tiny_bert, "feature-extraction", ("fp16", "int8", "int4")),
    "reranker": (tiny_models.tiny_reranker, "text-classification", ("int8", "int4-sym")),
}
CELLS = [(name, like) for name, (_, _, likes) in MAKERS.items() for like in likes]


@dataclass(frozen=True)
class Compared:
    """What optimum-cli and the fast engine have made of one model, by the names of `LIKE`."""

    theirs: Mapping[str, Path]
    ours: Mapping[str, Path]
    ended: Conversion


@pytest.fixture(scope="session")
def compared(root: Path) -> Mapping[str, Compared]:
    """All runs of optimum-cli in one process: most of the time of each would go into its imports."""
    sources = {name: Path(str(in_child(make, root / f"{name}-source"))) for name, (make, _, _) in MAKERS.items()}
    theirs = {cell: root.joinpath("theirs", *cell) for cell in CELLS}
    _run_optimum_cli(
        root / "home",
        [
            ["-m", str(sources[name]), "--task", MAKERS[name][1], *LIKE[like].flags, str(output)]
            for (name, like), output in theirs.items()
        ],
    )
    found = {}
    for name, source in sources.items():
        first, *others = MAKERS[name][2]
        wanted = Wanted(
            model=source,
            workspace=root / "ours" / name,
            model_type=None,
            config=LIKE[first].config,
            siblings=tuple(LIKE[like].config for like in others),
        )
        ended = in_child(convert, wanted)
        assert (ended.error, ended.text) == (None, "")
        ours = {first: wanted.output} | {like: wanted.sibling(number) for number, like in enumerate(others)}
        found[name] = Compared({like: theirs[name, like] for like in ours}, ours, ended)
    return found


def _run_optimum_cli(home: Path, runs: list[list[str]]) -> None:
    (home / "intel").mkdir(parents=True)
    (home / "intel" / "openvino_telemetry").write_text("0")
    program = "import json, sys; from optimum.commands.optimum_cli import main\nfor run in json.loads(sys.argv[1]):\n"
    program += "    sys.argv = ['optimum-cli', 'export', 'openvino', *run]; main()\n"
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "NNCF_CI": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(runs)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize(("name", "like"), CELLS)
def test_the_fast_engine_gives_the_very_weights_of_optimum_cli(compared, name, like):
    ours, theirs = compared[name].ours[like], compared[name].theirs[like]
    assert (ours / "openvino_model.bin").read_bytes() == (theirs / "openvino_model.bin").read_bytes()
    assert _plain_graph(ours / "openvino_model.xml") == _plain_graph(theirs / "openvino_model.xml")


@pytest.mark.parametrize("like", list(LIKE))
def test_it_leaves_the_files_of_optimum_cli(compared, like):
    ours, theirs = compared["llama"].ours[like], compared["llama"].theirs[like]
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} | {"README.md"}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "openvino_config.json"):
        if (theirs / name).exists():
            assert json.loads((ours / name).read_text()) == _without_paths(json.loads((theirs / name).read_text()))


@pytest.mark.parametrize("name", list(MAKERS))
def test_all_of_them_come_from_one_trace(compared, name):
    evidence = compared[name].ended.evidence
    assert [one and one.engine for one in evidence] == ["fast"] * len(MAKERS[name][2])
    assert len({(one.seconds["load"], one.seconds["trace"]) for one in evidence}) == 1
    assert all("compress" in one.seconds for one in evidence[1:])
    assert all(one.peak_memory_bytes > 100_000_000 and one.checks and one.profile == "default" for one in evidence)


def _plain_graph(file: Path) -> str:
    """A graph without what nameless nodes, and the model itself, are called."""
    return re.sub(r'"((?:[A-Z][A-Za-z0-9]*)_|Model)\d*', r'"\1', file.read_text())


def _without_paths(value: object) -> object:
    match value:
        case dict():
            return {key: _without_paths(item) for key, item in value.items()}
        case str() if value.startswith("/"):
            return None
        case _:
            return value


# Which engine does the work


def llm(model: Path, workspace: Path, **more) -> Wanted:
    return Wanted(model=model, workspace=workspace, model_type=ModelType.LLM, **more)


def test_what_cannot_come_along_is_left_to_its_own_job(llama, tmp_path):
    siblings = (
        {"precision": "fp32"},
        {"precision": "int4", "group_size": 96, "group_size_fallback": "error"},
        {"precision": "int4", "group_size": 64, "awq": True},
        {"precision": "int8", "sym": True},
    )
    ended = in_child(convert, llm(llama, tmp_path, siblings=siblings))
    assert ended.error is None, ended.text
    assert [one is not None for one in ended.evidence] == [True, False, False, False, True]
    assert sorted(path.name for path in tmp_path.iterdir() if any(path.iterdir())) == ["output", "sibling-3"]


@pytest.mark.parametrize(
    ("kind", "engine", "error"),
    [
        (None, "strict", None),
        ("fast", None, "InvalidParameters"),
        ("strict", "strict", None),
    ],
)
def test_other_versions_are_left_to_the_strict_engine(llama, tmp_path, kind, engine, error):
    config = {} if kind is None else {"engine": kind}
    ended = in_child(_with_other_nncf, llm(llama, tmp_path / "work", config=config), tmp_path / "site")
    assert (ended.error, ended.engine) == (error, engine)


def _with_other_nncf(wanted: Wanted, site: Path) -> Conversion:
    (site / "nncf-9.9.dist-info").mkdir(parents=True)
    (site / "nncf-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: nncf\nVersion: 9.9\n")
    sys.path.insert(0, str(site))
    return convert(wanted)


def test_an_upstream_of_another_shape_is_left_to_the_strict_engine(llama, tmp_path):
    ended = in_child(_with_other_upstream, llm(llama, tmp_path))
    assert (ended.error, ended.engine) == (None, "strict"), ended.text


def _with_other_upstream(wanted: Wanted) -> Conversion:
    from optimum.exporters.openvino import convert as upstream

    save = upstream.save_model

    def differently(*arguments, **named):
        return save(*arguments, **named)

    upstream.save_model = differently
    return convert(wanted)


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (tiny_models.tiny_vit, {}),
        (tiny_models.tiny_llava, {}),
        (tiny_models.tiny_whisper, {}),
        (tiny_models.tiny_speecht5, {"vocoder": "vocoder"}),
    ],
    ids=["vit", "llava", "whisper", "speecht5"],
)
def test_both_engines_make_the_same_of_models_of_several_parts(tmp_path, make, config):
    source = Path(str(in_child(make, tmp_path / "source")))
    fast = Wanted(model=source, workspace=tmp_path / "fast", model_type=None, config=config)
    strict = Wanted(model=source, workspace=tmp_path / "strict", model_type=None, config={**config, "engine": "strict"})
    ended = in_child(convert, fast), in_child(convert, strict)
    assert [one.engine for one in ended] == ["fast", "strict"], [one.text for one in ended]
    assert ended[0].files == ended[1].files
    for name in ended[0].files:
        one, other = (wanted.output / name for wanted in (fast, strict))
        if name.endswith(".xml"):
            assert _plain_graph(one) == _plain_graph(other), name
        else:
            assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("engine", ["fast", "strict"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_weights_of_16_bits_become_what_was_asked_for(root, tmp_path, engine, precision):
    """Upstream would keep them as they are in a model that generates no text."""
    if not (root / "bfloat").exists():
        in_child(_bfloat_bert, root / "bfloat")
    wanted = Wanted(
        model=root / "bfloat",
        workspace=tmp_path,
        model_type=None,
        config={"precision": precision, "engine": engine},
        siblings=({"precision": "int8"},),
    )
    ended = in_child(convert, wanted)
    assert (ended.error, ended.engine) == (None, engine), ended.text
    kind = {"fp16": "float16", "fp32": "float32"}[precision]
    assert json.loads((wanted.output / "config.json").read_text())["dtype"] == kind
    assert f"({kind.replace('loat', '')} " in ended.evidence[0].checks[0]
    assert (ended.evidence[1] is not None) is (engine == "fast" and precision == "fp16")


def _bfloat_bert(path: Path) -> None:
    import torch
    from transformers import AutoModel

    tiny_models.tiny_bert(path)
    AutoModel.from_pretrained(path).to(torch.bfloat16).save_pretrained(path)


def test_a_function_of_nncf_that_does_not_prove_itself_is_not_used_again(llama, tmp_path):
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.FP16))
    assert ended.error is None, ended.text
    told, alone, reused = in_child(_compress_with_bad_functions, tmp_path / "output" / "openvino_model.xml")
    assert told == ["nncf.reuse.unsound"]
    assert reused == alone


def _compress_with_bad_functions(model: Path) -> tuple[list[str], bytes, bytes]:
    """The weights without reuse, and with reuse of functions that go wrong when they are called again."""
    import nncf
    import openvino as ov
    from nncf.openvino.optimized_functions import models

    from worker.converters.openvino.reuse import reused_functions

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.msg)
    logging.getLogger("worker.converters.openvino.reuse").addHandler(handler)
    mode = nncf.CompressWeightsMode.INT8_ASYM
    alone = _weights(nncf.compress_weights(ov.Core().read_model(model), mode=mode))
    infer, called = models._infer_ov_model, []

    def bad(parameters, compiled, inputs):
        outputs = infer(parameters, compiled, inputs)
        if any(compiled is one for one in called):
            outputs[0].data[...] = 0
        called.append(compiled)
        return outputs

    models._infer_ov_model = bad
    with reused_functions():
        return told, alone, _weights(nncf.compress_weights(ov.Core().read_model(model), mode=mode))


@pytest.mark.parametrize("mode", ["INT8_ASYM", "INT8_SYM", "INT4_SYM", "INT4_ASYM"])
def test_blocks_of_weights_are_compressed_beside_each_other(llama, tmp_path, mode):
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.FP16))
    assert ended.error is None, ended.text
    lanes, calls, weights, alone, together = in_child(
        _compress_in_lanes, tmp_path / "output" / "openvino_model.xml", mode
    )
    assert sum(name.startswith("compress") for name in lanes) > 1
    assert calls > 1.5 * weights
    assert together == alone


def _compress_in_lanes(model: Path, mode: str) -> tuple[set[str], int, int, bytes, bytes]:
    """In which threads blocks were compressed, how many, and of how many weights; the weights made whole and so."""
    import nncf
    import openvino as ov
    from nncf.quantization.algorithms.weight_compression import openvino_backend

    from worker.converters.openvino import reuse

    wanted = {"mode": nncf.CompressWeightsMode[mode]} | ({} if mode.startswith("INT8") else {"group_size": 32})
    asked, blocks = [], []
    compress = openvino_backend.compress_weight

    def noted(into):
        def call(*weight):
            into.append(threading.current_thread().name)
            return compress(*weight)

        return call

    openvino_backend.compress_weight = noted(asked)
    alone = _weights(nncf.compress_weights(ov.Core().read_model(model), **wanted))
    openvino_backend.compress_weight, reuse.own_threads = noted(blocks), lambda: 4
    reuse._BLOCK = reuse._LEAST_BLOCK = 10_000
    with reuse.reused_functions():
        # What was proven and compiled for one model does for the next.
        nncf.compress_weights(ov.Core().read_model(model), mode=nncf.CompressWeightsMode.INT8_ASYM)
        blocks.clear()
        together = _weights(nncf.compress_weights(ov.Core().read_model(model), **wanted))
    return set(blocks), len(blocks), len(asked), alone, together


def test_patterns_are_looked_for_once_in_equal_graphs(llama, tmp_path):
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.FP16))
    assert ended.error is None, ended.text
    searches, same = in_child(_compress_equal_graphs, tmp_path / "output" / "openvino_model.xml")
    # One of an 8-bit and one of a 4-bit compression of equal graphs, and one of a graph that differs.
    assert searches == 2
    assert same


def _compress_equal_graphs(model: Path) -> tuple[int, bool]:
    """How often patterns were looked for, and whether the weights are those of compressions without our help."""
    import nncf
    import openvino as ov
    from nncf.quantization.algorithms.weight_compression import algorithm

    from worker.converters.openvino.patterns import patterns_found_once

    modes = [nncf.CompressWeightsMode.INT8_ASYM, nncf.CompressWeightsMode.INT4_SYM]

    def compressed() -> list[bytes]:
        whole = ov.Core().read_model(model)
        results = [_weights(nncf.compress_weights(whole.clone(), mode=mode)) for mode in modes]
        other = ov.Core().read_model(model)
        last = other.get_results()[0].input_value(0)
        other.add_results([ov.opset13.result(ov.opset13.relu(last))])
        return [*results, _weights(nncf.compress_weights(other, mode=modes[0]))]

    plain = compressed()
    find, searches = algorithm.get_node_names_matching_graph_pattern, []

    def counted(*asked):
        searches.append(asked)
        return find(*asked)

    algorithm.get_node_names_matching_graph_pattern = counted
    with patterns_found_once():
        same = compressed() == plain
    return len(searches), same


def test_looking_near_rare_nodes_finds_what_looking_everywhere_finds(llama, tmp_path):
    ended = in_child(convert, llm(llama, tmp_path, precision=Precision.FP16))
    assert ended.error is None, ended.text
    everywhere, near, searched, nodes = in_child(_search, tmp_path / "output" / "openvino_model.xml")
    assert everywhere
    assert near == everywhere
    assert searched < nodes / 4


def _search(model: Path) -> tuple[set[str], set[str], int, int]:
    """What nncf leaves alone in a graph, by its own search and by ours; in how many nodes we look, and of how many."""
    import openvino as ov
    from nncf.common.factory import build_graph
    from nncf.quantization.algorithms.weight_compression import algorithm
    from nncf.quantization.algorithms.weight_compression.openvino_backend import OVWeightCompressionAlgoBackend

    from worker.converters.openvino.patterns import patterns_found_once

    graph, pattern = build_graph(ov.Core().read_model(model)), OVWeightCompressionAlgoBackend.get_ignored_patterns()
    find, sizes = algorithm.get_node_names_matching_graph_pattern, []

    def counted(graph, pattern):
        sizes.append(len(graph._nx_graph))
        return find(graph, pattern)

    algorithm.get_node_names_matching_graph_pattern = counted
    with patterns_found_once():
        near = algorithm.get_node_names_matching_graph_pattern(graph, pattern)
    return find(graph, pattern), near, sizes[0], len(graph.get_all_nodes())


_COMPRESSED = {"u8", "i8", "u4", "i4"}


def _weights(model) -> bytes:
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return b"".join(node.data.tobytes() for node in constants if node.get_element_type().get_type_name() in _COMPRESSED)


# The quality options, and calibration data of the operator's own


@pytest.mark.parametrize(
    ("precision", "config"),
    [
        (
            "int4",
            {"awq": True, "scale_estimation": True, "ratio": 0.6, "sensitivity_metric": "max_activation_variance"},
        ),
        ("int4", {"gptq": True, "quantization_statistics_path": "statistics"}),
        ("int4", {"lora_correction": True}),
        ("int8", {"quant_mode": "int8", "smooth_quant_alpha": 0.5, "dataset": "path:texts.jsonl"}),
        ("int4_f8e4m3", {}),
    ],
)
def test_the_quality_options_work_offline_with_own_texts(llama, models_dir, tmp_path, precision, config):
    wide = {} if precision == "int8" else {"group_size": 64}
    wanted = llm(
        llama,
        tmp_path,
        config={"precision": precision, **wide, **OWN_TEXTS, **config},
        settings={"MODELS_DIR": str(models_dir)},
    )
    ended = in_child(convert, wanted)
    assert (ended.error, ended.text, ended.engine) == (None, "", "strict")
    if config.get("lora_correction"):
        assert "_lora_A" in (wanted.output / "openvino_model.xml").read_text()
    if "quantization_statistics_path" in config:
        assert list((models_dir / "statistics").iterdir())
    left = b"".join((wanted.output / name).read_bytes() for name in ended.files)
    assert not [text for text in TEXTS if text.encode() in left]
    assert str(models_dir).encode() not in left


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "int4", "group_size": 64, "awq": True},
        {"precision": "int4", "group_size": -1, "all_layers": True, "sym": True},
        {"precision": "int4", "group_size": 64, "backup_precision": "none"},
        {"precision": "nf4", "group_size": 64},
    ],
)
def test_recipes_without_data_work(llama, tmp_path, config):
    ended = in_child(convert, llm(llama, tmp_path, config=config))
    assert (ended.error, ended.text) == (None, "")
    quick = config["precision"] == "int4" and "awq" not in config
    assert ended.engine == ("fast" if quick else "strict")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nowhere.txt", "There is no file or folder 'nowhere.txt' below MODELS_DIR"),
        ("out/secret.txt", "is not below MODELS_DIR"),
        ("empty", "holds no texts"),
    ],
)
def test_data_that_cannot_be_used_are_named(llama, models_dir, tmp_path, path, text):
    config = {"quant_mode": "int8", "dataset": f"path:{path}"}
    ended = in_child(convert, llm(llama, tmp_path, config=config, settings={"MODELS_DIR": str(models_dir)}))
    assert ended.error == "InvalidParameters"
    assert text in ended.text


def test_a_vocoder_that_is_not_there_is_named(models_dir, tmp_path):
    source = Path(str(in_child(tiny_models.tiny_speecht5, tmp_path / "source")))
    config = {"vocoder": "org/hifigan"}
    settings = {"MODELS_DIR": str(models_dir)}
    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=None, config=config, settings=settings)
    ended = in_child(convert, wanted)
    assert ended.error == "InvalidParameters"
    assert "org/hifigan" in ended.text
    assert "Download" in ended.hint


@pytest.mark.parametrize(
    ("make", "part", "weight"),
    [
        (tiny_models.tiny_stable_diffusion, "unet/diffusion_pytorch_model.safetensors", "mid_block"),
        (tiny_models.tiny_whisper, "model.safetensors", "encoder.layers.0.fc1"),
        (tiny_models.tiny_vit, "model.safetensors", "classifier"),
        (tiny_models.tiny_yolos, "model.safetensors", "bbox_predictor"),
    ],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, make, part, weight):
    source = Path(str(in_child(make, tmp_path / "source")))
    in_child(_drop_weight, source / part, weight)
    ended = in_child(convert, Wanted(model=source, workspace=tmp_path / "work", model_type=None))
    assert ended.error == "UnsupportedModel"
    assert "missing or have another shape" in ended.text
    assert weight in ended.text


def _drop_weight(file: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    del weights[min(key for key in weights if name in key)]
    save_file(weights, file, metadata={"format": "pt"})


# Detectors


@pytest.mark.parametrize("make", [tiny_models.tiny_yolos, tiny_models.tiny_detr], ids=["yolos", "detr"])
def test_a_detector_finds_what_the_original_finds(tmp_path, make):
    source = Path(str(in_child(make, tmp_path / "source")))
    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=None, precision=Precision.FP32)
    ended, apart = in_child(_convert_and_detect, wanted)
    assert (ended.error, ended.engine) == (None, "objects"), ended.text
    assert "preprocessor_config.json" in ended.files
    assert apart < 1e-3


def _convert_and_detect(wanted: Wanted) -> tuple[Conversion, float]:
    """How far the logits and boxes of two batches are from those of the original, at most."""
    import numpy as np
    import openvino as ov
    import torch
    from transformers import AutoModelForObjectDetection

    ended = convert(wanted)
    if ended.error is not None:
        return ended, 0.0
    original = AutoModelForObjectDetection.from_pretrained(wanted.model).eval()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    converted = ov.Core().compile_model(wanted.output / "openvino_model.xml", "CPU", options)
    apart = 0.0
    for batch in (1, 3):
        pictures = np.random.default_rng(batch).random((batch, 3, 64, 96), np.float32)
        ours = converted({"pixel_values": pictures})
        with torch.no_grad():
            theirs = original(pixel_values=torch.from_numpy(pictures))
        for name in ("logits", "pred_boxes"):
            apart = max(apart, float(np.abs(ours[name] - theirs[name].numpy()).max()))
    return ended, apart


def test_a_detectors_weights_are_compressed(tmp_path):
    source = Path(str(in_child(tiny_models.tiny_yolos, tmp_path / "source")))
    ended = in_child(convert, Wanted(model=source, workspace=tmp_path / "work", model_type=None))
    assert (ended.error, ended.engine) == (None, "objects"), ended.text
    assert "openvino_config.json" in ended.files


# Models that need no torch


def test_a_model_in_gguf_form_is_read_and_writes(tmp_path):
    source = tiny_gguf(tmp_path / "source" / "model.gguf", Q8_0).parent
    wanted = Wanted(model=source, workspace=tmp_path / "work", model_type=None)
    ended = in_child(convert, wanted)
    assert (ended.error, ended.engine) == (None, "gguf"), ended.text
    assert {"config.json", "chat_template.jinja", "openvino_detokenizer.xml"} <= set(ended.files)
    assert not [name for name in ended.files if name.endswith(".gguf")]
    assert in_child(_write_text, wanted.output)


def _write_text(folder: Path) -> str:
    import openvino_genai

    return str(openvino_genai.LLMPipeline(str(folder), "CPU").generate("A ferry", max_new_tokens=3))


@pytest.mark.parametrize(
    ("precision", "text"),
    [("int4", "it can be had in int8, not in int4"), ("fp16", "it can be had in int8, not in fp16")],
)
def test_a_gguf_file_is_not_taken_for_another_precision(tmp_path, precision, text):
    source = tiny_gguf(tmp_path / "source" / "model.gguf", Q8_0).parent
    ended = in_child(convert, Wanted(model=source, workspace=tmp_path / "work", model_type=None, precision=precision))
    assert ended.error == "InvalidParameters"
    assert text in ended.text


def test_a_gguf_file_of_an_unknown_kind_is_refused(tmp_path):
    source = tiny_gguf(tmp_path / "source" / "model.gguf", Q8_0, file_type=25).parent
    ended = in_child(convert, Wanted(model=source, workspace=tmp_path / "work", model_type=None))
    assert ended.error == "InvalidParameters"
    assert "in a way that cannot be read here" in ended.text


@pytest.mark.parametrize("form", ["ir", "gguf"])
def test_a_model_that_needs_no_torch_loads_none(llama, tmp_path, form):
    if form == "ir":
        made = llm(llama, tmp_path / "made")
        assert in_child(convert, made).error is None
        source = made.output
    else:
        source = tiny_gguf(tmp_path / "source" / "model.gguf", Q8_0).parent
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        import worker.converters
        from tests.conversions import Wanted, convert
        ended = convert(Wanted(model=Path(sys.argv[1]), workspace=Path(sys.argv[2]), model_type=None))
        assert ended.error is None, ended.text
        print(ended.engine, *(name for name in ("torch", "transformers", "nncf") if name in sys.modules))
    """)
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "work")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == [{"ir": "adopted", "gguf": "gguf"}[form]]
