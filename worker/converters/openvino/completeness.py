"""Refuses a checkpoint that lacks weights: the libraries fill them with random numbers and only log it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers.models.modeling_utils
import transformers.modeling_utils
from transformers.utils.loading_report import LoadStateDictInfo

from common.errors import UnsupportedModel

_READS_NO_POOLER = "feature-extraction"
_BEFORE_MISMATCHED = 4
"""Of what diffusers' loader returns: the model, and the keys that are missing, unexpected and of another shape."""


@contextmanager
def complete_weights(task: str | None) -> Iterator[None]:
    """Raise UnsupportedModel inside whatever loads a model of which not all weights are there."""
    report = transformers.modeling_utils.log_state_dict_report
    part: Any = diffusers.models.modeling_utils.ModelMixin
    loading = part.__dict__["_load_pretrained_model"]

    def strict(*, model: Any, loading_info: LoadStateDictInfo, **more: Any) -> None:
        _refuse_gaps(model, loading_info.missing_and_mismatched(), task)
        report(model=model, loading_info=loading_info, **more)

    def load(cls: type, *arguments: Any, **named: Any) -> Any:
        loaded = loading.__func__(cls, *arguments, **named)
        model, missing, _, mismatched = loaded[:_BEFORE_MISMATCHED]
        _refuse_gaps(model, {*missing, *(one if isinstance(one, str) else one[0] for one in mismatched)}, task)
        return loaded

    transformers.modeling_utils.log_state_dict_report = strict
    part._load_pretrained_model = classmethod(load)  # noqa: SLF001 - there is no other place where it is known
    try:
        yield
    finally:
        transformers.modeling_utils.log_state_dict_report = report
        part._load_pretrained_model = loading  # noqa: SLF001


def _refuse_gaps(model: Any, names: Iterable[str], task: str | None) -> None:
    unfit = sorted(name for name in names if _matters(name, model, task))
    if unfit:
        kind = getattr(model.config, "model_type", None) or type(model).__name__
        raise UnsupportedModel(
            f"The checkpoint is no complete '{kind}' model for {task}: {len(unfit)} weights of "
            f"{type(model).__name__} are missing or have another shape, such as {unfit[0]}"
        )


def _matters(name: str, model: Any, task: str | None) -> bool:
    """Whether a weight that is missing changes what the model answers."""
    if task == _READS_NO_POOLER and "pooler." in name:
        return False
    # What a model computes for itself when it is made, such as tables of positions, is no parameter.
    return ".running_" in name or name in dict(model.named_parameters())
