"""In which number format a model of transformers is loaded to be traced."""

from collections.abc import Mapping

import torch
from transformers import AutoConfig

from common.catalog.openvino import OpenVINOOptions
from common.plugins import Order
from common.vocabulary import Precision
from worker.converters.openvino.paths import Site

_TORCH = {Precision.FP16: torch.float16, Precision.FP32: torch.float32}
_HALVES = frozenset({torch.float16, torch.bfloat16})


def read_config(site: Site) -> AutoConfig:
    """The model's config, as transformers reads it."""
    return AutoConfig.from_pretrained(site.model, local_files_only=True, trust_remote_code=site.trusted)


def kind_of(config: AutoConfig) -> torch.dtype:
    """The number format that the source's weights are stored in."""
    kind = getattr(config, "torch_dtype", None)
    return kind if isinstance(kind, torch.dtype) else torch.float32


def is_half(kind: torch.dtype) -> bool:
    """Whether weights of this format take 16 bits."""
    return kind in _HALVES


def told_to_load(site: Site, order: Order[OpenVINOOptions]) -> Mapping[str, torch.dtype]:
    """What the loader is told where weights of 16 bits have to become others.

    Upstream tells it that for models that generate text. All others would keep the 16 bits that they have, bfloat16 for
    FP16 and either of them for FP32, and nobody would be told.
    """
    wanted = _TORCH.get(order.target.precision)
    if wanted is None or order.options.library not in {None, "transformers"} or order.options.quant_mode is not None:
        return {}
    kind = kind_of(read_config(site))
    return {"torch_dtype": wanted} if is_half(kind) and kind is not wanted else {}
