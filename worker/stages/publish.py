"""Publish: show an artefact at its destination, whole, in one step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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
        },
    )


def _plan(work: PublishWork, artefact: Artefact, tools: Tools) -> PublicationPlan:
    description = Description(
        name=work.source.name,
        hub=work.hub,
        requested_revision=work.source.revision,
        model_type=work.target.model_type if work.target else None,
        target=work.target,
        serving=work.serving,
    )
    plan = PublicationPlan(artefact=artefact, destination=work.destination, description=description)
    if work.converter is None or work.target is None:
        return plan
    return _served(plan, tools.converter(work.converter, work.source), work.target, work)


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
