"""The options against the tool they stand for: upstream's own parser, its own checks, and what it makes of them.

The second half runs upstream's command up to the point where it would read the model, and lets it quantise a tiny graph
instead. It does so in a process of its own, which is this module, because the tools are large.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optimum.commands.export.openvino import parse_args_openvino
from optimum.utils.constant import ALL_TASKS

from common.catalog.openvino import OPENVINO, OpenVINOOptions
from common.catalog.openvino.flags import FLAGS, SWITCHES
from common.catalog.openvino.options import NAMED_DATA, normalise, to_argv
from common.catalog.openvino.rules import SYNONYMS, TASKS
from common.catalog.schema import properties_of
from common.errors import InvalidSpec
from common.vocabulary import Precision

NOT_OPTIONS = {
    "help": "belongs to a terminal",
    "model": "the job's own name and revision are in its place",
    "output": "the job's own destination is in its place",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    parse_args_openvino(made)
    return made


ACTIONS = {action.dest: action for action in parser()._actions}


# The flags


def test_every_flag_of_the_tool_is_an_option_here():
    assert ACTIONS.keys() - NOT_OPTIONS.keys() == FLAGS.keys()
    assert FLAGS.keys() <= set(OpenVINOOptions.__struct_fields__)


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_a_flag_means_here_what_it_means_there(name):
    action = ACTIONS[name]
    described = properties_of(OpenVINOOptions)[name]
    assert FLAGS[name] in action.option_strings
    assert isinstance(action, argparse._StoreTrueAction) == (name in SWITCHES)
    if action.choices is not None:
        assert set(described["enum"]) == set(action.choices)
        return
    kinds = {int: "integer", float: "number", json.loads: "object", str: "string", None: "string"}
    expected = "boolean" if name in SWITCHES else kinds[action.type]
    if name != "sensitivity_metric":
        assert described["type"] == expected


def test_tasks_are_called_as_the_tool_calls_them():
    tasks = {task for names in TASKS.values() for task in names}
    # Upstream's list lacks the one task that only a pipeline of diffusers has.
    assert {task.removesuffix("-with-past") for task in tasks} - {"fill"} <= set(ALL_TASKS)


# What the parser makes of a recipe

NUMBERS = {
    "ratio": st.sampled_from([0.25, 0.5, 0.8, 1.0]),
    "group_size": st.sampled_from([-1, 32, 64, 128]),
    "num_samples": st.integers(1, 3),
    "smooth_quant_alpha": st.sampled_from([-1, 0.15, 0.5, 1]),
}
WORDS = {
    name: st.sampled_from(properties_of(OpenVINOOptions)[name]["enum"])
    for name in ("group_size_fallback", "backup_precision", "sensitivity_metric")
}
FORMATS = st.sampled_from(
    [{name: word} for name in ("weight_format", "quant_mode") for word in properties_of(OpenVINOOptions)[name]["enum"]]
)
QUANTISING = {
    name: st.just(True) for name in ("sym", "all_layers", "awq", "scale_estimation", "gptq", "lora_correction")
}
DATASET = {"dataset": "path:texts/faq.txt"}
OTHERS = {
    "task": st.sampled_from([task for names in TASKS.values() for task in names]),
    "library": st.sampled_from(properties_of(OpenVINOOptions)["library"]["enum"]),
    "trust_remote_code": st.booleans(),
    "pad_token_id": st.integers(0, 2**31),
    "variant": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True),
    "disable_stateful": st.booleans(),
    "disable_convert_tokenizer": st.booleans(),
    "quantization_statistics_path": st.just("statistics"),
    "model_kwargs": st.fixed_dictionaries({}, optional={"output_attentions": st.booleans()}),
    "vocoder": st.sampled_from(["org/voice", "voices/own"]),
}


@st.composite
def configs(draw: st.DrawFn, optional: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    # Few at a time, so that many combinations are ones that can work.
    names = draw(st.lists(st.sampled_from(sorted(optional)), max_size=5, unique=True))
    data = draw(st.sampled_from([DATASET, DATASET, {}]))
    return draw(FORMATS) | data | {name: draw(optional[name]) for name in names}


@settings(max_examples=200)
@given(configs(NUMBERS | WORDS | QUANTISING | OTHERS))
def test_the_parser_reads_every_recipe_as_it_was_meant(config):
    try:
        precision, recipe, _ = normalise(None, "CPU", config)
    except InvalidSpec:
        assume(False)
    options = OPENVINO.bind(recipe)
    read = vars(parser().parse_args(["--model", "here", *to_argv(options, precision), "there"]))
    expected = {name: ACTIONS[name].default for name in FLAGS} | {
        name: value for name, value in recipe.items() if name in FLAGS and value is not False
    }
    expected["quant_mode" if "quant_mode" in recipe else "weight_format"] = precision.value
    if (precision, "quant_mode" in recipe) == (Precision.INT8, False):
        expected["group_size"] = -1
    if "vocoder" in recipe:
        expected["model_kwargs"] = (expected["model_kwargs"] or {}) | {"vocoder": recipe["vocoder"]}
    assert {name: read[name] for name in FLAGS} == expected


# What the tool makes of a wish, in a process of its own

TEXTS = ["one", "two"]


class Tool:
    """Asks upstream's command what it would make of some flags."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._known: dict[tuple[str, ...], SimpleNamespace] = {}

    def __call__(self, argv: list[str]) -> SimpleNamespace:
        """`refused` is why it would not, or None; `made` names the quantised graph by its content."""
        key = tuple(argv)
        if key not in self._known:
            self._known[key] = SimpleNamespace(**self.ask({"argv": argv}))
        return self._known[key]

    def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    home = tmp_path_factory.mktemp("home")
    (home / "intel").mkdir()
    (home / "intel" / "openvino_telemetry").write_text("0")
    environment = {
        "HOME": str(home),
        "PATH": os.defpath,
        "HF_HUB_OFFLINE": "1",
        "NNCF_CI": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield Tool(process)
        finally:
            process.kill()


def flags(config: dict[str, Any]) -> list[str]:
    return [FLAGS[name] if value is True else f"{FLAGS[name]}={value}" for name, value in config.items()]


RISKY = {
    "ratio": st.sampled_from([0, 0.5, 1.0, 1.5]),
    "group_size": st.sampled_from([-5, -1, 0, 32, 64]),
    "num_samples": st.sampled_from([0, 1, 2, 3]),
    "smooth_quant_alpha": st.sampled_from([-1, -0.5, 0, 0.5, 1.5]),
    "sensitivity_metric": WORDS["sensitivity_metric"] | st.just("luck"),
}


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=configs(WORDS | QUANTISING | RISKY))
def test_here_is_refused_early_what_the_tool_refuses_late(tool, config):
    """And what is accepted here gives the very same weights there; what is refused beyond that changes nothing there."""
    told = tool(flags(config))
    meant, refusal = meaning(config)
    if meant is not None:
        assert told.refused is None
        assert tool(meant).made == told.made
    elif told.refused is None:
        named = next(name for name in re.findall(r"'(\w+)'", refusal) if name in config)
        without = {name: value for name, value in config.items() if name != named}
        assert tool(flags(without)).made == told.made, refusal


def meaning(config: dict[str, Any]) -> tuple[list[str] | None, str]:
    """The flags of the recipe, or why there is none."""
    try:
        precision, recipe, _ = normalise(None, "CPU", config)
    except InvalidSpec as error:
        return None, str(error)
    return to_argv(OPENVINO.bind(recipe), precision), ""


@pytest.mark.parametrize(
    "config",
    [
        {"weight_format": "int8", "awq": True},
        {"weight_format": "int8", "scale_estimation": True, **DATASET},
        {"weight_format": "int8", "gptq": True, **DATASET},
        {"weight_format": "int8", "lora_correction": True, **DATASET},
        {"weight_format": "int8", "sensitivity_metric": "weight_quantization_error"},
        {"weight_format": "int8", "backup_precision": "int8_sym"},
        {"weight_format": "mxfp4", "awq": True},
        {"weight_format": "mxfp4", "group_size": 64},
        {"weight_format": "mxfp4", "group_size": -1},
        {"weight_format": "mxfp4", "group_size_fallback": "adjust"},
        {"weight_format": "mxfp4", "scale_estimation": True, **DATASET},
        {"weight_format": "mxfp4", "gptq": True, **DATASET},
        {"weight_format": "mxfp4", "lora_correction": True, **DATASET},
        {"weight_format": "cb4", "lora_correction": True, **DATASET},
        {"weight_format": "int4", "lora_correction": True, "gptq": True, **DATASET},
        {"weight_format": "int4", "lora_correction": True, "all_layers": True, **DATASET},
        {"weight_format": "int4", "gptq": True},
        {"weight_format": "int4", "scale_estimation": True},
        {"weight_format": "int4", "lora_correction": True},
        {"weight_format": "int4", "sensitivity_metric": "hessian_input_activation"},
        {"weight_format": "int4", "group_size": 0},
        {"weight_format": "int4", "ratio": 1.5},
        {"weight_format": "int4", "dataset": "no such data"},
        {"quant_mode": "int8"},
        {"quant_mode": "f8e4m3"},
        {"quant_mode": "int4_f8e5m2"},
        {"quant_mode": "int8", "smooth_quant_alpha": 1.5, **DATASET},
        {"quant_mode": "cb4_f8e4m3", "lora_correction": True, **DATASET},
        {"weight_format": "int4", "quant_mode": "int8", **DATASET},
    ],
)
def test_what_can_never_work_is_refused_here_and_there(tool, config):
    assert tool(flags(config)).refused is not None
    with pytest.raises(InvalidSpec):
        normalise(None, "CPU", config)


@pytest.mark.parametrize(
    "config",
    [
        *({"weight_format": word} for word in ("fp16", "fp32", "int8", "int4", "mxfp4", "nf4", "cb4")),
        {"weight_format": "int4", "awq": True, **DATASET},
        {"weight_format": "int4", "awq": True, "ratio": 0.5, "group_size": 64, "backup_precision": "int8_sym"},
        {"weight_format": "int4", "gptq": True, "scale_estimation": True, "sym": True, **DATASET},
        {"weight_format": "int4", "lora_correction": True, **DATASET},
        {"weight_format": "nf4", "ratio": 0.5, "sensitivity_metric": "max_activation_variance", **DATASET},
        {"weight_format": "cb4", "scale_estimation": True, "all_layers": True, **DATASET},
        {"weight_format": "mxfp4", "backup_precision": "none"},
        {"quant_mode": "int8", "sym": True, "smooth_quant_alpha": 0.5, **DATASET},
        {"quant_mode": "int8", **DATASET},
        {"quant_mode": "f8e4m3", **DATASET},
        {"quant_mode": "f8e5m2", **DATASET},
        {"quant_mode": "int4_f8e5m2", **DATASET},
        {"quant_mode": "int4_f8e4m3", "awq": True, "ratio": 0.5, **DATASET},
        {"quant_mode": "cb4_f8e4m3", **DATASET},
    ],
)
def test_the_recipe_makes_the_very_weights_that_the_flags_make(tool, config):
    meant, _ = meaning(config)
    assert meant is not None
    told = tool(flags(config))
    assert told.refused is None
    assert tool(meant).made == told.made


def test_the_tool_knows_the_same_words(tool):
    metrics = properties_of(OpenVINOOptions)["sensitivity_metric"]["enum"]
    assert set(metrics) == set(tool.ask({"fact": "sensitivity_metrics"}))
    known = tool.ask({"fact": "synonyms"})
    tasks = {task for names in TASKS.values() for task in names}
    assert {name: task for name, task in known.items() if task in tasks and name not in tasks} == SYNONYMS
    assert set(tool.ask({"fact": "data_sets"})) == NAMED_DATA | {"auto"}


def serve() -> None:
    """Answers questions, one line each, until there are no more."""
    # Whatever the tools print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = make_judge()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def make_judge() -> Callable[[dict[str, Any]], Any]:
    import nncf
    import numpy as np
    import openvino as ov
    import optimum.exporters.openvino.__main__ as exporter
    from openvino import opset13 as ops
    from optimum.commands.export.openvino import OVExportCommand
    from optimum.exporters.tasks import TasksManager
    from optimum.intel.openvino import quantization, utils
    from optimum.intel.openvino.configuration import OVQuantizationConfig, OVWeightQuantizationConfig

    logging.disable(logging.CRITICAL)
    nncf.set_log_level(logging.CRITICAL)

    class Reached(Exception):
        """The tool has checked everything, and would read the model now."""

    def reach(*, ov_config: Any, **_: object) -> None:
        raise Reached(ov_config)

    exporter.main_export = reach

    def graph() -> Any:
        """What the algorithms look for: an embedding, a gate as in language models, and a last layer."""
        random = np.random.default_rng(7)

        def layer(node: Any) -> Any:
            return ops.matmul(node, ops.constant(random.standard_normal((128, 128), np.float32)), False, True)

        ids = ops.parameter([1, 8], np.int64, name="ids")
        node = ops.gather(random.standard_normal((32, 128), np.float32), ids, np.int64(0))
        node = layer(ops.multiply(ops.swish(layer(node)), layer(node)))
        return ov.Model([ops.result(layer(ops.relu(node)))], [ids], "graph")

    def quantised(config: Any) -> str:
        # A dataset is read once for each quantisation, and data-aware algorithms look at several samples.
        data = nncf.Dataset([{"ids": np.arange(start, start + 8)[None]} for start in (0, 8, 16)])
        model = graph()
        if config is None:
            return "as it is"
        if isinstance(config, OVWeightQuantizationConfig):
            seen = data if config.dataset is not None and config.bits != 8 else None
            model = quantization._weight_only_quantization(model, config, seen)
        elif isinstance(config, OVQuantizationConfig):
            model = quantization._full_quantization(model, config, data)
        else:
            model = quantization._mixed_quantization(model, config, data)
        with tempfile.TemporaryDirectory() as folder:
            ov.serialize(model, f"{folder}/model.xml")
            return hashlib.sha256(Path(folder, "model.bin").read_bytes()).hexdigest()

    def judge(argv: list[str]) -> dict[str, str | None]:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                read = parser().parse_args(["--model=.", "--library=transformers", *argv, "nowhere"])
        except SystemExit:
            return {"refused": "by the parser", "made": None}
        if read.dataset is not None and read.dataset.startswith("path:"):
            read.dataset = TEXTS
        try:
            OVExportCommand(None, read, from_defaults_factory=True, parser=parser()).run()
        except Reached as reached:
            config = reached.args[0]
        except Exception as error:
            return {"refused": f"{type(error).__name__}: {error}", "made": None}
        try:
            made = quantised(None if config is None else config.quantization_config)
        except Exception as error:
            return {"refused": f"{type(error).__name__}: {error}", "made": None}
        return {"refused": None, "made": f"{None if config is None else config.dtype} {made}"}

    facts = {
        "sensitivity_metrics": [metric.value for metric in nncf.SensitivityMetric],
        "synonyms": TasksManager._SYNONYM_TASK_MAP,
        "data_sets": [
            name for constant in dir(utils) if constant.startswith("PREDEFINED_") for name in getattr(utils, constant)
        ],
    }
    return lambda question: judge(question["argv"]) if "argv" in question else facts[question["fact"]]


if __name__ == "__main__":
    serve()
