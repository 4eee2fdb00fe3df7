"""Publish: show an artefact at its destination, whole, in one step."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from common.artefacts.blobs import StoredFile
from common.artefacts.manifest import Artefact, part_key
from common.artefacts.publish import Description, Index, Publication, PublicationPlan, publish
from common.errors import Internal, OutputIncomplete
from common.outcome import Succeeded
from common.planning import PublishWork
from common.plugins import Converter
from common.spec import Destination, Progress, Target
from common.tracing import step
from common.vocabulary import Phase
from worker.stages.tools import Tools

log = logging.getLogger(__name__)


def show(work: PublishWork, artefact_id: str | None, tools: Tools) -> Succeeded:
    """Publish the artefact, with what a model server wants beside it."""
    artefact = tools.artefact(artefact_id)
    tools.attempt.progress(Progress(phase=Phase.PUBLISHING))
    if work.parted:
        return _show_each(work, artefact, tools)
    with step("publish", files=len(artefact.files), bytes=artefact.total_bytes):
        publication = publish(tools.store, _plan(work, artefact, tools), fence=tools.attempt.fence, now=tools.now)
    _tell(publication)
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


def _show_each(work: PublishWork, artefact: Artefact, tools: Tools) -> Succeeded:
    """Publish each folder of the artefact as a model of its own. What lies beside them at the destination stays."""
    shown = []
    for part in parts_of(artefact):
        tools.store.save(part)
        folder = f"{work.destination.folder}/{part.source.name}"
        described = msgspec.structs.replace(
            work,
            source=part.source,
            destination=Destination(root=work.destination.root, folder=folder),
        )
        plan = _plan(described, part, tools)
        with step("publish", files=len(part.files), bytes=part.total_bytes):
            shown.append(publish(tools.store, plan, fence=tools.attempt.fence, now=tools.now))
        _tell(shown[-1])
    return Succeeded(
        artefact=artefact.id,
        result={
            "path": str(tools.store.volume.published(work.destination.root, work.destination.folder)),
            "revision": artefact.revision,
            "licence": artefact.licence,
            "artefact": artefact.id,
            "reused": all(one.reused for one in shown),
            "bytes": sum(one.manifest.total_bytes for one in shown),
            "files": sum(len(one.manifest.files) for one in shown),
            "versions": artefact.versions,
            "models": [one.manifest.name for one in shown],
        },
    )


def _tell(publication: Publication) -> None:
    manifest = publication.manifest
    told = {"path": str(publication.path), "files": len(manifest.files), "bytes": manifest.total_bytes}
    log.info("model.kept" if publication.reused else "model.published", extra=told)


def parts_of(artefact: Artefact) -> list[Artefact]:
    """The models that one artefact holds, each in a folder that has its name. Raises OutputIncomplete."""
    files: dict[str, list[StoredFile]] = {}
    for file in artefact.files:
        name, _, path = file.path.partition("/")
        if not path:
            raise OutputIncomplete(f"{file.path} belongs to no model")
        files.setdefault(name, []).append(msgspec.structs.replace(file, path=path))
    return [
        msgspec.structs.replace(
            artefact,
            id=part_key(artefact.id, name),
            source=msgspec.structs.replace(artefact.source, name=name),
            files=tuple(held),
        )
        for name, held in sorted(files.items())
    ]


def _conversion(work: PublishWork, artefact: Artefact) -> dict[str, object]:
    if work.target is None or artefact.target is None:
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
