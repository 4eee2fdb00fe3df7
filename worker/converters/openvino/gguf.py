"""Converts language models in llama.cpp's form: OpenVINO GenAI reads them and saves IR. No torch has a part in it."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import openvino_genai

from common.catalog.openvino import OpenVINOOptions
from common.errors import InvalidParameters, UnsupportedModel
from common.plugins import Order
from common.vocabulary import ModelType, Precision
from worker.converters.openvino.compiling import steady_properties
from worker.converters.openvino.paths import Site
from worker.converters.openvino.steps import Steps

_PRECISIONS: Mapping[int, Precision] = {
    0: Precision.FP32,
    1: Precision.FP16,
    2: Precision.INT4,
    3: Precision.INT4,
    7: Precision.INT8,
    14: Precision.INT4,
    15: Precision.INT4,
    18: Precision.INT8,
}
"""llama.cpp's number of a file's quantization -> what it comes to: F32, F16, Q4_0, Q4_1, Q8_0, Q4_K_S, Q4_K_M, Q6_K."""
_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_CHAT_TEMPLATE = "tokenizer.chat_template"


def export(site: Site, order: Order[OpenVINOOptions], steps: Steps) -> None:
    """Write IR and tokenizers of the file whose quantization is the precision that is wanted.

    Raises UnsupportedModel where no file can be read, and InvalidParameters where none is of this precision.
    """
    file, told = _chosen(site.model, order)
    link = order.folder / "model.gguf"
    link.symlink_to(file)
    with steps.step("convert"):
        # It compiles the model, too: to save it is a by-product there.
        openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True, **steady_properties())
    link.unlink()
    _write_papers(order.folder, told)


def read_metadata(file: Path) -> dict[str, object]:
    """What a GGUF file tells of itself; of lists only how long they are. Raises UnsupportedModel."""
    try:
        with file.open("rb") as content:
            return _metadata(content)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise UnsupportedModel(f"'{file.name}' is no GGUF file that can be read: {error}") from error


def _chosen(model: Path, order: Order[OpenVINOOptions]) -> tuple[Path, dict[str, object]]:
    wanted = order.target.precision
    if order.target.model_type is not ModelType.LLM or order.options.quant_mode is not None:
        raise InvalidParameters(
            "A model in GGUF form can be converted as type 'llm' only, in the precision that it has"
        )
    files = [file for file in sorted(model.rglob("*.gguf")) if not _SHARD.search(file.name)]
    if not files:
        raise UnsupportedModel("The model in GGUF form is cut into several files, which cannot be read here")
    told = {file: read_metadata(file) for file in files}
    found = {file: _PRECISIONS.get(_number(of, "general.file_type")) for file, of in told.items()}
    fitting = [file for file, precision in found.items() if precision is wanted]
    if not fitting:
        there = ", ".join(sorted({str(precision) for precision in found.values() if precision}))
        raise InvalidParameters(
            f"The repository holds a model in GGUF form, whose weights are quantised already: "
            f"{f'it can be had in {there}' if there else 'in a way that cannot be read here'}, not in {wanted}",
            hint=f"Ask for the precision '{there.split(', ')[0]}', or name the repository of the original model."
            if there
            else "Name the repository of the original model.",
        )
    file = max(fitting, key=lambda one: one.stat().st_size)
    architecture = told[file].get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedModel(
            f"OpenVINO GenAI reads GGUF files of {', '.join(sorted(_ARCHITECTURES))}, not of '{architecture}'"
        )
    return file, told[file]


def _write_papers(folder: Path, told: Mapping[str, object]) -> None:
    """What readers of a model look up beside it, as far as the file tells."""
    architecture = str(told["general.architecture"])
    known = {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
    }
    ends = {name: told.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
    sizes = {name: told.get(f"{architecture}.{key}") for name, key in known.items()}
    config = {"model_type": architecture, "vocab_size": told.get("tokenizer.ggml.tokens"), **sizes, **ends}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", ends)
    template = told.get(_CHAT_TEMPLATE)
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write(file: Path, content: Mapping[str, object]) -> None:
    said = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _number(told: Mapping[str, object], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) else -1


_MAGIC = b"GGUF"
_OLDEST = 2
_TEXT, _LIST = 8, 9
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_LONGEST = 1 << 24


def _metadata(content: BinaryIO) -> dict[str, object]:
    if content.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as one")
    version, _, entries = _unpacked(content, "<IQQ")
    if version < _OLDEST:
        raise ValueError(f"it is of version {version}")
    return {_text(content): _value(content, _one(content, "<I")) for _ in range(entries)}


def _value(content: BinaryIO, kind: int) -> object:
    if kind == _TEXT:
        return _text(content)
    if kind == _LIST:
        inner, length = _one(content, "<I"), _one(content, "<Q")
        if inner in _NUMBERS:
            content.seek(length * struct.calcsize(_NUMBERS[inner]), 1)
        else:
            for _ in range(length):
                _value(content, inner)
        return length
    return _unpacked(content, _NUMBERS[kind])[0]


def _text(content: BinaryIO) -> str:
    length = _one(content, "<Q")
    if length > _LONGEST:
        raise ValueError(f"it has a text of {length} bytes")
    return content.read(length).decode("utf-8", "replace")


def _one(content: BinaryIO, form: str) -> int:
    return int(_unpacked(content, form)[0])


def _unpacked(content: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, content.read(struct.calcsize(form)))
