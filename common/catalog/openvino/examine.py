"""Judges a source by its small files: what it is, what will convert it, and whether the operator lets it."""

from collections.abc import Mapping

import msgspec

from common.catalog.openvino.capabilities import route
from common.catalog.openvino.detection import Nature, detect
from common.catalog.openvino.drafts import DRAFT_FOLDER, examine_draft, part_draft
from common.catalog.openvino.ready_made import is_untold, precision_told
from common.catalog.openvino.rules import complete
from common.catalog.openvino.weights import is_pickled
from common.errors import InvalidParameters, InvalidSpec, PickleRefused, RemoteCodeRefused
from common.plugins import Dossier, Finding, Policy
from common.spec import Target
from common.vocabulary import ModelType, Precision

VOCODER_FOLDER = "vocoder"
_USUAL_VOCODER = "microsoft/speecht5_hifigan"

_AUTO = "auto"
_WITHOUT_CONVOLUTIONS = frozenset({ModelType.LLM, ModelType.EMBEDDINGS, ModelType.RERANK})
_FORMS_WITHOUT_WORK = frozenset({"openvino", "gguf"})


def examine(dossier: Dossier, target: Target, options: Mapping[str, object], policy: Policy) -> Finding:
    """Find out whether and how this source becomes the target.

    Raises UnsupportedModel, RemoteCodeRefused, PickleRefused or InvalidParameters.
    """
    dossier, draft = part_draft(dossier, options)
    nature = detect(dossier, target.model_type)
    _refuse_danger(nature, dossier, options, policy)
    try:
        recipe = complete(nature.model_type, target.device == "NPU", dict(options))
    except InvalidSpec as error:
        raise InvalidParameters(str(error)) from error
    if recipe.get("verify") and nature.form in _FORMS_WITHOUT_WORK:
        raise InvalidParameters("'verify' compares with the model that the conversion is made of, and here is none")
    if target.precision is Precision.MXFP4 and nature.model_type not in _WITHOUT_CONVOLUTIONS:
        raise InvalidParameters(f"'{target.precision}' is not for type '{nature.model_type}': it knows no convolutions")
    facts = {"architecture": nature.architecture, "form": nature.form}
    told = precision_told(dossier) if nature.form == "openvino" else None
    if told is not None:
        facts["precision"] = told
        if told is not target.precision:
            raise InvalidParameters(
                f"'{dossier.source.name}' holds a model that is converted already, in {told}, not {target.precision}",
                hint=f"Ask for the precision '{told}', or name the repository of the original model.",
            )
    if nature.form not in _FORMS_WITHOUT_WORK:
        task, asked = recipe.get("task"), recipe.get("profile")
        recipe["task"] = nature.task if task in {None, _AUTO} else task
        recipe["library"] = recipe.get("library") or nature.library
        wanted = msgspec.structs.replace(nature, task=str(recipe["task"]), library=str(recipe["library"]))
        recipe["profile"] = route(wanted, None if asked is None else str(asked), policy.profiles)
        facts |= {name: str(recipe[name]) for name in ("task", "library", "profile")}
    companions = _companions(nature, dossier, recipe)
    if draft is not None:
        facts["draft"] = examine_draft(draft, dossier, recipe, policy)
    certain = nature.form != "openvino" or not is_untold(dossier)
    return Finding(model_type=nature.model_type, options=recipe, companions=companions, facts=facts, certain=certain)


def _companions(nature: Nature, dossier: Dossier, recipe: dict[str, object]) -> dict[str, str]:
    """A SpeechT5 makes spectrograms: what turns them into sound is a model of its own. So is a draft."""
    if "draft_source_model" in recipe:
        return {DRAFT_FOLDER: str(recipe["draft_source_model"])}
    if not _has_vocoder(nature):
        return {}
    if f"{VOCODER_FOLDER}/config.json" in dossier.sizes:
        return {}
    return {VOCODER_FOLDER: str(recipe.get("vocoder") or _USUAL_VOCODER)}


def _refuse_danger(nature: Nature, dossier: Dossier, options: Mapping[str, object], policy: Policy) -> None:
    name = dossier.source.name
    if nature.brings_code is not None and not policy.code:
        raise RemoteCodeRefused(
            f"'{name}' brings its own Python code ({nature.brings_code}), which is not run here",
            hint=f"An operator can allow it with MODELFERRY_TRUST_REMOTE_CODE={name}@{dossier.revision}.",
        )
    if options.get("trust_remote_code") and not policy.code:
        raise RemoteCodeRefused(f"The request wants the code of '{name}' to run, and the operator does not allow that")
    # A companion is read by the same process, so it is held to the same rule.
    vocoder = _has_vocoder(nature) and is_pickled(dossier, VOCODER_FOLDER)
    if (nature.pickled or vocoder) and not policy.pickles:
        whose = f"'{name}'" if nature.pickled else f"the vocoder of '{name}'"
        raise PickleRefused(f"The weights of {whose} are pickles, which can run code when they are read")


def _has_vocoder(nature: Nature) -> bool:
    return nature.architecture == "speecht5" and nature.model_type is ModelType.TEXT2SPEECH
