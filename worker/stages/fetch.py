"""Fetch: bring a source into the content store."""

import logging
from pathlib import Path

import msgspec

from common.artefacts.blobs import BlobStore, StoredFile
from common.artefacts.manifest import Artefact, source_key
from common.errors import IntegrityMismatch, OutputIncomplete
from common.outcome import Succeeded
from common.planning import FACTS, FetchWork
from common.spec import Manifest, Progress, RemoteFile, check_distinct, check_file_path
from common.tracing import step
from common.vocabulary import DigestAlgorithm, Phase
from worker.stages.manifests import resolve
from worker.stages.tools import Tools

log = logging.getLogger(__name__)


def fetch(work: FetchWork, tools: Tools) -> Succeeded:
    """Pin the source, fetch what the store lacks, and record the artefact."""
    attempt = tools.attempt
    attempt.progress(Progress(phase=Phase.RESOLVING))
    hub = tools.hub(work.hub)
    options = tools.catalog.hub(work.hub).bind(work.options)
    manifest = resolve(work, hub, tools)
    attempt.checkpoint()
    log.info("source.resolved", extra=_told(manifest))
    key = source_key(manifest)
    artefact = tools.store.load(key)
    reused = artefact is not None
    if artefact is None:
        with step("fetch", hub=work.hub, files=len(manifest.files), bytes=manifest.total_bytes):
            left = hub.fetch(manifest, options, attempt)
        with step("verify"):
            artefact = _record(key, manifest, left, tools)
            tools.store.save(artefact)
    resumed = attempt.last.bytes_resumed if attempt.last else 0
    size, count = artefact.total_bytes, len(artefact.files)
    log.info(
        "source.reused" if reused else "source.fetched", extra={"files": count, "bytes": size, "resumed_bytes": resumed}
    )
    attempt.progress(_all_there(artefact, bytes_resumed=artefact.total_bytes if reused else resumed))
    result = {"revision": manifest.revision, "reused": reused, FACTS: manifest.facts}
    return Succeeded(artefact=key, result=result, bytes=artefact.total_bytes)


def _told(manifest: Manifest) -> dict[str, object]:
    """What of a manifest is for the log. Where the hub does not tell all sizes, nobody knows their sum."""
    sizes = [file.size for file in manifest.files]
    known = sum(size for size in sizes if size is not None)
    return {
        "revision": manifest.revision,
        "files": len(sizes),
        "bytes": known if None not in sizes else "an unknown number of",
        "licence": manifest.licence or "",
    }


def _record(key: str, manifest: Manifest, left: tuple[str, ...] | None, tools: Tools) -> Artefact:
    workspace, blobs = tools.attempt.workspace, tools.store.blobs
    files = tuple(_stored(file, workspace, blobs) for file in _files(manifest, left))
    return Artefact(
        id=key,
        kind="source",
        format=manifest.format,
        source=manifest.source,
        revision=manifest.revision,
        licence=manifest.licence,
        files=files,
        companions=manifest.companions,
        created_at=tools.now().isoformat(),
    )


def _files(manifest: Manifest, left: tuple[str, ...] | None) -> list[RemoteFile]:
    """What is to be stored: the manifest's files, or what the hub has made of them, of which nothing was promised."""
    if left is None:
        return list(manifest.files)
    if not left:
        raise OutputIncomplete("The hub plugin left no file")
    promised = {file.path: file for file in manifest.files}
    unknown = RemoteFile(path="", size=None, digest=None, url="")
    check_distinct([check_file_path(path) for path in left])
    return [promised.get(path) or msgspec.structs.replace(unknown, path=path) for path in sorted(left)]


def _stored(file: RemoteFile, folder: Path, blobs: BlobStore) -> StoredFile:
    """The content that a hub has brought, as the store names it."""
    path = folder / file.path
    if not path.is_file():
        raise OutputIncomplete(f"The hub plugin did not bring {file.path}")
    size = path.stat().st_size
    if file.size is not None and file.size != size:
        raise IntegrityMismatch(f"{file.path} has {size} bytes; the hub promised {file.size}")
    promised = file.digest.value if file.digest and file.digest.algorithm is DigestAlgorithm.SHA256 else None
    if promised:
        kept = blobs.stored(promised, size)
        if kept is not None and kept.samefile(path):
            # The very file that was verified on its way in: no second look at gigabytes.
            return StoredFile(path=file.path, size=size, sha256=promised)
    sha256 = blobs.take_unverified(path)
    if promised not in {None, sha256}:
        raise IntegrityMismatch(f"{file.path} has sha256 {sha256}; the hub promised {promised}")
    return StoredFile(path=file.path, size=size, sha256=sha256)


def _all_there(artefact: Artefact, *, bytes_resumed: int) -> Progress:
    total, count = artefact.total_bytes, len(artefact.files)
    return Progress(
        phase=Phase.DONE,
        bytes_done=total,
        bytes_total=total,
        files_done=count,
        files_total=count,
        bytes_resumed=bytes_resumed,
    )
