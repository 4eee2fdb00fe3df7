"""What users send themselves: an archive of a model, checked, unpacked, published, and noted as a completed job."""

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from api.uploads.archive import MOST_FILES, check_members, members_of
from api.uploads.names import UploadNames, checked_names
from common.archives import ArchiveLimits, unpack
from common.artefacts.durable import make_folder
from common.artefacts.layout import Volume
from common.artefacts.library import UPLOADED
from common.artefacts.manifest import Artefact, ArtefactStore, source_key
from common.artefacts.publish import Description, Publication, PublicationPlan, publish
from common.clock import Clock, utc_now
from common.errors import (
    DiskFull,
    IntegrityMismatch,
    ModelExists,
    OutputIncomplete,
    PublicationRefused,
    ServiceUnavailable,
    SourceUnsafe,
    UploadRefused,
    is_disk_full,
)
from common.records import NOWHERE, Origin
from common.spec import Destination, Digest, JobSpec, Manifest, Progress, RemoteFile, Source
from common.store.jobs import JobStore
from common.vocabulary import DigestAlgorithm, Format, Operation, Phase

log = logging.getLogger(__name__)

MOST_UPLOADS = 4
"""How many uploads one web process takes at once."""

_MOST_RATIO = 200
"""How many times its size a member may have when it is unpacked."""

Checkpoint = Callable[[], None]


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An archive that has come whole, and the names that came with it."""

    file: Path
    sha256: str
    model_name: str
    provider: str
    framework: str
    precision: str


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """A published upload, and the job that tells of it."""

    job_id: str
    names: UploadNames


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Takes uploads; any number of web processes may on one volume."""

    store: JobStore
    volume: Volume
    most_unpacked_bytes: int
    spare_bytes: int
    now: Clock = utc_now
    turns: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_UPLOADS))

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A place for the file of one upload, which is gone afterwards. Raises ServiceUnavailable."""
        if not self.turns.acquire(blocking=False):
            raise ServiceUnavailable("As many uploads are coming in as may at once. Try again shortly.")
        # A file, not a folder: what keeps growing is not taken for the leftover of a dead process.
        file = self.volume.work / f"upload.{uuid.uuid4().hex}.zip"
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
            self.turns.release()

    def prepare(self, size: int) -> None:
        """See to it that an upload of about this size could be stored.

        Raises ServiceUnavailable, DiskFull or PublicationRefused.
        """
        self.store.ping()
        with _disk_troubles():
            self.volume.prepare()
            self._check_room(size)

    def publish(self, upload: Upload, tenant: str, checkpoint: Checkpoint, *, origin: Origin = NOWHERE) -> Uploaded:
        """Publish an upload as a model of its own, and note a completed job. Nothing is replaced, ever.

        `checkpoint` may raise to end it, until the model is in its place. Raises UploadRefused, UploadTooLarge,
        ModelExists, PublicationRefused, DestinationOutside, DestinationInvalid or DiskFull, and leaves nothing then.
        Raises ServiceUnavailable if no job can be noted; then the model is published all the same.
        """
        members = members_of(upload.file)
        names = checked_names(upload.model_name, upload.provider, upload.framework, upload.precision)
        at = self.volume.published("", names.folder)
        _check_free(at, names)
        check_members(members, self.most_unpacked_bytes)
        with _disk_troubles():
            self._check_room(sum(member.file_size for member in members))
            publication = self._shown(upload, names, at, checkpoint)
        return Uploaded(job_id=self._noted(names, publication, tenant, origin), names=names)

    def _check_room(self, size: int) -> None:
        if shutil.disk_usage(self.volume.work).free < size + self.spare_bytes:
            raise DiskFull("The volume of the models has no room for the upload")

    def _shown(self, upload: Upload, names: UploadNames, at: Path, checkpoint: Checkpoint) -> Publication:
        folder = self.volume.work / f"upload.{uuid.uuid4().hex}"

        def go_on() -> None:
            checkpoint()
            # Nobody shall take the folder for the leftover of a dead process.
            os.utime(folder)

        def fence() -> None:
            checkpoint()
            _check_free(at, names)

        try:
            make_folder(folder)
            self._unpack(upload.file, folder, go_on)
            artefact = self._stored(upload, names, folder)
            description = Description(name=names.model_name, hub=UPLOADED)
            plan = PublicationPlan(artefact=artefact, destination=_destination(names), description=description)
            return publish(ArtefactStore(self.volume), plan, fence=fence, now=self.now)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _unpack(self, archive: Path, folder: Path, checkpoint: Checkpoint) -> None:
        limits = ArchiveLimits(most_bytes=self.most_unpacked_bytes, most_files=MOST_FILES, most_ratio=_MOST_RATIO)
        try:
            unpack(archive, folder, limits, checkpoint=checkpoint)
        except (SourceUnsafe, IntegrityMismatch) as error:
            raise UploadRefused(f"Invalid ZIP archive: {error}") from error

    def _stored(self, upload: Upload, names: UploadNames, folder: Path) -> Artefact:
        """The unpacked files as content of ours."""
        store = ArtefactStore(self.volume)
        try:
            files = store.blobs.take_folder(folder)
        except (SourceUnsafe, OutputIncomplete) as error:
            raise UploadRefused(f"Invalid ZIP archive: {error}") from error
        source = Source(hub=UPLOADED, name=names.model_name)
        manifest = Manifest(
            source=source,
            revision=upload.sha256,
            format=Format.OPENVINO,
            files=tuple(
                RemoteFile(path=file.path, size=file.size, url="", digest=_digest(file.sha256)) for file in files
            ),
        )
        artefact = Artefact(
            id=source_key(manifest),
            kind="source",
            format=Format.OPENVINO,
            source=source,
            revision=upload.sha256,
            licence=None,
            files=files,
            recipe={"provider": names.provider, "framework": names.framework, "precision": names.precision},
            created_at=self.now().isoformat(timespec="milliseconds"),
        )
        store.save(artefact)
        return artefact

    def _noted(self, names: UploadNames, publication: Publication, tenant: str, origin: Origin) -> str:
        manifest = publication.manifest
        size, count = manifest.total_bytes, len(manifest.files)
        progress = Progress(phase=Phase.DONE, bytes_done=size, bytes_total=size, files_done=count, files_total=count)
        result: dict[str, object] = {
            "path": str(publication.path),
            "revision": manifest.revision,
            "artefact": manifest.artefact,
            "reused": False,
            "bytes": size,
            "files": count,
        }
        try:
            return self.store.add_completed(_spec(names), progress, result, tenant=tenant, origin=origin)
        except ServiceUnavailable as error:
            log.warning("upload.not_noted", extra={"model": names.model_name, "path": str(publication.path)})
            raise ServiceUnavailable(
                f"Model '{names.model_name}' is published, but no job could be stored that tells of it: {error}"
            ) from error


def _spec(names: UploadNames) -> JobSpec:
    return JobSpec(
        hub=UPLOADED,
        operation=Operation.UPLOAD,
        source=Source(hub=UPLOADED, name=names.model_name),
        model_type=None,
        target=None,
        converter=None,
        destination=_destination(names),
        hub_options={},
        converter_options={},
        serving_options={},
    )


def _destination(names: UploadNames) -> Destination:
    return Destination(root="", folder=names.folder)


def _digest(sha256: str) -> Digest:
    return Digest(algorithm=DigestAlgorithm.SHA256, value=sha256)


def _check_free(at: Path, names: UploadNames) -> None:
    if os.path.lexists(at):
        raise ModelExists(
            f"Model '{names.model_name}' already exists as {names.precision} of '{names.provider}' for "
            f"'{names.framework}'. Delete it first, or choose another name."
        )


@contextmanager
def _disk_troubles() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull("The volume of the models has no room for the upload") from error
        raise PublicationRefused(f"The volume of the models cannot take the upload: {error.strerror}") from error
