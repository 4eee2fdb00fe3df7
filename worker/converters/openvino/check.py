"""Proves that a converted model is whole, has the wanted precision, loads, and answers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino_tokenizers  # noqa: F401  registers the operations of tokenizers with OpenVINO

from common.errors import OutputIncomplete, VerificationFailed
from common.vocabulary import ModelType, Precision

MODEL = "openvino_model"
TOKENIZER = "openvino_tokenizer"
DETOKENIZER = "openvino_detokenizer"

Tensors = Mapping[str, npt.NDArray[np.int64]]

_TOKENIZER_HINT = "The model's tokenizer cannot be converted: check that the repository holds its tokenizer files."
_TEXT = "The ferry carries a model over the water, and on the other side it answers a short question."
_MOST_TOKENS = 16
_RANKS = {ModelType.LLM: 3, ModelType.EMBEDDINGS: 3, ModelType.RERANK: 2}
_MODE = ["nncf", "weight_compression", "mode"]
_FOUR_BITS = {"u4", "i4"}
_EIGHT_BITS = {"u8", "i8"}
_FLOATS = {"bf16", "f16", "f32", "f64"}


def check_files(folder: Path, model_type: ModelType) -> None:
    """Raise OutputIncomplete unless everything that a model server opens is there and not empty."""
    graphs = [MODEL, TOKENIZER, *([DETOKENIZER] if model_type is ModelType.LLM else [])]
    wanted = ["config.json", *(f"{graph}.{end}" for graph in graphs for end in ("xml", "bin"))]
    for name in wanted:
        file = folder / name
        hint = None if name.startswith((f"{MODEL}.", "config")) else _TOKENIZER_HINT
        if not file.is_file():
            raise OutputIncomplete(f"The conversion left no {name}", hint=hint)
        if file.stat().st_size == 0:
            raise OutputIncomplete(f"The conversion left an empty {name}", hint=hint)


def precision_of(folder: Path) -> Precision | None:
    """The precision of a model's weights, as its IR tells; None where it tells of none that is offered here."""
    model = ov.Core().read_model(folder / f"{MODEL}.xml")
    mode = model.get_rt_info(_MODE).astype(str) if model.has_rt_info(_MODE) else ""
    if mode:
        return next((kind for kind in Precision if mode.startswith(f"{kind}_")), None)
    sizes = _weight_bytes(model)
    most = max(sizes.keys() & _FLOATS, key=lambda kind: sizes[kind], default="")
    return {"f16": Precision.FP16, "f32": Precision.FP32}.get(most)


def check_run(folder: Path, model_type: ModelType, precision: Precision, *, sym: bool | None) -> None:
    """Load the model and let it answer once. Raises VerificationFailed; a tool's own errors pass through.

    `sym` is None for a model that was quantized elsewhere, by rules that nobody told us.
    """
    core = ov.Core()
    model = core.read_model(folder / f"{MODEL}.xml")
    if sym is not None:
        _check_precision(model, precision, sym=sym)
    tokens = _tokenise(core, folder)
    _check_answer(_answer(core, model, tokens), model_type, tokens["input_ids"].shape[1])
    if model_type is ModelType.LLM:
        _detokenise(core, folder, tokens["input_ids"])


def _check_precision(model: ov.Model, precision: Precision, *, sym: bool) -> None:
    sizes = _weight_bytes(model)
    mode = model.get_rt_info(_MODE).astype(str) if model.has_rt_info(_MODE) else ""
    match precision:
        case Precision.INT4 | Precision.INT8:
            wanted = f"{precision}_{'sym' if sym else 'asym'}"
            bits = _FOUR_BITS if precision is Precision.INT4 else _EIGHT_BITS
            if mode != wanted or not bits & sizes.keys():
                raise VerificationFailed(f"The model was to have {wanted} weights, but has {_shown(mode, sizes)}")
        case Precision.FP16 | Precision.FP32:
            wanted = "f16" if precision is Precision.FP16 else "f32"
            floats = sizes.keys() & _FLOATS
            if mode or max(floats, key=lambda kind: sizes[kind], default="") != wanted:
                raise VerificationFailed(f"The model was to have {wanted} weights, but has {_shown(mode, sizes)}")


def _weight_bytes(model: ov.Model) -> dict[str, int]:
    """How many bytes of constants there are of each kind of number."""
    sizes: dict[str, int] = {}
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant":
            kind = operation.get_element_type().get_type_name()
            sizes[kind] = sizes.get(kind, 0) + operation.get_byte_size()
    return sizes


def _shown(mode: str, sizes: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{kind} ({size} bytes)" for kind, size in sorted(sizes.items()))
    return f"{mode or 'uncompressed'}: {kinds or 'no constants'}"


def _tokenise(core: ov.Core, folder: Path) -> Tensors:
    tokenizer = core.compile_model(folder / f"{TOKENIZER}.xml", "CPU")
    result = tokenizer([_TEXT])
    tokens = {port.get_any_name(): result[port][:, :_MOST_TOKENS] for port in tokenizer.outputs}
    if "input_ids" not in tokens or tokens["input_ids"].size == 0:
        raise VerificationFailed("The converted tokenizer makes no tokens of an English sentence")
    return tokens


def _detokenise(core: ov.Core, folder: Path, ids: npt.NDArray[np.int64]) -> None:
    detokenizer = core.compile_model(folder / f"{DETOKENIZER}.xml", "CPU")
    result = detokenizer([ids])
    if not str(result[detokenizer.output(0)][0]).strip():
        raise VerificationFailed("The converted detokenizer makes no text of tokens")


def _answer(core: ov.Core, model: ov.Model, tokens: Tensors) -> list[npt.NDArray[np.float32]]:
    compiled = core.compile_model(model, "CPU")
    result = compiled({port.get_any_name(): _input(port, tokens) for port in compiled.inputs})
    return [result[port] for port in compiled.outputs]


def _input(port: ov.ConstOutput, tokens: Tensors) -> npt.NDArray[np.generic]:
    """What a model is given at a port on the first turn of a conversation."""
    name, kind = port.get_any_name(), port.get_element_type().to_dtype()
    ids = tokens["input_ids"]
    if name == "position_ids":
        # Some models count positions in several directions; for plain text they are all the same.
        places = np.arange(ids.shape[1], dtype=kind)[np.newaxis, :]
        dimensions = port.get_partial_shape()
        return np.broadcast_to(places, (dimensions[0].get_length(), *places.shape)) if len(dimensions) == 3 else places
    if name in tokens:
        return tokens[name].astype(kind)
    if name == "attention_mask":
        return np.ones(ids.shape, kind)
    if name == "token_type_ids":
        return np.zeros(ids.shape, kind)
    sizes = [1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    return np.zeros(sizes, kind)


def _check_answer(outputs: list[npt.NDArray[np.float32]], model_type: ModelType, tokens: int) -> None:
    if not outputs:
        raise VerificationFailed("The converted model gives no answer")
    first = outputs[0]
    if first.ndim != _RANKS[model_type] or first.size == 0 or (first.ndim == 3 and first.shape[1] != tokens):
        raise VerificationFailed(f"The converted model answers {tokens} tokens with a tensor of shape {first.shape}")
    if not all(np.isfinite(output).all() for output in outputs):
        raise VerificationFailed("The converted model answers with numbers that are not finite")
