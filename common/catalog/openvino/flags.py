"""The options as flags of `optimum-cli export openvino`: read from a client's text, and written for the tool."""

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from common.catalog.openvino.fields import OpenVINOOptions
from common.catalog.openvino.rules import QUANT_MODES
from common.catalog.openvino.values import NAME
from common.errors import InvalidSpec
from common.vocabulary import Precision

SWITCHES = frozenset(
    {
        "all_layers",
        "awq",
        "disable_convert_tokenizer",
        "disable_stateful",
        "gptq",
        "lora_correction",
        "scale_estimation",
        "sym",
        "trust_remote_code",
    }
)
"""Flags without a value."""

OURS = frozenset(
    {
        "dataset_sha256",
        "draft_eagle3_mode",
        "draft_model_name",
        "draft_source_model",
        "engine",
        "extra_quantization_params",
        "max_doc_length",
        "profile",
        "verify",
        "vocoder",
    }
)
"""Options that the tool does not know."""

FLAGS: Mapping[str, str] = {
    # The one flag that the tool spells with an underscore.
    name: "--cache_dir" if name == "cache_dir" else f"--{name.replace('_', '-')}"
    for name in OpenVINOOptions.__struct_fields__
    if name not in OURS
}
"""Option -> the tool's flag."""


def to_argv(options: OpenVINOOptions, precision: Precision) -> list[str]:
    """The flags that make the tool's own parser read this recipe, without `--model` and the output folder.

    A `dataset` and a `quantization_statistics_path` are handed on as they are: whoever runs the tool puts texts and an
    absolute path in their place. A `vocoder` goes into `--model-kwargs`.
    """
    argv = [_number_format(options, precision)]
    if precision is Precision.INT8 and options.quant_mode is None:
        # Changes nothing, but keeps the tool from looking up a recipe of its own by the folder's name.
        argv.append("--group-size=-1")
    for name, flag in FLAGS.items():
        value = getattr(options, name)
        if name in {"weight_format", "quant_mode", "model_kwargs"} or value is None:
            continue
        if name not in SWITCHES:
            argv.append(f"{flag}={value}")
        elif value:
            argv.append(flag)
    kwargs = model_kwargs(options)
    if kwargs:
        argv.append(f"{FLAGS['model_kwargs']}={json.dumps(kwargs)}")
    return argv


def model_kwargs(options: OpenVINOOptions) -> dict[str, object]:
    """The arguments of the model itself, the vocoder among them."""
    kwargs: dict[str, object] = msgspec.to_builtins(options.model_kwargs) or {}
    return kwargs if options.vocoder is None else kwargs | {"vocoder": options.vocoder}


def read_flags(text: str) -> dict[str, object]:
    """Option -> value, as text or True, of a string of flags. Raises InvalidSpec."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidSpec(f"'extra_quantization_params' is not usable: {error}") from error
    parser = _FlagParser(add_help=False, prog=NAME, argument_default=argparse.SUPPRESS)
    parser.add_argument("-m", "--model")
    for name, flag in FLAGS.items():
        if name in SWITCHES:
            parser.add_argument(flag, dest=name, action="store_true")
        else:
            parser.add_argument(flag, dest=name)
    return vars(parser.parse_args(words))


def _number_format(options: OpenVINOOptions, precision: Precision) -> str:
    if options.quant_mode is not None or precision in QUANT_MODES:
        return f"{FLAGS['quant_mode']}={precision}"
    return f"{FLAGS['weight_format']}={precision}"


class _FlagParser(argparse.ArgumentParser):
    """Reads the tool's own flags, and raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSpec(f"'extra_quantization_params' is not usable: {message[:200]}")
