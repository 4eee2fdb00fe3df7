"""Converts the draft of a language model: another model, which ends in a folder of the first one's result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from common.catalog.openvino import OpenVINOOptions, normalise
from common.catalog.openvino.drafts import DRAFT_FOLDER, draft_folder
from common.catalog.openvino.heads import TASKS
from common.errors import InvalidParameters, OutputIncomplete, VerificationFailed
from common.plugins import Order
from common.spec import Evidence
from common.vocabulary import ModelType
from worker.converters.openvino.check import precision_of, same_tokens
from worker.converters.openvino.scratch import empty

_LIBRARY = "transformers"


def set_aside(model: Path, order: Order[OpenVINOOptions], workspace: Path) -> Path | None:
    """Take the draft out of the source's folder, where it would count as a part of the model. Safe to repeat."""
    if order.options.draft_source_model is None:
        return None
    aside = workspace / DRAFT_FOLDER
    if (model / DRAFT_FOLDER).is_dir():
        (model / DRAFT_FOLDER).rename(empty(aside))
    if not aside.is_dir():
        raise OutputIncomplete(f"The draft model '{order.options.draft_source_model}' was not fetched")
    return aside


def draft_order(draft: Path, order: Order[OpenVINOOptions]) -> Order[OpenVINOOptions]:
    """How the draft is wanted: as the model, with the usual recipe; one that is converted already stays as it is.

    Raises InvalidParameters where the model has a file or folder of the draft's name.
    """
    name = draft_folder(msgspec.structs.asdict(order.options))
    folder = order.folder / str(name)
    if folder.exists():
        raise InvalidParameters(
            f"The model's folder holds '{name}' already", hint="Give the draft's folder another 'draft_model_name'."
        )
    target = msgspec.structs.replace(
        order.target, precision=precision_of(draft) or order.target.precision, model_type=ModelType.LLM
    )
    _, usual, _ = normalise(ModelType.LLM, target.device, {"precision": target.precision})
    told = {**usual, "task": TASKS[ModelType.LLM], "library": _LIBRARY, "engine": order.options.engine}
    if order.options.draft_eagle3_mode:
        told |= {"engine": "strict", "disable_convert_tokenizer": True}
    return replace(order, target=target, options=msgspec.convert(told, OpenVINOOptions), folder=folder)


@contextmanager
def eagle_known(order: Order[OpenVINOOptions]) -> Iterator[None]:
    """Let upstream load the draft, if it is one of EAGLE-3, by the classes that it brings for such.

    It would have transformers treat its own module as a repository's code, which takes a leave to run such code.
    """
    if not order.options.draft_eagle3_mode:
        yield
        return
    from optimum.exporters.openvino import __main__ as exporter  # noqa: PLC0415 - slow to import
    from optimum.exporters.openvino import model_patcher  # noqa: PLC0415
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: PLC0415

    known = MODEL_FOR_CAUSAL_LM_MAPPING._extra_content  # noqa: SLF001
    before, known_before = exporter.update_config_for_custom_draft_model, dict(known)

    def chosen(config: Any, _: str, name: str) -> Any:
        config.tie_word_embeddings = False
        # Of a class in upstream's own module it would think that it wraps another library's model.
        known[type(config)] = type(name, (getattr(model_patcher, name),), {"__module__": __name__})
        return config

    exporter.update_config_for_custom_draft_model = chosen
    try:
        yield
    finally:
        exporter.update_config_for_custom_draft_model = before
        known.clear()
        known.update(known_before)


def with_draft(
    model: Order[OpenVINOOptions], draft: Order[OpenVINOOptions], own: Evidence, beside: Evidence
) -> Evidence:
    """What was seen of both. Raises VerificationFailed unless they make the same tokens of texts."""
    fits: tuple[str, ...] = ()
    if not model.options.draft_eagle3_mode:
        if not same_tokens(model.folder, draft.folder):
            raise VerificationFailed(
                f"The draft model '{model.options.draft_source_model}' has another tokenizer than the model",
                hint="Name a smaller model of the same family: a draft has to have the same tokenizer.",
            )
        fits = ("the draft reads texts as the same tokens",)
    checks = (*own.checks, *(f"draft: {check}" for check in beside.checks), *fits)
    return msgspec.structs.replace(
        own,
        seconds={**own.seconds, "draft": round(sum(beside.seconds.values()), 3)},
        peak_memory_bytes=max(own.peak_memory_bytes, beside.peak_memory_bytes),
        checks=checks,
    )
