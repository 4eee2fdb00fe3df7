"""Publish: show an artefact at its destination, whole, in one step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from common.artefacts.manifest import Artefact
from common.artefacts.publish import Description, Index, PublicationPlan, publish
from common.errors import Internal
from common.outcome import Succeeded
from common.planning import PublishWork
from common.plugins import Converter
from common.spec import Progress, Target
from common.vocabulary import Phase
from worker.stages.tools import Tools


def show(work: PublishWork, artefact_id: str | None, tools: Tools) -> Succeeded:
    """Publish the artefact, with what a model server wants beside it."""
    artefact = tools.artefact(artefact_id)
    tools.attempt.progress(Progress(phase=Phase.PUBLISHING))
    publication = publish(tools.store, _plan(work, artefact, tools), fence=tools.attempt.fence, now=tools.now)
    return Succeeded(
        artefact=artefact.id,
        result={
            "path": str(publication.path),
            "revision": artefact.revision,
            "licence": artefact.licence,
            "artefact": artefact.id,
            "reused": publication.reused,
            "bytes": publication.manifest.total_bytes,
            "files": len(publication.manifest.files),
            "versions": artefact.versions,
            **_conversion(work, artefact),
        },
    )


def _conversion(work: PublishWork, artefact: Artefact) -> dict[str, object]:
    if artefact.target is None:
        return {}
    pulled = artefact.source.name != work.source.name
    return {
        "type": artefact.target.model_type,
        "mode": "pull" if pulled else "convert",
        "pulled_from": artefact.source.name if pulled else None,
        "evidence": msgspec.to_builtins(artefact.evidence),
    }


def _plan(work: PublishWork, artefact: Artefact, tools: Tools) -> PublicationPlan:
    target = _target(work, artefact)
    description = Description(
        name=work.source.name,
        hub=work.hub,
        requested_revision=work.source.revision,
        model_type=target.model_type if target else None,
        target=target,
        serving=work.serving,
    )
    plan = PublicationPlan(artefact=artefact, destination=work.destination, description=description)
    if work.converter is None or target is None:
        return plan
    converter = tools.converter(work.converter, artefact.source, artefact.revision)
    return _served(plan, converter, target, work)


def _target(work: PublishWork, artefact: Artefact) -> Target | None:
    """The target, with the type that the model turned out to have."""
    if work.target is None or artefact.target is None:
        return work.target
    return msgspec.structs.replace(work.target, model_type=artefact.target.model_type)


def _served(plan: PublicationPlan, converter: Converter[Any], target: Target, work: PublishWork) -> PublicationPlan:
    """A plan whose publication a model server can open: files beside the model, an entry in the folder's index."""
    model = work.source.name
    suffix = f"/{model}"
    if not work.destination.folder.endswith(suffix):
        raise Internal(f"{work.destination.folder} is not a folder of {model}")

    def dress(folder: Path) -> None:
        converter.serve(folder, model, target, work.serving)

    def update(folder: Path) -> None:
        converter.register(folder, model)

    index = Index(folder=work.destination.folder.removesuffix(suffix), update=update)
    return replace(plan, dress=dress, index=index)
