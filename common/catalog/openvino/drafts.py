"""Draft models: a smaller language model that guesses ahead for the one that is served (speculative decoding)."""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from common.catalog.openvino.capabilities import DEFAULT, route
from common.catalog.openvino.detection import detect
from common.catalog.openvino.weights import has_ir, model_weights
from common.errors import (
    InvalidParameters,
    InvalidSpec,
    PickleRefused,
    RemoteCodeRefused,
    StageError,
    UnsupportedModel,
)
from common.plugins import Dossier, Policy
from common.vocabulary import ModelType

DRAFT_FOLDER = "draft_model"
"""Where a draft is fetched to, below the source. In the result it has a folder of its own name."""

_PREFIX = f"{DRAFT_FOLDER}/"


def settle_draft(recipe: dict[str, object]) -> dict[str, object]:
    """A recipe that names the folder of its draft only where it is not the usual one. Raises InvalidSpec."""
    if "draft_source_model" not in recipe:
        for name in sorted(recipe.keys() & {"draft_eagle3_mode", "draft_model_name"}):
            raise InvalidSpec(f"'{name}' is about a draft model, and 'draft_source_model' names none")
        return recipe
    if "quant_mode" in recipe:
        raise InvalidSpec(
            "'draft_source_model' and 'quant_mode' exclude each other: a draft has its weights compressed only"
        )
    if "disable_convert_tokenizer" in recipe:
        raise InvalidSpec("'draft_source_model' needs tokenizers, to tell whether the draft has the model's own")
    others = {key: value for key, value in recipe.items() if key != "draft_model_name"}
    own = draft_folder(recipe)
    return others if own == draft_folder(others) else {**others, "draft_model_name": own}


def draft_folder(recipe: Mapping[str, object]) -> str | None:
    """The folder of the draft below the model, as Intel's script names it; None where there is no draft."""
    name = recipe.get("draft_model_name") or recipe.get("draft_source_model")
    return None if name is None else str(name).replace("/", "-")


def served_draft(recipe: Mapping[str, object]) -> dict[str, object]:
    """What the model server is told about the draft."""
    folder = draft_folder(recipe)
    eagle = recipe.get("draft_eagle3_mode")
    return {"draft_models_path": None if folder is None else f"./{folder}", "draft_eagle3_mode": eagle}


def with_those_of_drafts(papers: Sequence[str]) -> tuple[str, ...]:
    """The patterns of the small files that tell what a model is, and the same of its draft."""
    return (*papers, *(f"{_PREFIX}{paper}" for paper in papers))


def part_draft(dossier: Dossier, recipe: Mapping[str, object]) -> tuple[Dossier, Dossier | None]:
    """What is known of the model itself, and of its draft where one is wanted and part of the source already."""
    if recipe.get("draft_source_model") is None:
        return dossier, None
    sizes = {path.removeprefix(_PREFIX): size for path, size in dossier.sizes.items() if path.startswith(_PREFIX)}
    if not sizes:
        return dossier, None
    papers = {
        path.removeprefix(_PREFIX): paper for path, paper in dossier.documents.items() if path.startswith(_PREFIX)
    }
    own_sizes = {path: size for path, size in dossier.sizes.items() if not path.startswith(_PREFIX)}
    own_papers = {path: paper for path, paper in dossier.documents.items() if not path.startswith(_PREFIX)}
    own = msgspec.structs.replace(dossier, sizes=own_sizes, documents=own_papers)
    return own, msgspec.structs.replace(dossier, sizes=sizes, documents=papers)


def examine_draft(draft: Dossier, model: Dossier, recipe: Mapping[str, object], policy: Policy) -> str:
    """What a draft is, if it will do. Its code never runs: what an operator allows is said of the model's own.

    Raises UnsupportedModel, RemoteCodeRefused, PickleRefused or InvalidParameters.
    """
    try:
        if _is_of_eagle(draft):
            return _examine_eagle(draft, model, recipe, policy)
        return _examine_plain(draft, recipe, policy)
    except StageError as error:
        name = recipe["draft_source_model"]
        raise type(error)(f"The draft model '{name}': {error}", hint=error.advice) from error


_EAGLE = frozenset({"LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM"})
"""The classes that optimum-intel brings its own code for."""
_SEEING = frozenset({"qwen2_vl", "qwen3_vl"})
_PICKLED = "Its weights are pickles, which can run code when they are read"


def _examine_plain(draft: Dossier, recipe: Mapping[str, object], policy: Policy) -> str:
    if recipe.get("draft_eagle3_mode"):
        raise InvalidParameters("It is no draft of EAGLE-3", hint="Leave out 'draft_eagle3_mode'.")
    nature = detect(draft, ModelType.LLM)
    if nature.brings_code is not None:
        raise RemoteCodeRefused(f"It brings its own Python code ({nature.brings_code}), which is not run here")
    if nature.pickled and not policy.pickles:
        raise PickleRefused(_PICKLED)
    if nature.form == "transformers":
        profile = recipe.get("profile")
        route(nature, None if profile is None else str(profile), policy.profiles)
    return nature.architecture


def _examine_eagle(draft: Dossier, model: Dossier, recipe: Mapping[str, object], policy: Policy) -> str:
    if not recipe.get("draft_eagle3_mode"):
        raise InvalidParameters("It is a draft of EAGLE-3", hint='Say "draft_eagle3_mode": true beside it.')
    if recipe.get("profile") not in {None, DEFAULT}:
        raise UnsupportedModel(f"Drafts of EAGLE-3 are converted in profile '{DEFAULT}' only")
    own, whole = _config(draft), _config(model)
    if own.get("model_type") != "llama" or own.get("modal_type") == "VLM" or own.get("target_model_type") in _SEEING:
        raise UnsupportedModel("It guesses ahead for another kind of model than one that reads texts only")
    if not has_ir(draft) and model_weights(draft).pickled and not policy.pickles:
        raise PickleRefused(_PICKLED)
    fits = {"vocab_size": own.get("vocab_size"), "hidden_size": own.get("target_hidden_size", own.get("hidden_size"))}
    for name, wanted in fits.items():
        if isinstance(whole.get(name), int) and whole[name] != wanted:
            raise UnsupportedModel(f"It was made for another model: one whose {name} is {wanted}, not {whole[name]}")
    return "eagle3"


def _is_of_eagle(draft: Dossier) -> bool:
    classes = _config(draft).get("architectures")
    return isinstance(classes, list) and bool(classes) and classes[0] in _EAGLE


def _config(dossier: Dossier) -> Mapping[str, object]:
    config = dossier.documents.get("config.json")
    return cast("Mapping[str, object]", config) if isinstance(config, dict) else {}
