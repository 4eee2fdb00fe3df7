"""Plan: find out what a job would do, and whether it can, before anything large is moved."""

from common.artefacts.manifest import check_published, source_key
from common.outcome import Succeeded
from common.planning import COMPANIONS, PULLED_FROM, Aim, PlanWork
from common.spec import Progress
from common.vocabulary import Phase
from worker.stages.inspection import Inspection, bytes_to_fetch, inspect
from worker.stages.tools import Tools


def foresee(work: PlanWork, tools: Tools) -> Succeeded:
    """What a job like this fetches, makes and needs. Raises what the job would fail with."""
    tools.attempt.progress(Progress(phase=Phase.RESOLVING))
    found = inspect(work, tools)
    manifest = found.manifest
    key = source_key(manifest)
    at = tools.store.volume.published(work.destination.root, work.destination.folder)
    result = {
        "revision": manifest.revision,
        "licence": manifest.licence,
        "mode": _mode(work, found),
        PULLED_FROM: manifest.source.name if found.ready_made else None,
        COMPANIONS: found.companions or None,
        "files": len(manifest.files),
        "bytes_total": manifest.total_bytes,
        "bytes_to_fetch": 0 if tools.store.load(key) else bytes_to_fetch(manifest, tools),
        "published": not check_published(at),
        **({} if work.aim is None else _conversion(work.aim, found)),
    }
    return Succeeded(artefact=key, result=result, bytes=manifest.total_bytes or 0)


def _mode(work: PlanWork, found: Inspection) -> str:
    if found.ready_made:
        return "pull"
    return "download" if work.aim is None else "convert"


def _conversion(aim: Aim, found: Inspection) -> dict[str, object]:
    told: dict[str, object] = {"precision": aim.target.precision, "device": aim.target.device}
    if found.finding is not None:
        told |= {"type": found.finding.model_type, "facts": found.finding.facts, "options": found.finding.options}
    if found.prediction is not None:
        told |= {
            "memory_peak_bytes": found.prediction.peak_memory_bytes,
            "output_bytes": found.prediction.output_bytes,
            "scratch_bytes": found.prediction.scratch_bytes,
        }
    return told
