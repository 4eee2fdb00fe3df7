"""Holds the weights of a converted model against what was asked for."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import openvino as ov

from common.catalog.openvino import OpenVINOOptions
from common.catalog.openvino.rules import QUANT_MODES
from common.errors import VerificationFailed
from common.spec import Target
from common.vocabulary import ModelType, Precision
from worker.converters.openvino.check.files import DECODER, LANGUAGE, MODEL, VISION_EMBEDDINGS, type_of


def check_weights(folder: Path, graph: str, target: Target, options: OpenVINOOptions) -> str:
    """What the weights of one part of a model are, in words. Raises VerificationFailed if others were asked for.

    An option that is None is not held against them.
    """
    weights = _Weights(ov.Core().read_model(folder / f"{graph}.xml"))
    claim = _claim(type_of(target), graph, target.precision, options)
    if not _holds(claim, weights, options):
        raise VerificationFailed(f"{graph} was to have {claim.words}, but has {weights.words}")
    if claim.precision in _FOUR_BITS:
        _check_recipe(graph, weights.settings, options)
    return f"{graph} has {weights.words}"


def precision_of(folder: Path) -> Precision | None:
    """The precision of a model's weights, as its IR tells; None where it tells of none that is offered here."""
    weights = _main_weights(folder)
    if weights is None:
        return None
    if weights.activations == "int8":
        name = "int8" if weights.format in {"", "int8"} else ""
    else:
        name = "_".join(part for part in (weights.format, weights.activations) if part)
    name = name or {"f16": "fp16", "f32": "fp32"}.get(weights.largest_float, "")
    return next((precision for precision in Precision if precision == name), None)


def quant_mode_of(folder: Path) -> str | None:
    """Which of optimum's quant modes a model is in, as its IR tells; None where only its weights are compressed."""
    weights = _main_weights(folder)
    precision = precision_of(folder)
    return precision.value if weights is not None and weights.activations and precision is not None else None


_COMPRESSION = ("nncf", "weight_compression")
_QUANTIZATION = ("nncf", "quantization")

_FLOATS = frozenset({"bf16", "f16", "f32", "f64"})
_NUMBERS: Mapping[str, frozenset[str]] = {
    "int8": frozenset({"u8", "i8"}),
    "int4": frozenset({"u4", "i4"}),
    # 16 numbers in a table, and 4 bits to choose one of them.
    "cb4": frozenset({"u4"}),
    "nf4": frozenset({"nf4"}),
    "mxfp4": frozenset({"f4e2m1"}),
    "f8e4m3": frozenset({"f8e4m3"}),
    "f8e5m2": frozenset({"f8e5m2"}),
    "fp16": frozenset({"f16"}),
    "fp32": frozenset({"f32"}),
}
"""What OpenVINO calls the numbers of each format."""
_FOUR_BITS = frozenset({"int4", "cb4", "nf4", "mxfp4"})
_OF_TWO_KINDS = frozenset({"int4", "int8"})
"""What nncf names by whether there is a zero point, too."""

_MAIN = frozenset({LANGUAGE, "openvino_mtp_model", f"unet/{MODEL}", f"transformer/{MODEL}", DECODER, MODEL})
"""The part of each type of model that every option is about."""
_NNCF_NAMES: Mapping[str, str] = {
    "ratio": "ratio",
    "group_size": "group_size",
    "backup_precision": "backup_mode",
    "all_layers": "all_layers",
    "awq": "awq",
    "scale_estimation": "scale_estimation",
    "gptq": "gptq",
    "lora_correction": "lora_correction",
}

_WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "MatMul": (0, 1),
    "Gather": (0,),
    "Convolution": (1,),
    "GroupConvolution": (1,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (1,),
}
"""The operations with weights that can be compressed, and where these come in."""
_UNPACKING = frozenset({"Convert", "Subtract", "Multiply", "Reshape", "Gather", "FakeQuantize", "FakeConvert"})
"""What stands between a stored weight and the operation that uses it."""
_NARROWEST_GROUP = 32


class _Weights:
    """What an IR tells of its weights."""

    def __init__(self, model: ov.Model) -> None:
        self.settings = _texts(model, _COMPRESSION)
        self.mode = self.settings.get("mode", "")
        self.sizes: Counter[str] = Counter()
        self._layers: list[_Layer] = []
        rounding: set[str] = set()
        for operation in model.get_ops():
            match operation.get_type_name():
                case "Constant":
                    self.sizes[operation.get_element_type().get_type_name()] += operation.get_byte_size()
                case "FakeConvert":
                    rounding.add(str(operation.get_attributes()["destination_type"]))
                case "FakeQuantize" if model.has_rt_info([*_QUANTIZATION]):
                    rounding.add("int8")
                case name if name in _WEIGHT_INPUTS:
                    self._layers.extend(_layers(operation))
                case _:
                    pass
        self.activations = "/".join(sorted(rounding))

    @property
    def format(self) -> str:
        """The number format of compressed weights, nncf's or another tool's; empty where they are not compressed."""
        if self.mode or self.activations:
            name, _, _ = self.mode.partition("_")
            return name if name in _OF_TWO_KINDS else self.mode
        numbers = {layer.numbers for layer in self._layers}
        return next((name for name in ("int4", "int8") if numbers & _NUMBERS[name]), "")

    @property
    def largest_float(self) -> str:
        return max(self.sizes.keys() & _FLOATS, key=lambda kind: self.sizes[kind], default="")

    @property
    def words(self) -> str:
        total = sum(self.sizes.values()) or 1
        kinds = ", ".join(
            f"{kind} {size * 100 // total} %" for kind, size in self.sizes.most_common() if size * 100 >= total
        )
        activations = f", and {self.activations} activations" if self.activations else ""
        mode = self.mode or ("quantised" if self.activations else "uncompressed")
        return f"{mode} weights ({kinds or 'none'}){activations}"

    def have(self, precision: str) -> bool:
        return bool(self.sizes.keys() & _NUMBERS[precision])

    def are_left_as_they_were(self) -> bool:
        """Whether weights that could be compressed are not."""
        return any(layer.numbers in _FLOATS for layer in self._layers)

    def could_be_narrower(self) -> bool:
        """Whether more layers than the last one are fit for 4 bits."""
        fit = [one for one in self._layers if one.operation == "MatMul" and one.width % _NARROWEST_GROUP == 0]
        return len(fit) > 1


@dataclass(frozen=True)
class _Layer:
    operation: str
    numbers: str
    width: int


@dataclass(frozen=True)
class _Claim:
    """What one part of a model was to be. An empty precision is not judged."""

    precision: str = ""
    sym: bool | None = None
    activations: str | None = ""
    """None is not judged."""

    @property
    def modes(self) -> tuple[str, ...]:
        """What nncf calls such weights."""
        if self.precision not in _OF_TWO_KINDS:
            return (self.precision,)
        kinds = ("sym", "asym") if self.sym is None else ("sym" if self.sym else "asym",)
        return tuple(f"{self.precision}_{kind}" for kind in kinds)

    @property
    def words(self) -> str:
        activations = f", and {self.activations} activations" if self.activations else ""
        return f"{' or '.join(self.modes)} weights{activations}"


def _claim(kind: ModelType, graph: str, precision: Precision, options: OpenVINOOptions) -> _Claim:
    if options.quant_mode is not None or precision in QUANT_MODES:
        return _claim_of_mode(kind, graph, options.quant_mode or precision.value)
    if precision in {Precision.FP16, Precision.FP32}:
        return _Claim(precision.value)
    # Of integers that were made elsewhere nobody tells the sign, and nobody knows what was done to the lesser parts.
    is_known = options.sym is not None or precision not in _OF_TWO_KINDS
    if graph in _MAIN or (is_known and kind is not ModelType.VLM):
        return _Claim(precision.value, options.sym, "" if is_known else None)
    # optimum compresses the language model as it is told, and all that is beside it to this.
    return _Claim("int8", sym=True) if is_known else _Claim()


def _claim_of_mode(kind: ModelType, graph: str, mode: str) -> _Claim:
    weights, _, activations = mode.rpartition("_")
    if graph in _MAIN or (kind is ModelType.VLM and graph == VISION_EMBEDDINGS):
        return _Claim(weights or activations, activations=activations)
    # optimum compresses the lesser parts of these, and only their weights.
    return _Claim("int8") if kind in {ModelType.VLM, ModelType.IMAGE_GENERATION} else _Claim()


def _holds(claim: _Claim, weights: _Weights, options: OpenVINOOptions) -> bool:
    if not claim.precision:
        return True
    if claim.activations is not None and weights.activations != claim.activations:
        return False
    if claim.precision in {"fp16", "fp32"}:
        return not weights.format and weights.largest_float in {"", *_NUMBERS[claim.precision]}
    if weights.activations == claim.precision:
        return not weights.mode and weights.have(claim.precision)
    if not weights.mode:
        return weights.format == claim.precision or not weights.are_left_as_they_were()
    return weights.mode in claim.modes and (weights.have(claim.precision) or _may_have_none(claim, weights, options))


def _may_have_none(claim: _Claim, weights: _Weights, options: OpenVINOOptions) -> bool:
    """Whether the tools may have found no layer for 4 bits: convolutions, embeddings and the last layer get 8."""
    if claim.precision not in _FOUR_BITS:
        return False
    few = options.ratio is not None and options.ratio < 1
    return few or options.group_size_fallback == "ignore" or not weights.could_be_narrower()


def _check_recipe(graph: str, settings: Mapping[str, str], options: OpenVINOOptions) -> None:
    for ours, theirs in _NNCF_NAMES.items():
        wanted, found = getattr(options, ours), settings.get(theirs)
        if wanted is not None and found is not None and str(wanted) != found and not _equal(wanted, found):
            raise VerificationFailed(f"{graph} was to be compressed with {ours} {wanted}, but was with {found}")


def _equal(wanted: object, found: str) -> bool:
    try:
        return isinstance(wanted, int | float) and float(wanted) == float(found)
    except ValueError:
        return False


def _layers(operation: ov.Node) -> Iterator[_Layer]:
    if operation.get_type_name() == "Gather" and _constants(operation.input_value(1).get_node()) is not None:
        # The same rows each time are no table to look things up in, and the tools leave them alone.
        return
    for number in _WEIGHT_INPUTS[operation.get_type_name()]:
        constants = _constants(operation.input_value(number).get_node())
        weight = max(constants or (), key=lambda constant: math.prod(constant.shape), default=None)
        if weight is not None and sum(size > 1 for size in weight.shape) > 1:
            numbers = weight.get_element_type().get_type_name()
            yield _Layer(operation.get_type_name(), numbers, _width(weight.shape))


def _constants(node: ov.Node) -> list[ov.Node] | None:
    """What a weight is unpacked from; None where it is no weight, but depends on the model's input."""
    if node.get_type_name() == "Constant":
        return [node]
    if node.get_type_name() not in _UNPACKING:
        return None
    found = [_constants(port.get_node()) for port in node.input_values()]
    return None if None in found else [constant for part in found for constant in part or ()]


def _width(shape: ov.Shape) -> int:
    """How many weights of a layer make one number; grouped ones are stored in two dimensions."""
    return int(shape[-1] if len(shape) < 3 else shape[-1] * shape[-2])


def _texts(model: ov.Model, path: tuple[str, ...]) -> dict[str, str]:
    if not model.has_rt_info([*path]):
        return {}
    names = ["mode", *_NNCF_NAMES.values()]
    return {name: model.get_rt_info([*path, name]).astype(str) for name in names if model.has_rt_info([*path, name])}


def _main_weights(folder: Path) -> _Weights | None:
    files = (folder / f"{graph}.xml" for graph in sorted(_MAIN))
    main = next((file for file in files if file.is_file()), None)
    return None if main is None else _Weights(ov.Core().read_model(main))
