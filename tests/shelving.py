"""Does the stages of a job as a worker would, down to the real publication, with files that a test has made up."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from common.artefacts.blobs import StoredFile
from common.artefacts.layout import Volume
from common.artefacts.manifest import Artefact, ArtefactStore
from common.outcome import Succeeded
from common.planning import PublishWork
from common.records import Claim
from common.spec import Source
from common.vocabulary import Format, Pool, StageKind
from tests.stage_chain import Offer, tools_for
from tests.web import OWNER, Web
from worker.stages.publish import show

_OFFER = Offer(hub="common.catalog.huggingface:HUGGINGFACE", converter="common.catalog.openvino:OPENVINO", settings={})
FILES = {"config.json": b"{}", "model.safetensors": b"weights " * 1000}


def bring(service: Web, *, revision: str = "c0", files: Mapping[str, bytes] = FILES) -> str:
    """Do the oldest job that waits, to its end. Where it published."""
    volume = Volume(service.models_dir)
    volume.prepare()
    store = ArtefactStore(volume)
    while True:
        claim = claimed(service)
        if claim.kind is StageKind.PUBLISH:
            tools = tools_for(_OFFER, volume, f"{claim.stage_id}.1")
            done = show(msgspec.convert(claim.work, PublishWork), claim.input, tools)
        elif claim.kind is StageKind.FETCH:
            done = Succeeded(artefact=_stored(store, msgspec.convert(claim.work["source"], Source), revision, files))
        else:
            assert claim.kind is StageKind.PLAN
            done = Succeeded(result={})
        assert service.stages.settle(claim, done) is not None
        if claim.kind is StageKind.PUBLISH:
            return str(done.result["path"])


def claimed(service: Web) -> Claim:
    claim = service.stages.claim(Pool.DOWNLOAD, OWNER)
    assert claim is not None
    return claim


def _stored(store: ArtefactStore, source: Source, revision: str, files: Mapping[str, bytes]) -> str:
    artefact = Artefact(
        id=f"source-{_sha(repr((source, revision, sorted(files.items()))).encode())[:32]}",
        kind="source",
        format=Format.TRANSFORMERS,
        source=source,
        revision=revision,
        licence=None,
        files=tuple(_file(store, path, data) for path, data in files.items()),
        created_at="2026-01-01T00:00:00+00:00",
    )
    store.save(artefact)
    return artefact.id


def _file(store: ArtefactStore, path: str, data: bytes) -> StoredFile:
    file = store.volume.workspace("builder.1") / _sha(data)
    file.write_bytes(data)
    store.blobs.take(file, _sha(data))
    return StoredFile(path=path, size=len(data), sha256=_sha(data))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def a_wish(name: str = "org/a", **more: Any) -> dict[str, Any]:
    return {"name": name, "hub": "huggingface", **more}
