"""Small models in a real content store, for tests of what is done with them."""

import hashlib
from pathlib import Path

from common.artefacts.blobs import StoredFile
from common.artefacts.layout import Volume
from common.artefacts.manifest import Artefact, ArtefactStore, source_key
from common.artefacts.publish import Description, PublicationPlan
from common.spec import Destination, Digest, Manifest, RemoteFile, Source
from common.vocabulary import DigestAlgorithm, Format

FOLDER = "huggingface/org_model"


def a_store(models_dir: Path) -> ArtefactStore:
    volume = Volume(models_dir)
    volume.prepare()
    return ArtefactStore(volume)


def content_of(version: int) -> dict[str, bytes]:
    """All files of one version tell which one it is."""
    return {
        "config.json": b'{"version": %d}' % version,
        "graph.pbtxt": b"# version %d\n" % version,
        "model.bin": b"%d " % version * 50_000,
        "model.xml": b"<net version='%d'/>" % version,
        "unet/weights.bin": b"%d." % version * 10_000,
    }


def a_stored_artefact(store: ArtefactStore, files: dict[str, bytes] | None = None, *, revision: str = "c0") -> Artefact:
    content = content_of(0) if files is None else files
    remote = tuple(
        RemoteFile(path=path, size=len(data), digest=Digest(algorithm=DigestAlgorithm.SHA256, value=_sha(data)), url="")
        for path, data in content.items()
    )
    source = Source(hub="huggingface", name="org/model")
    manifest = Manifest(source=source, revision=revision, format=Format.TRANSFORMERS, files=remote)
    artefact = Artefact(
        id=source_key(manifest),
        kind="source",
        format=Format.TRANSFORMERS,
        source=source,
        revision=revision,
        licence="apache-2.0",
        files=tuple(_stored(store, path, data) for path, data in content.items()),
        created_at="2026-01-01T00:00:00+00:00",
    )
    store.save(artefact)
    return artefact


def a_plan(artefact: Artefact, folder: str = FOLDER, serving: dict[str, object] | None = None) -> PublicationPlan:
    return PublicationPlan(
        artefact=artefact,
        destination=Destination(root="", folder=folder),
        description=Description(name="org/model", hub="huggingface", serving=serving or {}),
    )


def _stored(store: ArtefactStore, path: str, data: bytes) -> StoredFile:
    file = store.volume.workspace("builder.1") / _sha(data)
    file.write_bytes(data)
    store.blobs.take(file, _sha(data))
    return StoredFile(path=path, size=len(data), sha256=_sha(data))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
