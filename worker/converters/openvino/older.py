"""Gives an older transformers the hook that the refusal of incomplete checkpoints hangs on; see completeness.py."""

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

_MODULE = "transformers.utils.loading_report"
_HOOK = "log_state_dict_report"


@dataclass
class LoadStateDictInfo:
    """What loading a checkpoint has left open, as newer releases tell it."""

    missing_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[str] = field(default_factory=set)

    def missing_and_mismatched(self) -> set[str]:
        """The names of all weights that the checkpoint did not give."""
        return self.missing_keys | self.mismatched_keys


def complete_transformers() -> None:
    """Add to transformers, where it is of release 4, what the converter expects. Safe to repeat."""
    import transformers.modeling_utils as loading  # noqa: PLC0415 - seconds, and of an environment chosen by then

    if hasattr(loading, _HOOK):
        return
    module = ModuleType(_MODULE)
    module.LoadStateDictInfo = LoadStateDictInfo  # type: ignore[attr-defined]  # that is how a module is filled
    sys.modules[_MODULE] = module
    setattr(loading, _HOOK, lambda **_: None)
    before = loading.PreTrainedModel._load_pretrained_model.__func__  # noqa: SLF001 - it has no public name

    def load(cls: type, *arguments: Any, **named: Any) -> Any:
        result = before(cls, *arguments, **named)
        model, missing, _, mismatched, *_ = result
        left = LoadStateDictInfo(set(missing), {str(key) for key in mismatched})
        getattr(loading, _HOOK)(model=model, loading_info=left)
        return result

    loading.PreTrainedModel._load_pretrained_model = classmethod(load)  # noqa: SLF001
