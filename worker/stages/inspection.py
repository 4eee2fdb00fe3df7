"""Looks at a source before anything large is moved: which commit, which files, and whether it will do for its aim."""

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from common.artefacts.manifest import Artefact, source_key
from common.errors import DiskFull, StageError
from common.planning import Aim, FetchWork, PlanWork, ready_made_fetch
from common.plugins import ConverterPlugin, Dossier, Finding, Hub, Prediction
from common.spec import Manifest, RemoteFile
from common.tracing import step
from common.vocabulary import DigestAlgorithm
from worker.stages.data import digest_of
from worker.stages.manifests import resolve
from worker.stages.tools import Tools

log = logging.getLogger(__name__)

_LARGEST_PAPER = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a fetch will bring, and what a conversion will make of it."""

    manifest: Manifest
    finding: Finding | None = None
    prediction: Prediction | None = None
    companions: dict[str, str] = field(default_factory=dict)
    ready_made: bool = False
    """The manifest is that of a repository which holds the wanted result already."""


def inspect(work: PlanWork, tools: Tools) -> Inspection:
    """Pin the source, and judge it by its small files. Raises StageError where it will not do."""
    hub = tools.hub(work.fetch.hub)
    if work.aim is None:
        return Inspection(manifest=resolve(work.fetch, hub, tools))
    found = _find_ready_made(work.fetch, work.aim, hub, tools) or _examine(work.fetch, work.aim, hub, tools)
    _check_room(found, tools)
    return found


def bytes_to_fetch(manifest: Manifest, tools: Tools) -> int:
    """How much of a manifest the content store lacks, as far as digests and sizes tell."""
    return sum(file.size or 0 for file in manifest.files if not _is_stored(file, tools))


def dossier_of(artefact: Artefact, folder: Path, plugin: ConverterPlugin[Any]) -> Dossier:
    """The dossier of a source that lies, whole, in a folder."""
    papers = {file.path: folder / file.path for file in artefact.files if is_paper(file.path, file.size, plugin)}
    return Dossier(
        source=artefact.source,
        revision=artefact.revision,
        sizes={file.path: file.size for file in artefact.files},
        documents=_documents(papers),
    )


def _find_ready_made(fetch: FetchWork, aim: Aim, hub: Hub[Any], tools: Tools) -> Inspection | None:
    """The repository that holds the very result, if there is one and its own words prove it."""
    if aim.ready_made is None or not tools.pulls:
        return None
    try:
        found = _examine(ready_made_fetch(fetch, aim.ready_made), aim, hub, tools)
    except StageError as error:
        # To convert is always possible; a hub that is in trouble will say so again.
        log.info("pull.not_possible", extra={"repository": aim.ready_made, "reason": str(error)})
        return None
    made_of = [name.casefold() for name in found.manifest.made_of]
    if made_of != [fetch.source.name.casefold()]:
        log.info("pull.other_model", extra={"repository": aim.ready_made, "made_of": ",".join(made_of)})
        return None
    if found.finding is not None and not found.finding.certain:
        log.info("pull.untold", extra={"repository": aim.ready_made})
        return None
    return replace(found, ready_made=True)


def _examine(fetch: FetchWork, aim: Aim, hub: Hub[Any], tools: Tools) -> Inspection:
    source, plugin = fetch.source, tools.catalog.converter(aim.converter)
    options = tools.catalog.hub(fetch.hub).bind(fetch.options)
    manifest = resolve(fetch, hub, tools)
    tools.attempt.checkpoint()
    if plugin.examine is None:
        return Inspection(manifest=manifest)
    papers = _bring_papers(manifest, plugin, hub, options, tools)
    dossier = Dossier(
        source=source,
        revision=manifest.revision,
        sizes={file.path: file.size for file in manifest.files},
        documents=_documents(papers),
    )
    finding = plugin.examine(dossier, aim.target, aim.options, tools.policy(source, manifest.revision))
    path = plugin.data(finding.options) if plugin.data else None
    if path is not None:
        digest_of(tools.store.volume, path)
    target = msgspec.structs.replace(aim.target, model_type=finding.model_type)
    prediction = plugin.predict(dossier, target, finding.options) if plugin.predict else None
    companions = {folder: name for folder, name in finding.companions.items() if folder not in fetch.companions}
    if companions:
        return _examine(msgspec.structs.replace(fetch, companions=companions), aim, hub, tools)
    return Inspection(manifest=manifest, companions=fetch.companions, finding=finding, prediction=prediction)


def _bring_papers(
    manifest: Manifest, plugin: ConverterPlugin[Any], hub: Hub[Any], options: Any, tools: Tools
) -> dict[str, Path]:
    """The small files that the examination reads, and where they are."""
    papers = [file for file in manifest.files if is_paper(file.path, file.size, plugin)]
    known = tools.store.load(source_key(manifest))
    if known is not None:
        stored = {file.path: file.sha256 for file in known.files}
        return {paper.path: tools.store.blobs.path(stored[paper.path]) for paper in papers}
    with step("fetch papers", files=len(papers)):
        hub.fetch(msgspec.structs.replace(manifest, files=tuple(papers)), options, tools.attempt)
    return {paper.path: tools.attempt.workspace / paper.path for paper in papers}


def is_paper(path: str, size: int | None, plugin: ConverterPlugin[Any]) -> bool:
    """Whether the converter reads this file to judge the model."""
    return (size or 0) <= _LARGEST_PAPER and any(fnmatchcase(path, pattern) for pattern in plugin.papers)


def _documents(papers: Mapping[str, Path]) -> dict[str, object]:
    documents: dict[str, object] = {}
    for path, file in papers.items():
        with contextlib.suppress(OSError, ValueError, RecursionError):
            documents[path] = json.loads(file.read_bytes())
    return documents


def _check_room(found: Inspection, tools: Tools) -> None:
    """Refuse what cannot end well for want of disk. What else fills the volume meanwhile, nobody can know."""
    if found.prediction is None:
        return
    needed = bytes_to_fetch(found.manifest, tools) + found.prediction.output_bytes + found.prediction.scratch_bytes
    free = shutil.disk_usage(tools.store.volume.root).free - tools.attempt.limits.spare_bytes
    if needed > free:
        raise DiskFull(
            f"The model's files and what is made of them take about {needed} bytes; "
            f"the volume has {max(0, free)} to spare"
        )


def _is_stored(file: RemoteFile, tools: Tools) -> bool:
    digest = file.digest
    if digest is None or digest.algorithm is not DigestAlgorithm.SHA256:
        return False
    return tools.store.blobs.stored(digest.value, file.size) is not None
